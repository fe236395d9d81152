"""Which 30 seconds of a video become its clip. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.errors import RejectedError
from pipeline.schema import CLIP_S

MIN_CLIP_S = 25.0  # shorter clips are rejected; between this and 30 s they are padded
WHOLE_BELOW_S = 31.0  # a shorter file was cut already (MVED's are 27 to 30.03 s): taken from its start

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


def plan_clip(duration_s: float, rng: np.random.Generator) -> ClipSpan:
    """Choose a random 30-s span, on a whole millisecond, uniform over all that fit.

    Raises
    ------
    RejectedError
        ``too-short`` for a video of less than 25 s.
    """
    if duration_s < MIN_CLIP_S:
        raise RejectedError("too-short", f"{duration_s:.2f} s, at least {MIN_CLIP_S:g} s are needed")
    if duration_s < WHOLE_BELOW_S:
        return ClipSpan(start_s=0.0)
    last_start_ms = min(int((duration_s - CLIP_S) * 1000), LAST_START_MS)
    return ClipSpan(start_s=int(rng.integers(0, last_start_ms, endpoint=True)) / 1000)
