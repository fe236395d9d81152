"""A file that a browser plays: the one there is, its streams in another container, or a smaller picture made of it."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg

from pipeline import media
from pipeline.errors import RejectedError
from pipeline.media import Probe

PICTURES = {
    "h264": {"yuv420p", "yuvj420p"},
    "vp8": {"yuv420p"},
    "vp9": {"yuv420p", "yuv420p10le"},
    "av1": {"yuv420p", "yuv420p10le"},
}
"""Codecs and pixel formats that Chromium, Firefox and Safari decode. They have dropped Theora."""
WAVES = {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"}
SOUNDS = {"aac", "mp3", "opus", "vorbis", "flac"} | WAVES

IN_MP4 = (set(PICTURES) - {"vp8"}) | (SOUNDS - WAVES - {"vorbis"})
IN_WEBM = {"vp8", "vp9", "av1", "opus", "vorbis"}
HOMES = {
    "mov,mp4,m4a,3gp,3g2,mj2": ("mp4", IN_MP4),
    "matroska,webm": ("webm", IN_WEBM),
    "ogg": ("ogg", {"opus", "vorbis", "flac"}),
    "mp3": ("mp3", {"mp3"}),
    "flac": ("flac", {"flac"}),
    "wav": ("wav", WAVES),
}
"""By demuxer: a name's ending, and what browsers play in such a file."""
MIMES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "ogg": "audio/ogg",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "wav": "audio/wav",
}
_WEBM = re.compile(rb"\x1a\x45\xdf\xa3.*\x42\x82.{1,8}webm", re.DOTALL)
"""EBML's mark and, soon after, its DocType: an id, a length of one to eight bytes, and the word (RFC 8794)."""
_HEAD_BYTES = 128

SHORT_SIDE_PX = 360
MAX_START_S = 0.1  # by which a file's first time may miss 0; encoders leave a few hundredths
LOOK_TIMEOUT_S = 30.0  # for one frame
CONVERT_TIMEOUT_S = media.DECODE_TIMEOUT_S  # and as long again as the file lasts
_X264 = {"c:v": "libx264", "preset": "veryfast", "crf": 26, "pix_fmt": "yuv420p"}
_AAC = {"c:a": "aac", "b:a": "128k", "ac": 2}


@dataclass(frozen=True, kw_only=True)
class Playable:
    """What a browser is given."""

    path: Path
    """The original, or a new file."""
    ending: str
    """Of its name, such as ``mp4``; the original's own may lie."""
    changes: str | None
    """What was made anew, in words; None of the original."""

    @property
    def mime(self) -> str:
        """Its type on the web."""
        return MIMES[self.ending]


def make_playable(path: Path, found: Probe, folder: Path) -> Playable:
    """Find or make a file that browsers play, with all of the sound and picture there is.

    A stream that browsers know is copied, bit for bit; another one is encoded anew, the picture at 360p or less.
    Times begin at 0, as those of windows do; browsers would go by the file's own.

    Parameters
    ----------
    found
        What ``media.probe`` says of the file.
    folder
        Where a new file goes.

    Raises
    ------
    RejectedError
        ``undecodable`` or ``timeout``.
    OSError
        If the disk is full.
    """
    if plays_as_it_is(path, found):
        return Playable(path=path, ending=HOMES[found.container][0], changes=None)
    held, known = _codecs(found)
    ending = "webm" if held == known and held <= IN_WEBM else "mp4"
    copied = known & (IN_WEBM if ending == "webm" else IN_MP4)
    try:
        made = _convert(path, found, folder / f"playable.{ending}", copied=copied)
    except RejectedError:
        if not copied:
            raise
        copied = set()  # their times or headers may be such as this container does not take
        made = _convert(path, found, folder / "playable.mp4", copied=copied)
    anew = [
        words
        for words, codec in ((f"picture, at {SHORT_SIDE_PX}p or less", found.video_codec), ("sound", found.audio_codec))
        if codec is not None and codec not in copied
    ]
    return Playable(path=made, ending=made.suffix[1:], changes=" and ".join(anew) or "container alone")


