"""Pictures of a classifier's scores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

DPI = 150


def plot_confusion(confusion: np.ndarray, labels: Sequence[str], path: Path, *, title: str) -> None:
    """Draw counts; the shade is the share of the true class (row)."""
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(1.5 + 0.8 * len(labels), 1.2 + 0.75 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=35, ha="right")
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for i in ticks:
        for j in ticks:
            color = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(confusion[i, j]), ha="center", va="center", color=color)
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
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1, label="chance 0.500")
    for i, (label, area) in enumerate(zip(labels, areas, strict=True)):
        if area is not None:
            false_positives, true_positives, _ = roc_curve(truth == i, probabilities[:, i])
            axes.plot(false_positives, true_positives, label=f"{label} {area:.3f}", linewidth=1.6)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.legend(loc="lower right", title="area under the curve", frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=DPI, format="png")
    temporary.replace(path)
