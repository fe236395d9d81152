"""What people name to have it predicted: a link, a file, a folder of files."""

import re
from pathlib import Path

from trainer.videos import MEDIA_SUFFIXES


def is_link(text: str) -> bool:
    """Tell whether it is an address on the web."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def is_folder(video: str) -> bool:
    """Tell whether a folder has this name."""
    try:
        return Path(video).is_dir()
    except OSError:  # the name is too long
        return False


def media_files(folder: Path) -> list[Path]:
    """List the files below a folder that are media by their names; hidden ones, and those in hidden folders, are not.

    Those are half-written, as a killed prediction leaves them, or no media at all, as macOS has them on foreign disks.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if has_media_name(path)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def has_media_name(path: Path) -> bool:
    """Tell whether a file's name says that it is media."""
    return path.suffix.lower() in MEDIA_SUFFIXES
