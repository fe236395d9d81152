"""The only caller of yt-dlp: fetch the media behind one http(s) link."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RejectedError, raise_if_disk_full

os.environ.setdefault("YTDLP_NO_PLUGINS", "1")  # read when yt-dlp is imported: no foreign code unless asked for

MAX_HEIGHT_PX = 360  # the networks see 128 x 128, and decoding is what costs
MAX_FILE_BYTES = 2_000_000_000
MAX_FETCH_S = 1800.0
SOCKET_TIMEOUT_S = 30
RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A downloaded file, and what its page says of it."""

    path: Path
    title: str | None
    uploader: str | None
    licence: str | None


class _Silent:
    """yt-dlp's words go into the candidate's detail, not over the progress bar."""

    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def fetch(link: str, folder: Path) -> Fetched:
    """Download the one video of a link into ``folder``.

    Raises
    ------
    RejectedError
        ``unavailable``, ``unsupported-link``, ``too-large`` or ``timeout``.
    OSError
        If the disk is full: that is not the link's fault.
    """
    import yt_dlp

    began_s = time.monotonic()

    def bound(progress: dict[str, Any]) -> None:
        if (progress.get("downloaded_bytes") or 0) > MAX_FILE_BYTES:
            raise RejectedError("too-large", f"more than {MAX_FILE_BYTES} bytes")
        if time.monotonic() - began_s > MAX_FETCH_S:
            raise RejectedError("timeout", f"the download took more than {MAX_FETCH_S:g} s")

    options: dict[str, Any] = {
        "format": f"best[height<={MAX_HEIGHT_PX}]/best/bestvideo+bestaudio",
        "outtmpl": {"default": str(folder / "media.%(ext)s")},
        "max_filesize": MAX_FILE_BYTES,
        "noplaylist": True,
        "playlist_items": "1",
        "socket_timeout": SOCKET_TIMEOUT_S,
        "retries": RETRIES,
        "progress_hooks": [bound],
        "cachedir": False,
        "quiet": True,
        "noprogress": True,
        "logger": _Silent(),
    }
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            info = downloader.extract_info(link, download=True)
    except yt_dlp.utils.UnsupportedError as error:
        raise RejectedError("unsupported-link", "yt-dlp knows no way to read it") from error
    except (yt_dlp.utils.YoutubeDLError, OSError) as error:
        raise_if_disk_full(str(error))
        raise RejectedError("unavailable", _one_line(error)) from error
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != ".part")
    if not files:
        raise RejectedError("too-large", f"nothing downloaded; files beyond {MAX_FILE_BYTES} bytes are not")
    info = next(iter(info.get("entries") or []), info) if info else {}
    return Fetched(
        path=files[0],
        title=_text(info.get("title")),
        uploader=_text(info.get("uploader")),
        licence=_text(info.get("license")),
    )


def _text(value: object) -> str | None:
    """What a page says may be anything."""
    return None if value is None else str(value).encode(errors="replace").decode()


def _one_line(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.removeprefix("ERROR: ").strip()
