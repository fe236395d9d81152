"""What an entry tells the person at the keyboard."""

import sys
from pathlib import Path


class UserError(Exception):
    """A mistake that the reader can mend: one line that names the thing and the mend; no traceback is shown."""


def one_line(error: BaseException) -> str:
    """Return what an error says, or its name, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(path: Path) -> str:
    """Name a file whose name may be no text."""
    return str(path).encode(errors="backslashreplace").decode()


def storage_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """``OSError``, what the packages of object stores raise beside it, as far as they are in use, and others."""
    known = (
        ("botocore.exceptions", "BotoCoreError"),
        ("aiohttp", "ClientError"),
        ("fsspec.exceptions", "FSTimeoutError"),
    )
    return (OSError, *others, *(getattr(sys.modules[module], name) for module, name in known if module in sys.modules))
