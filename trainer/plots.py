"""Pictures of a classifier's scores, for papers and slides; ``report.html`` draws its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.metrics import CURVE_POINTS, class_curves

DPI = 150
MANY_POINTS = 40  # beyond which a curve has no dots
STRIP_ASPECT = 12.0  # of the row of frames under a curve, width over height


def plot_confusion(confusion: np.ndarray, labels: Sequence[str], path: Path, *, title: str) -> None:
    """Draw counts and, below them, shares of the true class (row), which is also the shade."""
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(1.5 + 0.8 * len(labels), 1.2 + 0.75 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    names = [_plain(label) for label in labels]
    axes.set_xticks(ticks, names, rotation=35, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true", title=_plain(title))
    for i in ticks:
        for j in ticks:
            color = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i - 0.12, str(confusion[i, j]), ha="center", va="center", color=color)
            if confusion[i].any():
                axes.text(j, i + 0.24, f"{share[i, j]:.0%}", ha="center", va="center", color=color, fontsize=7)
    _save(figure, path)


def plot_roc(
    truth: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    path: Path,
    *,
    areas: Sequence[float | None],
    title: str,
) -> None:
    """Draw one curve a class, that class against the rest; classes without an area are left out."""
    figure, axes = _roc_axes(title)
    for i, (false_positives, true_positives) in class_curves(truth, probabilities).items():
        axes.plot(false_positives, true_positives, label=_plain(f"{labels[i]} {areas[i]:.3f}"), linewidth=1.6)
    axes.legend(loc="lower right", title="area under the curve", frameon=False)
    _save(figure, path)


def plot_mean_roc(curves: Mapping[str, Sequence[float]], path: Path, *, title: str) -> None:
    """Draw the mean ROC curves of several runs (paper, Fig. 10), each as ``trainer.metrics.mean_curve`` tells it."""
    figure, axes = _roc_axes(title)
    for name, true_positives in curves.items():
        axes.plot(np.linspace(0, 1, CURVE_POINTS), true_positives, label=_plain(name), linewidth=1.6)
    axes.legend(loc="lower right", title="mean area under the curve", frameon=False)
    _save(figure, path)


def plot_reliability(reliability: Mapping[str, Sequence[Any]], path: Path, *, title: str) -> None:
    """Draw accuracy over confidence, bin by bin, and how many samples each bin holds."""
    num_bins = len(reliability["count"])
    left = np.arange(num_bins) / num_bins
    figure = Figure(figsize=(6, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    known = [value is not None for value in reliability["accuracy"]]
    heights = [value for value in reliability["accuracy"] if value is not None]
    confidences = [value for value in reliability["confidence"] if value is not None]
    above.bar(left[known], heights, width=1 / num_bins, align="edge", edgecolor="white")
    above.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, label="as sure as right")
    above.plot(confidences, heights, "o", color="black", markersize=4, label="mean confidence")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=_plain(title))
    above.legend(loc="upper left", frameon=False)
    below.bar(left, reliability["count"], width=1 / num_bins, align="edge", color="0.6", edgecolor="white")
    below.set(xlabel="probability of the likeliest class", ylabel="samples")
    _save(figure, path)


def plot_per_class(per_class: Mapping[str, Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw precision, recall and F1 of each class as bars; what is not defined has none."""
    names = ("precision", "recall", "f1")
    figure = Figure(figsize=(2 + 1.1 * len(per_class), 4.2), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(per_class))
    for k, name in enumerate(names):
        heights = [scores[name] or 0.0 for scores in per_class.values()]
        axes.bar(places + 0.27 * (k - 1), heights, width=0.25, label="F1" if name == "f1" else name)
    axes.set_xticks(places, [_plain(f"{label}\nn = {scores['n']}") for label, scores in per_class.items()])
    axes.set(ylim=(0, 1.02), title=_plain(title))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
    _save(figure, path)


def plot_curve(
    times_s: Sequence[float],
    scores: np.ndarray,
    labels: Sequence[str],
    path: Path,
    *,
    duration_s: float,
    stills: Sequence[tuple[float, np.ndarray]],
    aspect: float,
) -> None:
    """Draw one curve an emotion over a video's time, and frames of it under the axis (paper, Fig. 11).

    Parameters
    ----------
    times_s
        Middle of each window, (N,).
    scores
        0 to 1, (N, classes).
    stills
        Time and frame, uint8 (H, W, 3) whatever the video's shape; as many are shown as there is room for.
    aspect
        Width over height of the video as it is shown.
    """
    figure = Figure(figsize=(10, 5), layout="constrained")
    rows = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1)) if stills else [figure.add_subplot()]
    axes = rows[0]
    for label, column in zip(labels, scores.T, strict=True):
        marker = "o" if len(times_s) <= MANY_POINTS else None
        axes.plot(times_s, 100 * column, label=_plain(label), linewidth=1.8, marker=marker, markersize=3.5)
    axes.set(xlim=(0, duration_s), ylim=(-2, 102), ylabel="score, %")
    axes.grid(axis="y", color="0.9")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(labels), frameon=False)
    rows[-1].set_xlabel("time, minutes:seconds")
    rows[-1].xaxis.set_major_locator(MaxNLocator(steps=[1, 1.5, 3, 6, 10], integer=True))
    rows[-1].xaxis.set_major_formatter(lambda time_s, _: f"{int(time_s) // 60}:{int(time_s) % 60:02d}")
    if stills:
        _strip(rows[1], stills, duration_s=duration_s, aspect=aspect)
    _save(figure, path)


def _strip(axes: Axes, stills: Sequence[tuple[float, np.ndarray]], *, duration_s: float, aspect: float) -> None:
    """Show as many frames side by side as fit and are there, each the one nearest to the middle of its place."""
    num_places = max(1, min(round(STRIP_ASPECT / aspect), len(stills)))
    width_s = duration_s / num_places
    for place in range(num_places):
        middle_s = (place + 0.5) * width_s
        _, frame = min(stills, key=lambda still: abs(still[0] - middle_s))
        edges = (place * width_s, (place + 1) * width_s - 0.04 * width_s, 0, 1)
        axes.imshow(frame, extent=edges, aspect="auto", interpolation="bilinear")
    axes.set(xlim=(0, duration_s), ylim=(0, 1), yticks=[])
    axes.spines[["top", "left", "right"]].set_visible(False)


def _roc_axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1, label="chance 0.500")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=_plain(title))
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure, axes


def _plain(text: str) -> str:
    """Have matplotlib take a dollar for a dollar, not for the begin of a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=DPI, format="png")
    temporary.replace(path)
