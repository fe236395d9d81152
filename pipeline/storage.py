"""Files that appear whole or not at all, and one writer a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError


@contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on a clean exit it is on disk and bears the final name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        with scratch.open("rb") as stream:
            os.fsync(stream.fileno())
        scratch.replace(target)
        sync_folder(target.parent)
    finally:
        scratch.unlink(missing_ok=True)


def publish_text(target: Path, text: str) -> None:
    """Write a text file whole."""
    with publishing(target) as scratch:
        scratch.write_text(text, encoding="utf-8")


def sync_folder(folder: Path) -> None:
    """Have a folder's names on disk, where its file system can promise that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def single_writer(folder: Path, *, doing: str, flag: str) -> Iterator[None]:
    """Hold the folder's lock; the lock goes with the process, however it ends.

    Raises
    ------
    UserError
        If another process holds it, or the folder cannot be made; ``flag`` is what names another folder.
    """
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
def no_writer(folder: Path) -> Iterator[None]:
    """Keep writers out of a folder while it is read, if it has a lock; nothing is written.

    Raises
    ------
    UserError
        If a writer holds it.
    """
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


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that may not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
