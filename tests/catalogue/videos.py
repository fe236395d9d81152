"""What a catalogue has: recordings, videos made of them, and what may be wrong with these."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

STATUS_FAULTS = {
    "login": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "missing": HTTPStatus.NOT_FOUND,
    "gone": HTTPStatus.GONE,
    "geo-blocked": HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
    "broken": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Faults that are an HTTP status and nothing more."""

WORD_FAULTS = {
    "private": "Private video. Sign in if you've been granted access to this video",
    "bot": "Sign in to confirm you\N{RIGHT SINGLE QUOTATION MARK}re not a bot",
    "age": "Sign in to confirm your age. This video may be inappropriate for some users",
    "removed": "Video unavailable. This video has been removed by the uploader",
    "geo-words": "The uploader has not made this video available in your country",
    "rate-words": (
        "Video unavailable. This content isn't available, try again later. The current session has been rate-limited"
        " by YouTube for up to an hour"
    ),
}
"""Faults of which a page tells in words, YouTube's; it answers 200. The plugin raises them."""

STREAM_FAULTS = ("slow", "never", "truncated", "damaged", "huge", "reset", "redirect", "flaky")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Media files that any number of videos may share."""

    name: str
    duration_s: float
    files: Mapping[int, Path]  # nominal height in px: an mp4
    hls: Path | None = None
    """Folder with ``<height>.m3u8`` and its segments ``<height>-<number>.ts``, for each height of ``files``."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video of the catalogue."""

    id: str
    recording: Recording | None = None
    kind: str = "mp4"
    """How its page gives the media: ``mp4`` (a video element), ``link`` (a plain link to the file), ``hls``."""
    fault: str | None = None
    title: str = "Somebody - A Song (Official Music Video)"
    uploader: str = "Somebody"
    upload_date: str = "20210304"
    licence: str | None = None
    description: str | None = None
    categories: tuple[str, ...] = ()
    duration_s: float | None = None
    """What the page says; the recording's where None."""
    says_duration: bool = True
    listed_duration: bool = False
    """Whether searches and lists say it too; they often do not."""
    marked: bool = True
    """Whether its mp4 differs from those of the other videos of the recording (in sixteen bytes of the comment)."""
    redirect_to: str = ""
    flaky_times: int = 1
    cut_at: float | None = None
    """Where ``truncated`` and ``reset`` end the body (default 1/8) and ``damaged`` the file (default 1/2)."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.id):
            raise ValueError(f"id {self.id!r}: letters, digits, _ and - only")
        if self.kind not in ("mp4", "link", "hls"):
            raise ValueError(f"kind {self.kind!r}: mp4, link or hls")
        self.fault_of("page")

    @property
    def told_duration_s(self) -> float | None:
        """What the page says."""
        if not self.says_duration:
            return None
        return self.duration_s if self.duration_s is not None or not self.recording else self.recording.duration_s

    def fault_of(self, room: str) -> str | None:
        """The fault of its ``page`` or ``media``."""
        if self.fault is None:
            return None
        prefix, _, name = self.fault.partition("-")
        rooms: tuple[str, ...] = (prefix,)
        if prefix not in ("page", "media"):
            name = self.fault
            rooms = ("media",) if name in STREAM_FAULTS else ("page",)
            if name == "flaky":
                rooms = ("page", "media")
        if name not in STATUS_FAULTS and name not in STREAM_FAULTS and not (name in WORD_FAULTS and rooms == ("page",)):
            raise ValueError(f"no such fault: {self.fault}")
        return name if room in rooms else None
