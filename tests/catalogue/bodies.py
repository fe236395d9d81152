"""Bodies of answers: text, files that carry a video's mark, zeros without end."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from functools import cache
from pathlib import Path
from typing import Protocol

from tests.catalogue.videos import Recording, Video

MARK = b"catalogue-mark:0123456789abcdef"
"""Stands in the comment of every mp4; what follows the colon is replaced by the video's own mark as it is served."""

HUGE_BYTES = 10_000_000_000
MP4 = re.compile(r"(?P<id>[\w-]+)-(?P<height>\d+)\.mp4")
MASTER = re.compile(r"(?P<id>[\w-]+)\.m3u8")
HLS = re.compile(r"(?P<id>[\w-]+)/(?P<file>\d+(?:-\d+\.ts|\.m3u8))")
TYPES = {".mp4": "video/mp4", ".ts": "video/mp2t", ".m3u8": "application/vnd.apple.mpegurl"}
STREAM_TYPES = (TYPES[".mp4"], TYPES[".ts"])

_HUGE_HEAD = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"isom") + struct.pack(">I4sQ", 1, b"mdat", HUGE_BYTES)


class Body(Protocol):
    """What an answer is read from."""

    size: int

    def read(self, offset: int, count: int) -> bytes: ...


class Text:
    """A text, encoded."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read(self, offset: int, count: int) -> bytes:
        return self.content[offset : offset + count]


class File:
    """A file, perhaps cut short, with the video's own mark in its comment."""

    def __init__(self, path: Path, video: Video, *, cut_at: float = 1.0) -> None:
        self.path = path
        self.size = int(path.stat().st_size * cut_at)
        offset = _mark_offset(path) if video.marked and path.suffix == ".mp4" else None
        self.mark_offset = self.size if offset is None else offset
        self.mark = MARK.split(b":")[0] + b":" + hashlib.sha256(video.id.encode()).hexdigest()[:16].encode()

    def read(self, offset: int, count: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            chunk = bytearray(file.read(min(count, self.size - offset)))
        first, last = max(offset, self.mark_offset), min(offset + len(chunk), self.mark_offset + len(self.mark))
        if first < last:
            chunk[first - offset : last - offset] = self.mark[first - self.mark_offset : last - self.mark_offset]
        return bytes(chunk)


class Zeros:
    """The head of an mp4 whose media has no end."""

    size = HUGE_BYTES

    def read(self, offset: int, count: int) -> bytes:
        return _HUGE_HEAD[offset : offset + count].ljust(min(count, self.size - offset), b"\0")


@cache
def _mark_offset(path: Path) -> int | None:
    offset = path.read_bytes().find(MARK)
    return None if offset < 0 else offset


def media_body(video: Video, name: str, fault: str | None) -> Body | None:
    """The file behind ``/media/<name>``, if there is one."""
    recording = video.recording
    if fault == "huge":
        return Zeros()
    if recording is None:
        return None
    if MASTER.fullmatch(name):
        return Text(_master_playlist(video, recording).encode()) if recording.hls else None
    if m := HLS.fullmatch(name):
        path = recording.hls / m["file"] if recording.hls else None
    elif m := MP4.fullmatch(name):
        path = recording.files.get(int(m["height"]))
    else:
        path = None
    if path is None or not path.is_file():
        return None
    damaged = fault == "damaged" and path.suffix != ".m3u8"
    return File(path, video, cut_at=(video.cut_at or 0.5) if damaged else 1.0)


def _master_playlist(video: Video, recording: Recording) -> str:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3"]
    for height, path in sorted(recording.files.items()):
        bits_per_s = math.ceil(path.stat().st_size * 8 / recording.duration_s)
        size = f"{round(height * 16 / 9 / 2) * 2}x{height}"
        lines += [f"#EXT-X-STREAM-INF:BANDWIDTH={bits_per_s},RESOLUTION={size}", f"{video.id}/{height}.m3u8"]
    return "\n".join(lines) + "\n"
