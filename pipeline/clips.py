"""Which 30 seconds of a video become its clip. No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pipeline.errors import RejectedError
from pipeline.schema import CLIP_S

MIN_CLIP_S = 25.0  # shorter clips are rejected; between this and 30 s they are padded
WHOLE_BELOW_S = 31.0  # a shorter file was cut already (MVED's are 27 to 30.03 s): taken from its start

_CLIP = re.compile(r"(?P<video_id>.*) \(clip (?P<number>\d+)\)", re.DOTALL)
LAST_START_MS = 99_999_999  # a key has eight digits for the start: clips come from the first 27 hours


@dataclass(frozen=True, kw_only=True)
class ClipSpan:
    """A span of a video, in seconds from the start of its timeline."""

    start_s: float
    length_s: float = float(CLIP_S)

    @property
    def start_ms(self) -> int:
        """Start as whole milliseconds; ``plan_clip`` gives no finer ones."""
        return round(self.start_s * 1000)


def clip_rng(seed: int, source_id: str) -> np.random.Generator:
    """Return the generator of one source: the same whatever the order or number of the others."""
    digest = hashlib.sha256(f"{seed}:{source_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def clip_id(video_id: str, number: int) -> str:
    """Identity of a video's clip, counted from 0; the first one has the video's own."""
    return video_id if number == 0 else f"{video_id} (clip {number + 1})"


def video_of(source_id: str) -> str:
    """Identity of the video that a candidate is a clip of."""
    return video_and_number(source_id)[0]


def video_and_number(source_id: str) -> tuple[str, int]:
    """Identity of a clip's video, and its number in it: the inverse of ``clip_id``."""
    found = _CLIP.fullmatch(source_id)
    return (found["video_id"], int(found["number"]) - 1) if found else (source_id, 0)


def plan_clip(duration_s: float, rng: np.random.Generator, taken: Sequence[ClipSpan] = ()) -> ClipSpan:
    """Choose a random 30-s span, on a whole millisecond, uniform over all that fit beside those taken.

    Raises
    ------
    RejectedError
        ``too-short`` for a video of less than 25 s, or where no room is left.
    """
    if duration_s < MIN_CLIP_S:
        raise RejectedError("too-short", f"{duration_s:.2f} s, at least {MIN_CLIP_S:g} s are needed")
    last_ms = 0 if duration_s < WHOLE_BELOW_S else min(int((duration_s - CLIP_S) * 1000), LAST_START_MS)
    free_ms = [(0, last_ms)]
    for span in taken:
        free_ms = [part for first, last in free_ms for part in _without(first, last, span.start_ms)]
    room = sum(last - first + 1 for first, last in free_ms)
    if room == 0:
        raise RejectedError("too-short", f"{duration_s:.2f} s have no room for clip {len(taken) + 1}")
    place = int(rng.integers(0, room))
    for first, last in free_ms:
        if place <= last - first:
            break
        place -= last - first + 1
    return ClipSpan(start_s=(first + place) / 1000)


def plan_numbered_clip(
    duration_s: float,
    *,
    seed: int,
    video_id: str,
    number: int,
    known: Mapping[int, ClipSpan] = MappingProxyType({}),
) -> ClipSpan:
    """Choose the span of a video's clip of this number; clips of one video do not overlap.

    ``known`` are spans that stand already, by number. It depends on the clips of lower numbers alone, so that asking
    for more clips leaves the first ones where they are.

    Raises
    ------
    RejectedError
        ``too-short`` where the video has no room for it.
    """
    spans: list[ClipSpan] = []
    for n in range(number):
        spans.append(known.get(n) or plan_clip(duration_s, clip_rng(seed, clip_id(video_id, n)), spans))
    return plan_clip(duration_s, clip_rng(seed, clip_id(video_id, number)), spans)


def _without(first_ms: int, last_ms: int, taken_ms: int) -> list[tuple[int, int]]:
    """Starts from first to last, both included, whose clip does not overlap the one that starts at ``taken_ms``."""
    length_ms = CLIP_S * 1000
    parts = [(first_ms, min(last_ms, taken_ms - length_ms)), (max(first_ms, taken_ms + length_ms), last_ms)]
    return [(first, last) for first, last in parts if first <= last]
