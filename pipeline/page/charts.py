"""Histograms as plain SVG in the page itself: its fonts, its colours in the light and in the dark, 2 KB each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.page.scores import Axis, Histogram

WIDTH, LEFT, RIGHT = 340.0, 8.0, 332.0  # units of the drawing, about a pixel on a phone
TOP, UPPER, LOWER = 22.0, 84.0, 44.0  # room above, height of the kept and of the dropped
GAP = 18.0  # between the lowest bar and the numbers of the axis
MIN_BAR = 1.5  # so that a single clip is seen beside a thousand


class Bar(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    side: str


class Tick(NamedTuple):
    """A number on the axis."""

    x: float
    text: str
    anchor: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Where everything of one histogram goes."""

    width: float
    height: float
    baseline: float
    """Where the bars of the kept stand, and those of the dropped hang."""
    bottom: float
    bars: list[Bar]
    ticks: list[Tick]
    threshold: Tick | None
    beyond: Bar | None
    """What the threshold drops."""
    words: str
    """What the drawing shows, for those who do not see it."""


def draw(histogram: Histogram, *, verb: str = "drops") -> Drawing:
    """Place the bars of the kept above the line and of the dropped below it, each to its own scale.

    Parameters
    ----------
    histogram
        What was counted.
    verb
        What the threshold does to what lies beyond it.
    """
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])

    def across(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (min(max(value, low), high) - low) / (high - low), 2)

    lower = LOWER if histogram.dropped.any() else 0.0
    baseline, bottom = TOP + UPPER, TOP + UPPER + lower
    bars = []
    for side, counts, height in (("kept", histogram.kept, UPPER), ("dropped", histogram.dropped, lower)):
        for left, right, count in zip(histogram.edges[:-1], histogram.edges[1:], counts, strict=True):
            if count:
                tall = round(max(MIN_BAR, height * float(count) / float(counts.max())), 2)
                y = baseline - tall if side == "kept" else baseline
                width = round(max(across(right) - across(left) - 0.8, 0.5), 2)
                bars.append(Bar(across(left), round(y, 2), width, tall, side))
    threshold = beyond = None
    if histogram.threshold is not None:
        x = across(float(histogram.axis.along(np.array(histogram.threshold))))
        sign = ">" if histogram.axis.drops == "above" else "<"
        anchor = "end" if x > WIDTH / 2 else "start"
        threshold = Tick(x, minus(f"{verb} {sign} {histogram.threshold:g}"), anchor)
        edges = (x, RIGHT) if histogram.axis.drops == "above" else (LEFT, x)
        beyond = Bar(edges[0], TOP, round(edges[1] - edges[0], 2), round(bottom - TOP, 2), "beyond")
    return Drawing(
        width=WIDTH,
        height=bottom + GAP,
        baseline=baseline,
        bottom=bottom,
        bars=bars,
        ticks=[_tick(words, across(place)) for place, words in numbers_along(histogram.axis, low, high)],
        threshold=threshold,
        beyond=beyond,
        words=in_words(histogram, verb=verb),
    )


def numbers_along(axis: Axis, low: float, high: float) -> list[tuple[float, str]]:
    """Numbers beside an axis, and where they stand: round ones, or powers of ten."""
    if axis.log_from is None:
        return [(value, minus(f"{np.round(value, 6):g}")) for value in nice_numbers(low, high)]
    first, last = round(low), round(high)  # whole powers of ten
    powers = range(first, last + 1, 1 + (last - first) // 5)
    least = round(math.log10(axis.log_from))
    return [(float(power), f"{'≤ ' if power == least else ''}{10.0**power:g}") for power in powers]


def nice_numbers(low: float, high: float) -> list[float]:
    """Round numbers between two others, about five."""
    values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def in_words(histogram: Histogram, *, verb: str) -> str:
    """What a histogram shows, in one sentence."""
    parts = []
    for side, counts in (("kept", histogram.kept), ("dropped", histogram.dropped)):
        if side in histogram.quantiles:
            low, _, median, _, high = histogram.quantiles[side]
            parts.append(f"{int(counts.sum()):,} {side}, {low:.3g} to {high:.3g}, median {median:.3g}")
    if histogram.threshold is not None:
        parts.append(f"the threshold {verb} what is {histogram.axis.drops} {histogram.threshold:g}")
    return f"{histogram.axis.title}: " + "; ".join(parts)


def _tick(words: str, x: float) -> Tick:
    return Tick(x, words, "start" if x < LEFT + 6 else "end" if x > RIGHT - 6 else "middle")


def minus(words: str) -> str:
    """Words with the minus of mathematics before their numbers."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", words)  # noqa: RUF001
