"""One writer a folder of an object store: an object made only where there is none, and renewed while it is held.

A disk's lock goes with its process. An object stays, so it says who made it and when that was last renewed: one of a
process of this machine that is gone, and one that was not renewed for some minutes, is taken over. Whoever could not
renew his own in that time must take it for lost, and writes no more.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from pipeline.errors import UserError

RENEWED_EVERY_S = 30.0
STALE_AFTER_S = 300.0  # much more than clocks of two machines differ
LOST_AFTER_S = 200.0  # stops writing well before another may take over

_held: dict[str, _Lock] = {}


class _Lock:
    """A lock object that this process made."""

    def __init__(self, file: UPath) -> None:
        self.file = file
        self.token = uuid.uuid4().hex
        self.renewed_s = time.monotonic()
        self.taken = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def content(self) -> bytes:
        told = {"host": _here(), "pid": os.getpid(), "renewed": time.time(), "token": self.token}
        return json.dumps(told).encode()

    @property
    def is_lost(self) -> bool:
        return self.taken or time.monotonic() - self.renewed_s > LOST_AFTER_S

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # else it is stale in some minutes
            if not self.is_lost and _read(self.file).get("token") == self.token:
                self.file.fs.rm_file(self.file.path)

    def _keep(self) -> None:
        while not self._end.wait(RENEWED_EVERY_S) and not self.is_lost:
            with contextlib.suppress(Exception):  # a store may be away for a while
                self.renew()

    def renew(self) -> None:
        began_s = time.monotonic()
        if _read(self.file).get("token") != self.token:
            self.taken = True
            return
        self.file.fs.pipe_file(self.file.path, self.content())
        self.renewed_s = began_s


@contextmanager
def held(file: UPath, *, doing: str, flag: str) -> Iterator[None]:
    """Hold a lock.

    Raises
    ------
    UserError
        If another process holds it.
    """
    lock = _Lock(file)
    told = f"another process is {doing}; wait for it, or choose another {flag}"
    if str(file) in _held:
        raise UserError(told)
    if not (_make(lock) or _take_over(lock)):
        raise UserError(told)
    _held[str(file)] = lock
    lock.begin()
    try:
        yield
    finally:
        del _held[str(file)]
        lock.end()


def is_held(file: UPath) -> bool:
    """Tell whether another process holds a lock."""
    return _is_live(_read(file))


def require_held(target: Path | UPath) -> None:
    """Refuse to write where this process had a lock and lost it.

    Raises
    ------
    UserError
        If it did.
    """
    for lock in list(_held.values()):
        if lock.is_lost and str(target).startswith(f"{lock.file.parent.parent}/"):
            raise UserError(
                f"{lock.file} could not be renewed and may be another process's; run the same command again"
            )


def _make(lock: _Lock) -> bool:
    """Make a lock where there is none."""
    try:
        lock.file.fs.pipe_file(lock.file.path, lock.content(), mode="create")
    except FileExistsError:
        return False
    lock.renewed_s = time.monotonic()
    return True


def _take_over(lock: _Lock) -> bool:
    """Put a lock in place of a stale one, unless another process is faster."""
    try:
        match = _match(lock.file)  # before it is read: what is replaced is what was read, or nothing
        if _is_live(_read(lock.file)):
            return False
        lock.file.fs.pipe_file(lock.file.path, lock.content(), **match)
    except OSError:  # it was released or taken meanwhile
        return False
    lock.renewed_s = time.monotonic()
    return _read(lock.file).get("token") == lock.token


def _match(file: UPath) -> dict[str, str]:
    """Condition that the object is still this one; none for stores where we know no such word."""
    return {"IfMatch": file.fs.info(file.path)["ETag"]} if file.protocol in ("s3", "s3a") else {}


def _read(file: UPath) -> dict[str, Any]:
    """What a lock says; nothing if there is none, or it is no lock of this program's."""
    try:
        told = json.loads(file.fs.cat_file(file.path))
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _is_live(told: dict[str, Any]) -> bool:
    renewed, pid = told.get("renewed"), told.get("pid")
    if not isinstance(renewed, float) or not isinstance(pid, int):
        return False
    if abs(time.time() - renewed) > STALE_AFTER_S:
        return False
    return told.get("host") != _here() or _runs(pid)


def _here() -> str:
    """Name of this machine, and of the space that its process numbers count in: containers may share a name."""
    space = "/proc/self/ns/pid"
    return f"{socket.gethostname()} {os.readlink(space) if os.path.exists(space) else ''}"  # noqa: PTH110, PTH115


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
