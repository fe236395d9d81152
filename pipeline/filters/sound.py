"""Is anything to be heard? Silence, clipping, and one held tone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict


def scores(audio: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Score a clip's sound."""
    return {}


def verdicts(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """What is to be said against a clip."""
    yield from ()
