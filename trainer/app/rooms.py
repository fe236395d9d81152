"""A private folder for a server's files, gone when it ends; what a killed server left is removed by the next one."""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import UserError, one_line

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system calls a disk, or a share of it, that is full."""
LOCK = "lock"  # held for as long as the server lives, whatever ends it


@contextmanager
def private_folder(scratch: str | None) -> Iterator[Path]:
    """Make a folder that only this user may enter, and remove it at the end.

    Raises
    ------
    UserError
        If it cannot be made, or somebody else made its parent.
    """
    root = Path(scratch or tempfile.gettempdir()).absolute() / f"music-video-emotion-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise UserError(f"{root} is not a folder of yours alone; remove it, or give another --scratch")
        with (root / LOCK).open("w") as turns:
            fcntl.flock(turns, fcntl.LOCK_EX)  # two servers that start at once take turns
            _remove_leftovers(root)
            own = Path(tempfile.mkdtemp(dir=root, prefix="server-"))
            lock = (own / LOCK).open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(f"--scratch {root.parent}: {one_line(error)}") from None
    with lock:
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    for folder in root.glob("server-*"):
        try:
            with (folder / LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its server lives
        except FileNotFoundError:
            pass  # killed before it had one
        shutil.rmtree(folder, ignore_errors=True)
