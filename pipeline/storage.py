"""Files that appear whole or not at all, and one writer a folder."""

from __future__ import annotations

import fcntl
import os
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
    finally:
        scratch.unlink(missing_ok=True)


def publish_text(target: Path, text: str) -> None:
    """Write a text file whole."""
    with publishing(target) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextmanager
def single_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = f"another process is building {folder.parent}"
            raise UserError(f"{what}; wait for it, or choose another --out") from error
        yield
