"""Small files that a power cut leaves as they were or as they should be, never in between."""

import os
from datetime import UTC, datetime
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file under a hidden name, and give it its own when the disk holds it."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    flush(temporary)
    temporary.replace(path)


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
