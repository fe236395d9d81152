"""Disks that are really full: a tmpfs of some size, which only root may mount."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, *, size: str) -> Iterator[Path]:
    """Make ``folder`` a disk of its own, of a size as ``mount`` reads it; the test is skipped where nobody may."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def resize(disk: Path, size: int | str) -> None:
    """Make it larger or smaller, with all that lies on it."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