def plays_as_it_is(path: Path, found: Probe) -> bool:
    """Tell whether browsers play a file as it lies there, in step with its windows."""
    held, known = _codecs(found)
    ending, playable = HOMES.get(found.container, ("", set()))
    is_matroska = ending == "webm" and not _is_webm(path, found)
    return held == known and held <= playable and not is_matroska and abs(found.start_s) <= MAX_START_S


def _is_webm(path: Path, found: Probe) -> bool:
    """Tell WebM from other Matroska by its head. One that does not say how long it is, players cannot seek."""
    with path.open("rb") as file:
        return _WEBM.match(file.read(_HEAD_BYTES)) is not None and found.container_s is not None


def _codecs(found: Probe) -> tuple[set[str], set[str]]:
    """Those that a file holds, and those of them that browsers know."""
    held = {codec for codec in (found.video_codec, found.audio_codec) if codec is not None}
    return held, {codec for codec in held if codec in SOUNDS or found.pixel_format in PICTURES.get(codec, ())}


def shown_aspect(path: Path, found: Probe) -> float | None:
    """Width over height of the picture as players show it: turned as its phone says, which the container does not tell.

    Returns
    -------
    float or None
        What the container tells where no frame can be decoded; None without a picture.

    Raises
    ------
    OSError
        If the disk is full.
    """
    if found.video_stream is None:
        return None
    source = ffmpeg.input(f"file:{path}", **media.GUARDS, max_pixels=media.MAX_PIXELS)
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        told = Path(folder, "frame.crc")  # its head tells the frame's size
        output = ffmpeg.output(source[str(found.video_stream)], f"file:{told}", format="framecrc", **{"frames:v": 1})
        command = output.global_args("-nostdin", "-hide_banner", "-loglevel", "error").compile(cmd=media.ffmpeg_exe())
        try:
            media.run(command, timeout_s=LOOK_TIMEOUT_S)
            head = told.read_text()
        except (RejectedError, RuntimeError):  # a page and a picture there will be all the same
            return found.aspect
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)$", head, re.MULTILINE)
    pixel = re.search(r"^#sar 0: ([1-9]\d*)/([1-9]\d*)$", head, re.MULTILINE)
    if size is None or "0" in size.groups():
        return found.aspect
    return int(size[1]) / int(size[2]) * (int(pixel[1]) / int(pixel[2]) if pixel else 1)


def _convert(path: Path, found: Probe, out: Path, *, copied: set[str]) -> Path:
    """Write picture and sound to a file whose name tells the container; copy the streams of those codecs."""
    source = ffmpeg.input(f"file:{path}", **media.GUARDS, max_pixels=media.MAX_PIXELS)
    streams, options = [], dict[str, Any](map_metadata=-1, map_chapters=-1)
    if found.video_stream is not None:
        picture = source[str(found.video_stream)]
        if found.video_codec in copied:
            options["c:v"] = "copy"
        else:
            short = f"2*trunc(min({SHORT_SIDE_PX},{{}})/2)"
            wide, high = f"if(gt(iw,ih),-2,{short.format('iw')})", f"if(gt(iw,ih),{short.format('ih')},-2)"
            picture, options = picture.filter("scale", wide, high), options | _X264
        streams.append(picture)
    if found.audio_stream is not None:
        sound = source[str(found.audio_stream)]
        if found.audio_codec in copied:
            options["c:a"] = "copy"
        else:  # gaps become silence, so that it stays in step
            sound, options = sound.filter("aresample", **{"async": 1, "first_pts": 0}), options | _AAC
        streams.append(sound)
    if out.suffix == ".mp4":
        options["movflags"] = "+faststart"
    output = ffmpeg.output(*streams, f"file:{out}", **options).overwrite_output()
    command = output.global_args("-nostdin", "-hide_banner", "-loglevel", "error").compile(cmd=media.ffmpeg_exe())
    media.run(command, timeout_s=CONVERT_TIMEOUT_S + (found.container_s or 0.0))
    return out
