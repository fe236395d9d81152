"""A whole video as windows of 30 s, decoded once from end to end however much they overlap: what prediction reads.

A window holds what ``media.decode_clip`` would give for its span. Two ffmpeg processes run at a time, one for the
picture and one for the sound, each as far ahead as its pipe is long; nothing is kept but the last half minute, however
long one of them goes on without the other.
"""

from __future__ import annotations

import math
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import ffmpeg
import numpy as np

from pipeline import media
from pipeline.clips import MIN_CLIP_S
from pipeline.errors import RejectedError
from pipeline.schema import CLIP_S, FRAME_SIZE_PX, NUM_FRAMES, SAMPLE_RATES_HZ, Modality

EVERY_UNIT_S = 0.5  # windows begin on a grid that is common to their frames; finer ones would need too many of these
STALL_S = 120.0  # for which a decoder may give nothing before it is stopped
SLACK_S = 0.5  # a window may lack so much at its end
GOES_ON_S = 5.0  # sound or picture that lasts so much longer than the other is told
REST_S = 1.0  # what is left of the video behind the last whole window gets one of its own if it is longer than this
LATEST_END_S = 1.9 + REST_S  # before the video's end, at which the last window ends at the earliest

_FRAME_STEP_S = Fraction(CLIP_S, NUM_FRAMES)
_FRAME_BYTES = FRAME_SIZE_PX * FRAME_SIZE_PX * 3
_RATE_HZ = SAMPLE_RATES_HZ["mel_32k"]
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Window:
    """Thirty seconds of a video."""

    start_s: float
    clip: media.Clip
    valid_s: float
    """Less than 30 where the whole video is shorter; the rest is for ``prepare.features`` to fill."""


def windows(path: Path, found: media.Probe, *, every_s: float, modality: Modality = "both") -> Iterator[Window]:
    """Decode a video's windows in the order of time: one every ``every_s``, and a last one that ends with the video.

    The last one ends up to 1.9 s before the video, on the frames' grid; there is none where a second or less is left.

    Parameters
    ----------
    found
        What ``media.probe`` says of the file.
    every_s
        Seconds from one start to the next, a multiple of 0.5.

    Raises
    ------
    RejectedError
        ``no-audio`` or ``no-video`` where the modality needs it; ``too-short`` below 25 s; ``undecodable`` or
        ``timeout`` at the end of what could be decoded, after the windows before it; likewise ``no-audio`` or
        ``no-video`` where one ends and the other goes on for 5 s or more.
    ValueError
        If ``every_s`` is no multiple of 0.5.
    """
    if every_s <= 0 or every_s % EVERY_UNIT_S:
        raise ValueError(f"windows every {every_s:g} s: give a multiple of {EVERY_UNIT_S:g} s")
    media.require_streams(found, modality)
    every = Fraction(every_s)
    step = Fraction(math.gcd(int(every * 32), int(_FRAME_STEP_S * 32)), 32)  # between frames that windows need
    both = modality == "both"
    with ExitStack() as stack:
        picture = sound = None
        if modality != "audio":
            pieces = stack.enter_context(_decoding(_picture_command(path, found, rate=1 / step, both=both)))
            picture = _Track("no-video", pieces, item_bytes=_FRAME_BYTES, items_a_s=1 / step, beyond_s=media.TAIL_S)
        if modality != "video":
            pieces = stack.enter_context(_decoding(_sound_command(path, found, both=both)))
            sound = _Track("no-audio", pieces, item_bytes=4, items_a_s=Fraction(_RATE_HZ))
        tracks = [track for track in (picture, sound) if track is not None]

        def window(start: Fraction) -> Window:
            known_s = min(track.read_to(float(start) + CLIP_S) for track in tracks) - float(start)
            frames_THWC = None if picture is None else _frames(picture, start, every=int(_FRAME_STEP_S / step))
            clip = media.Clip(frames_THWC=frames_THWC, audio=None if sound is None else _audio(sound, start))
            return Window(start_s=float(start), clip=clip, valid_s=round(min(CLIP_S, known_s), 3))

        start = reached = Fraction(0)
        unit = 4 * step  # whole milliseconds, as all clips begin on
        while True:
            reached = min(reached + CLIP_S, start + CLIP_S)  # together, so that the first to end finds the others near
            known_s = min(track.read_to(float(reached)) for track in tracks)
            if known_s < reached - SLACK_S:
                break
            if reached == start + CLIP_S:
                yield window(start)
                start += every
            wanted = min(start, reached - Fraction(SLACK_S) - CLIP_S - unit)  # by the next window, and by the last one
            for track in tracks:
                track.forget_before(max(Fraction(0), wanted))
        length_s = known_s  # of the one that has ended; no other is needed for longer
        if start == 0 and length_s < MIN_CLIP_S - media.TAIL_S / 2:
            raise RejectedError("too-short", f"{length_s:.1f} s of sound and picture, {MIN_CLIP_S:g} s are needed")
        last = Fraction(max(0.0, length_s - CLIP_S)) // unit * unit
        if start == 0 or last - (start - every) >= REST_S:
            yield window(last)
        for track in tracks:
            if track.read_to(length_s + GOES_ON_S) >= length_s + GOES_ON_S:
                raise _ended(next(other for other in tracks if other is not track), length_s)


