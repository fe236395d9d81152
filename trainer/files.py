"""Small files that a power cut leaves as they were or as they should be, never in between.

Files that belong together appear together, and replace those of an earlier command, but never what others put there. By
what a folder is known as ours, each command says itself: its mark, one of the files, which goes first and comes last.
Between, while files are renamed, ``.unfinished/.ours`` says so.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from trainer.errors import UserError

UNFINISHED = ".unfinished"
NOTE = ".ours"
"""In the folder above, for as long as it stands: it comes first and goes last."""
MAKING, PUBLISHING = "files are being made\n", "files are being renamed\n"


def write_text(path: Path, text: str) -> None:
    """Write a file under a hidden name, and give it its own when the disk holds it."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    flush(temporary)
    temporary.replace(path)


def require_folder(out: Path) -> None:
    """Refuse a place where no folder can be, before anything is computed.

    Raises
    ------
    UserError
        If a file stands there or above, or nothing can be written there.
    """
    standing = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not standing.is_dir():
        raise UserError(f"--out {out}: {standing} is no folder; name another")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"--out {out}: nothing can be written to {standing}; name another folder")


def require_own(out: Path, names: Collection[str], *, mark: Callable[[Path], bool], by: str) -> None:
    """Refuse to replace what an earlier command did not write, before anything is computed.

    Parameters
    ----------
    names
        Files that will be replaced, or will go.
    mark
        Tells whether the folder bears the mark of such a command.
    by
        The command, for the refusal.

    Raises
    ------
    UserError
        If one of the names, or what ``together`` needs, is of others.
    """
    if _is_foreign(out / UNFINISHED):
        raise UserError(f"--out {out}: {out / UNFINISHED} is not of {by}; move it away, or name another folder")
    ours = is_publishing(out) or mark(out)
    for name in names:
        path = out / name
        if os.path.lexists(path) and (not ours or (path.is_dir() and not path.is_symlink())):
            raise UserError(
                f"--out {out}: {path} is not of {by}, and would be lost; move it away, or name another folder"
            )


def is_publishing(folder: Path) -> bool:
    """Tell whether ``together`` was killed there while it renamed files: their names are ours, the mark is missing."""
    try:
        return (folder / UNFINISHED / NOTE).read_text(encoding="utf-8") == PUBLISHING
    except (OSError, UnicodeDecodeError):
        return False


def says(path: Path, *keys: str) -> bool:
    """Tell whether a file holds a JSON object with these keys."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and set(keys) <= set(told)


@contextlib.contextmanager
def together(folder: Path, names: Collection[str], *, last: str) -> Iterator[Path]:
    """Give a place to write files to that then appear in ``folder``, all of them or none.

    Where ``last`` stands, the others belong to it: it goes first and comes last. Those of ``names`` that were not
    written anew go too: ``require_own`` first. What is broken off between two renames is known by ``is_publishing``.
    """
    temporary, whole = folder / UNFINISHED, False
    if not _is_foreign(temporary):
        _clear(temporary)
    temporary.mkdir(parents=True)
    try:
        (temporary / NOTE).write_text(MAKING)
        yield temporary
        made = sorted((path for path in temporary.iterdir() if path.name != NOTE), key=lambda path: path.name == last)
        for path in made:
            flush(path)
        write_text(temporary / NOTE, PUBLISHING)
        flush(temporary)
        for name in (last, *names):
            (folder / name).unlink(missing_ok=True)
        for path in made:
            path.replace(folder / path.name)
        flush(folder)
        whole = True
    finally:
        if whole or not is_publishing(folder):
            _clear(temporary)


def _is_foreign(temporary: Path) -> bool:
    """Tell whether something lies there that we did not begin."""
    try:
        held = {path.name for path in temporary.iterdir()}
    except OSError:  # no folder, or none that can be read; a name that no disk takes is told when it is written to
        return os.path.lexists(temporary)
    return bool(held) and NOTE not in held


def _clear(temporary: Path) -> None:
    """Remove the place and what is in it, the note last."""
    with contextlib.suppress(OSError):
        for path in temporary.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != NOTE:
                path.unlink()
        shutil.rmtree(temporary)


def require_empty(folder: Path, *, but: Collection[str] = ()) -> None:
    """Refuse to begin where anything lies already, but for what is named."""
    if folder.is_dir() and any(path.name not in but for path in folder.iterdir()):
        raise UserError(f"--out {folder} is no run, and not empty either; name another folder")


def flush(path: Path) -> None:
    """Have the disk hold a file or a folder, so that a power cut cannot leave a name without its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now() -> str:
    """Return the time, UTC, sortable."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
