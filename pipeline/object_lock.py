"""One writer a folder of an object store: an object made only where there is none, and renewed while it is held.

A disk's lock goes with its process. An object stays, so it says who made it and when that was last renewed: one of a
process of this machine that is gone, and one that was not renewed for some minutes, is taken over. Whoever could not
renew his own in that time must take it for lost, and writes no more; nor do workers that write for him.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from upath import UPath

from pipeline.errors import UserError

RENEWED_EVERY_S = 30.0
STALE_AFTER_S = 300.0  # much more than clocks of two machines differ
LOST_AFTER_S = 200.0  # stops writing well before another may take over

Result = TypeVar("Result")

_held: dict[str, _Lock] = {}


@dataclass(frozen=True, kw_only=True)
class Lent:
    """What another process needs to know of a lock that it writes under."""

    file: UPath
    token: str


_lent: ContextVar[Lent | None] = ContextVar("_lent", default=None)  # a worker may have several threads


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
    """Refuse to write where this process, or the one that it works for, had a lock and lost it.

    Raises
    ------
    UserError
        If it did.
    """
    lost = [lock.file for lock in list(_held.values()) if _guards(lock.file, target) and lock.is_lost]
    lent = _lent.get()
    if lent is not None and _guards(lent.file, target) and not _is_still(lent):
        lost.append(lent.file)
    if lost:
        raise UserError(f"{lost[0]} could not be renewed and may be another process's; run the same command again")


def lend(target: Path | UPath) -> Lent | None:
    """What a worker must know of this process's lock in order to write a file; none where it has none."""
    held = (lock for lock in list(_held.values()) if _guards(lock.file, target))
    return next((Lent(file=lock.file, token=lock.token) for lock in held), None)


def work_under(lent: Lent | None, function: Callable[..., Result], *args: Any) -> Result:
    """Call a function, in a worker, that writes only as long as the lock is held by who lent it."""
    before = _lent.set(lent)
    try:
        return function(*args)
    finally:
        _lent.reset(before)


def _guards(lock: UPath, target: Path | UPath) -> bool:
    """Tell whether a file is under a lock: the lock of SET/.build is that of all in SET, be that a whole bucket."""
    return str(target).startswith(f"{str(lock.parent.parent).rstrip('/')}/")


def _is_still(lent: Lent) -> bool:
    """Look whether who lent a lock has it, and renewed it not long ago."""
    told = _read(lent.file)
    renewed = told.get("renewed")
    recent = isinstance(renewed, float) and time.time() - renewed <= LOST_AFTER_S
    return recent and told.get("token") == lent.token


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
