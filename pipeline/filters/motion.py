"""Does the picture move? Stills, slides, lyrics on a still, black and frozen video do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict


def scores(small_THW: np.ndarray) -> dict[str, float]:
    """Score a clip's small grey frames."""
    return {}


def verdicts(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """What is to be said against a clip."""
    yield from ()
