"""What the filters measured: a histogram of each score, kept and dropped apart, and where the threshold stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.page.index import Index
from pipeline.schema import CLIP_S, SCORES

NUM_BINS = 40
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One score as people read it."""

    title: str
    unit: str
    column: str
    """Of the index."""
    threshold: str | None = None
    """Its name among the filters' settings."""
    drops: Literal["above", "below"] = "above"
    """Which side of the threshold is dropped."""
    code: str | None = None
    """What such a clip is dropped as."""
    span: tuple[float, float] | None = None
    """Of the axis; by the values where there is none."""
    log_from: float | None = None
    """Where a logarithmic axis begins; all that is less stands there."""

    def along(self, values: np.ndarray) -> np.ndarray:
        """Where values lie on the axis: themselves, or their decimal logarithms."""
        return values if self.log_from is None else np.log10(np.maximum(values, self.log_from))


SHARE = (0.0, 1.0)

AXES = (
    Axis(
        title="Talk",
        unit="share of the time",
        column="speech_share",
        threshold="speech",
        code="speech",
        span=SHARE,
    ),
    Axis(
        title="Music or singing",
        unit="share of the time",
        column="music_share",
        threshold="music",
        drops="below",
        code="not-music",
        span=SHARE,
    ),
    Axis(title="Singing", unit="share of the time", column="singing_share", span=SHARE),
    Axis(
        title="Loudness",
        unit="dB of full scale, RMS",
        column="loudness_db",
        threshold="loudness",
        drops="below",
        code="silent",
    ),
    Axis(
        title="Silence",
        unit="share of the time",
        column="silent_share",
        threshold="silence",
        code="silent",
        span=SHARE,
    ),
    Axis(
        title="Clipping",
        unit="share of the samples",
        column="clipped_share",
        threshold="clipping",
        code="clipped",
        span=(1e-6, 1.0),
        log_from=1e-6,
    ),
    Axis(
        title="One held tone",
        unit="share of the time",
        column="tone_share",
        threshold="tone",
        code="tone",
        span=SHARE,
    ),
    Axis(
        title="Motion",
        unit="grey levels between successive pictures, median",
        column="motion",
        log_from=0.01,
        threshold="motion",
        drops="below",
        code="static",
    ),
    Axis(
        title="More than a still, zoom or fade",
        unit="share of the time",
        column="moved",
        threshold="moved",
        drops="below",
        code="static",
        span=SHARE,
    ),
    Axis(title="Still", unit="share of the time", column="still_share", span=SHARE),
    Axis(title="Zoom or pan of the whole picture", unit="share of the time", column="camera_share", span=SHARE),
    Axis(title="Longest still", unit="s", column="held_s", span=(0.0, float(CLIP_S))),
    Axis(title="Black", unit="share of the time", column="black_share", threshold="black", code="static", span=SHARE),
    Axis(title="Signal to noise", unit="dB, estimated before denoising", column="snr_db"),
)
"""The scores in the order in which the page shows them."""


def axes() -> tuple[Axis, ...]:
    """All scores of the schema: those that ``AXES`` does not know stand by their columns' names."""
    known = {axis.column for axis in AXES}
    plain = [name for name, dtype in SCORES.items() if name not in known and str(dtype) == "double"]
    return (
        *(axis for axis in AXES if axis.column in ("snr_db", *SCORES)),
        *(Axis(title=name.replace("_", " "), unit="", column=name) for name in plain),
    )


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """A score of all clips that have it."""

    axis: Axis
    edges: np.ndarray
    """float64 (41,), along the axis; what lies beyond the outermost is counted in the outermost bins."""
    kept: np.ndarray
    """int64 (40,)."""
    dropped: np.ndarray
    """int64 (40,)."""
    threshold: float | None
    unscored: int
    quantiles: dict[str, list[float]]
    """Of ``kept`` and ``dropped``, at ``QUANTILES``; none of a side without clips."""


def thresholds_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """Thresholds by name, as ``dataset.json`` tells them; none where the filters were off, or in an older set."""
    told = (settings.get("filters") or {}).get("thresholds") or {}
    order = [axis.threshold for axis in AXES if axis.threshold in told]
    return {name: float(told[name]) for name in [*order, *sorted(set(told) - set(order))] if name}


def mode_of(settings: Mapping[str, Any]) -> str:
    """What the filters did: ``drop``, ``score`` or ``off``; an older set, which does not tell, had none."""
    return str((settings.get("filters") or {}).get("mode", "off"))


def histograms(index: Index, thresholds: Mapping[str, float]) -> list[Histogram]:
    """Histograms of the scores that at least one clip has."""
    found = []
    for axis in axes():
        one = histogram(axis, index.numbers(axis.column), index.kept, thresholds.get(axis.threshold or ""))
        if one is not None:
            found.append(one)
    return found


def histogram(axis: Axis, values: np.ndarray, kept: np.ndarray, threshold: float | None) -> Histogram | None:
    """Count one score.

    Parameters
    ----------
    axis
        Its name, and the span of its axis if that is fixed.
    values
        float64 (rows,); what is not finite was not scored.
    kept
        bool (rows,).
    threshold
        Drawn, and always within the axis.

    Returns
    -------
    Histogram or None
        None where no row has the score.
    """
    scored = np.isfinite(values)
    if not scored.any():
        return None
    places = axis.along(values)
    limit = None if threshold is None else float(axis.along(np.array(threshold)))
    low, high = axis.along(np.array(axis.span)) if axis.span else _span(places[scored], limit)
    if axis.log_from is not None:
        # Whole powers of ten, which can be written beside it.
        low, high = max(np.floor(low), np.log10(axis.log_from)), np.ceil(high)
    edges = np.linspace(low, high, NUM_BINS + 1)
    inside = np.clip(places, low, high)
    sides = {"kept": scored & kept, "dropped": scored & ~kept}
    counts = {side: np.histogram(inside[chosen], edges)[0] for side, chosen in sides.items()}
    return Histogram(
        axis=axis,
        edges=edges,
        kept=counts["kept"],
        dropped=counts["dropped"],
        threshold=threshold,
        unscored=int(np.count_nonzero(~scored)),
        quantiles={
            side: np.quantile(values[chosen], QUANTILES).tolist() for side, chosen in sides.items() if chosen.any()
        },
    )


def rule_counts(index: Index) -> list[tuple[str, int, int]]:
    """Rules of titles and pages with the kept and the dropped candidates that hit them, the most frequent first."""
    rows, names = index.lists("text_rules")
    counts: dict[str, list[int]] = {}
    for row, name in zip(rows, names, strict=True):
        counts.setdefault(str(name), [0, 0])[0 if index.kept[row] else 1] += 1
    rules = [(name, kept, dropped) for name, (kept, dropped) in counts.items()]
    return sorted(rules, key=lambda rule: (-rule[1] - rule[2], rule[0]))


def _span(values: np.ndarray, threshold: float | None) -> tuple[float, float]:
    """Axis that holds all but the outermost hundredths, and the threshold; never of width 0."""
    low, high = (float(edge) for edge in np.quantile(values, (0.005, 0.995)))
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    is_one_value = high - low <= 1e-4 * max(1.0, abs(low), abs(high))  # numbers along the axis have six digits
    margin = 0.5 if is_one_value else 0.04 * (high - low)
    return (low if low == 0 else low - margin), high + margin