def _ended(track: _Track, at_s: float) -> RejectedError:
    ended, other = ("sound", "picture") if track.lacking == "no-audio" else ("picture", "sound")
    return RejectedError(track.lacking, f"the {ended} ends after {at_s:.0f} s, while the {other} goes on")


class _Track:
    """One decoded stream, as a run of items of equal length in time, of which the latest are held.

    Parameters
    ----------
    lacking
        What is the matter with a file without it.
    beyond_s
        For which ffmpeg goes on after the stream's end.
    """

    def __init__(
        self, lacking: str, pieces: Iterator[bytes], *, item_bytes: int, items_a_s: Fraction, beyond_s: float = 0.0
    ) -> None:
        self.lacking = lacking
        self._pieces, self._item_bytes, self.items_a_s, self._beyond_s = pieces, item_bytes, items_a_s, beyond_s
        self._held = bytearray()
        self._first = 0  # which item is the first that is held
        self._ended = False

    def read_to(self, moment_s: float) -> float:
        """Read until a moment is decoded, or to the stream's end; return up to where it is."""
        while (known_s := self._known_s()) < moment_s and not self._ended:
            piece = next(self._pieces, b"")
            self._ended = not piece
            self._held += piece
        return known_s

    def _known_s(self) -> float:
        num_items = self._first + len(self._held) // self._item_bytes
        return float(num_items / self.items_a_s) - self._beyond_s

    def forget_before(self, moment: Fraction) -> None:
        """Hold no longer what lies before a moment, which is decoded."""
        first = math.floor(moment * self.items_a_s)
        del self._held[: (first - self._first) * self._item_bytes]
        self._first = first

    def items(self, moment: Fraction, num_items: int) -> bytes:
        """Bytes of the items from a moment on, fewer where the stream ends."""
        first = int(moment * self.items_a_s) - self._first
        assert first >= 0, "what was forgotten"
        return bytes(memoryview(self._held)[first * self._item_bytes : (first + num_items) * self._item_bytes])


def _frames(picture: _Track, start: Fraction, *, every: int) -> np.ndarray:
    raw = picture.items(start, (NUM_FRAMES - 1) * every + 1)
    return np.frombuffer(raw, np.uint8).reshape(-1, FRAME_SIZE_PX, FRAME_SIZE_PX, 3)[::every]


def _audio(sound: _Track, start: Fraction) -> np.ndarray:
    return media.plausible(np.frombuffer(sound.items(start, CLIP_S * _RATE_HZ), np.float32))


# --- decoders ------------------------------------------------------------------------------------------------------


def _picture_command(path: Path, found: media.Probe, *, rate: Fraction, both: bool) -> list[str]:
    source = ffmpeg.input(f"file:{path}", max_pixels=media.MAX_PIXELS, **media.GUARDS)
    frames = media.frames_at(source[str(found.video_stream)], rate=rate)
    output = frames.output("pipe:1", format="rawvideo", fps_mode="passthrough")
    return _command(output, source[str(found.audio_stream)] if both else None)


def _sound_command(path: Path, found: media.Probe, *, both: bool) -> list[str]:
    source = ffmpeg.input(f"file:{path}", threads=1, **media.GUARDS)
    sound = media.mono_at_base_rate(source[str(found.audio_stream)])
    return _command(sound.output("pipe:1", format="f32le"), source[str(found.video_stream)] if both else None)


def _command(output: ffmpeg.nodes.OutputStream, other: ffmpeg.nodes.Stream | None) -> list[str]:
    """Of an ffmpeg for one stream that knows of the other: in transport streams time begins at the first it maps."""
    if other is not None:
        output = ffmpeg.merge_outputs(output, other.output("-", format="null", c="copy"))
    quiet = output.global_args("-nostdin", "-hide_banner", "-loglevel", "error")
    return list(quiet.compile(cmd=media.ffmpeg_exe()))


@contextmanager
def _decoding(command: list[str]) -> Iterator[Iterator[bytes]]:
    """Run ffmpeg for as long as its output is wanted, and give that piece by piece."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, process_group=0)
        try:
            yield _pieces(process, told)
        finally:
            process.kill()
            process.communicate()


def _pieces(process: subprocess.Popen[bytes], told: IO[bytes]) -> Iterator[bytes]:
    assert process.stdout is not None
    out = process.stdout.fileno()
    while True:
        if not select.select([out], [], [], STALL_S)[0]:
            raise RejectedError("timeout", f"the decoder gave nothing for {STALL_S:g} s")
        if not (piece := os.read(out, _PIECE_BYTES)):
            break
        yield piece
    if (status := process.wait()) < 0:
        raise RejectedError("undecodable", f"ffmpeg was stopped by signal {-status}")
    if status != 0:
        told.seek(0)
        lines = told.read().decode(errors="replace").strip().splitlines() or [f"exit code {status}"]
        raise RejectedError("undecodable", f"ffmpeg: {lines[-1]}")
