"""One writer a folder: a lock of the disk's own, or an object in a store."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import object_lock
from pipeline.errors import UserError
from pipeline.locations import Folder


@contextmanager
def single_writer(folder: Folder, *, doing: str, flag: str) -> Iterator[None]:
    """Hold the folder's lock; the lock goes with the process, however it ends.

    In a store that is an object, and goes some minutes after a process that was killed on another machine.

    Raises
    ------
    UserError
        If another process holds it, or the folder cannot be made; ``flag`` is what names another folder.
    """
    if not isinstance(folder, Path):
        with object_lock.held(folder / "lock", doing=doing, flag=flag):
            yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; mend that, or choose another {flag}") from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is {doing}; wait for it, or choose another {flag}") from error
        yield


@contextmanager
def no_writer(folder: Folder) -> Iterator[None]:
    """Keep writers out of a folder while it is read, if it has a lock; nothing is written.

    In a store it is only looked whether there is a writer.

    Raises
    ------
    UserError
        If a writer holds it.
    """
    if not isinstance(folder, Path):
        if object_lock.is_held(folder / "lock"):
            raise UserError(f"another process is writing {folder.parent}; wait for it")
        yield
        return
    try:
        lock = (folder / "lock").open()
    except OSError:  # a copy, or a set that nobody can write
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing {folder.parent}; wait for it") from error
        yield
