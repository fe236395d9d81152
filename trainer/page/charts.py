"""Charts as plain SVG in the page itself: its fonts, and its colours in the light and in the dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

WIDTH = 360.0  # units of the drawing, about a pixel on a phone
LEFT, RIGHT, TOP, BOTTOM = 44.0, 352.0, 10.0, 36.0  # BOTTOM is the room below the axis
NUM_COLORS = 8
MIN_SPAN = 1e-9


class Point(NamedTuple):
    """A point of a line, in the data's units."""

    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    color: int = 0
    """Of the page's palette."""
    dots: bool = False
    """Mark the points, as where there are few."""


class Mark(NamedTuple):
    """A number beside an axis."""

    at: float
    text: str


class Rect(NamedTuple):
    """A bar."""

    x: float
    y: float
    width: float
    height: float


class Path(NamedTuple):
    """A line as drawn."""

    d: str
    dots: list[tuple[float, float]]
    css: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Where everything goes."""

    title: str
    x_label: str
    y_label: str
    height: float
    paths: list[Path]
    x_marks: list[Mark]
    y_marks: list[Mark]
    words: str
    """What the chart shows, for those who do not see it."""
    legend: list[tuple[str, str]] = field(default_factory=list)
    """Style and name of each line; none where there is one line alone."""
    bars: list[Rect] = field(default_factory=list)
    chance: str | None = None
    """A dashed line from corner to corner."""
    width: float = WIDTH
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP

    @property
    def floor(self) -> float:
        """Where the horizontal axis lies."""
        return self.height - BOTTOM


class _Scale(NamedTuple):
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * share, 2)


def draw(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    height: float = 220.0,
    bars: Sequence[tuple[float, float, float]] = (),
    chance: bool = False,
    whole_steps: bool = False,
    always_named: bool = False,
) -> Chart:
    """Place lines, and bars behind them.

    Parameters
    ----------
    lines
        Points that are no number are left out.
    x_range, y_range
        Of the axes; by the data where they are None.
    bars
        From x, to x, up to y.
    chance
        Draw the line from the lower left to the upper right corner.
    whole_steps
        The horizontal axis counts something: whole numbers alone beside it.
    always_named
        Name the line also where it is alone.
    """
    lines = [
        Line(name=line.name, points=[p for p in line.points if math.isfinite(p.y)], color=line.color, dots=line.dots)
        for line in lines
    ]
    xs = [point.x for line in lines for point in line.points]
    ys = [point.y for line in lines for point in line.points]
    across = _Scale(*(x_range or _span(xs, margin=0.0)), LEFT, RIGHT)
    floor = height - BOTTOM
    up = _Scale(*(y_range or _span(ys, margin=0.05)), floor, TOP)
    drawn = [_path(line, across, up) for line in lines if line.points]
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        height=height,
        paths=drawn,
        x_marks=[Mark(across(value), _number(value)) for value in _nice(across.low, across.high, whole=whole_steps)],
        y_marks=[Mark(up(value), _number(value)) for value in _nice(up.low, up.high)],
        words=_words(title, lines, x_label),
        legend=[(f"c{line.color % NUM_COLORS}", line.name) for line in lines] if always_named or len(lines) > 1 else [],
        bars=[
            Rect(across(low), up(top), round(across(high) - across(low), 2), round(floor - up(top), 2))
            for low, high, top in bars
        ],
        chance=f"M{LEFT} {floor}L{RIGHT} {TOP}" if chance else None,
    )


def _path(line: Line, across: _Scale, up: _Scale) -> Path:
    places = [(across(point.x), up(point.y)) for point in line.points]
    d = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
    return Path(d, places if line.dots or len(places) == 1 else [], f"c{line.color % NUM_COLORS}")


def _span(values: Sequence[float], *, margin: float) -> tuple[float, float]:
    """Range that holds all values, never of width 0."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low <= MIN_SPAN * max(1.0, abs(low), abs(high)):
        half = 0.5 * abs(low) or 0.5
        return low - half, high + half
    return low - margin * (high - low), high + margin * (high - low)


def _nice(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers between two others, about five."""
    values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]


def _number(value: float) -> str:
    text = f"{round(value, 10):,.10g}" if abs(value) >= 1e-3 or abs(value) < 1e-12 else f"{value:.2e}"
    mantissa, _, exponent = text.partition("e")
    if exponent:
        text = f"{float(mantissa):g}e{int(exponent)}"
    return (text if text != "-0" else "0").replace("-", "−")  # noqa: RUF001


def _words(title: str, lines: Sequence[Line], x_label: str) -> str:
    told = [f"{line.name} from {line.points[0].y:.3g} to {line.points[-1].y:.3g}" for line in lines if line.points]
    return f"{title}, over {x_label}: " + ("; ".join(told) or "nothing")
