"""The scores of a run as the page shows them: rows of tables, charts, the worst confusions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trainer.metrics import CURVE_POINTS, Predictions, class_curves, wilson_interval
from trainer.page.charts import Chart, Line, Point, draw
from trainer.paper import PUBLISHED, TEST_SAMPLES, Published, counterpart
from trainer.runs import RunConfig

NUM_CONFUSIONS = 10  # pairs of classes that are named
KEYS_SHOWN = 6  # samples of each
MAX_CURVE_POINTS = 300


class Score(NamedTuple):
    """A line of the table of scores."""

    name: str
    value: float | None
    wilson: list[float] | None
    drawn: list[float] | None
    """Interval from resampled source groups."""
    meaning: str


def score_rows(scores: Mapping[str, Any]) -> list[Score]:
    """All scores of a run, with what they mean."""
    drawn = scores["cluster_bootstrap"]
    bins = len(scores["reliability"]["count"])
    area = "Mean of the areas under one-vs-rest ROC curves; 0.5 is chance."
    if scores["roc_auc_reason"]:
        area += f" {scores['roc_auc_reason'][0].upper()}{scores['roc_auc_reason'][1:]}."
    return [
        Score(
            "Accuracy",
            scores["accuracy"],
            scores["accuracy_interval"],
            drawn["accuracy"],
            f"Always naming the most frequent class would reach {scores['majority']:.3f}.",
        ),
        Score("Macro-F1", scores["macro_f1"], None, drawn["macro_f1"], "Mean over classes, by the likeliest class."),
        Score(
            "Macro-F1, rounded",
            scores["macro_f1_rounded"],
            None,
            None,
            "As the authors compute it: predicted is every class whose probability rounds to 1, which may be none.",
        ),
        Score("ROC-AUC", scores["roc_auc"], None, drawn["roc_auc"], area),
        Score("Balanced accuracy", scores["balanced_accuracy"], None, None, "Mean recall of the classes."),
        Score("Top-2 accuracy", scores["top2_accuracy"], None, None, "The true class is among the two likeliest."),
        Score(
            "Average precision",
            scores["average_precision"],
            None,
            None,
            "Mean over classes of the area under precision over recall.",
        ),
        Score("Negative log-likelihood", scores["negative_log_likelihood"], None, None, "In nats; 0 is best."),
        Score("Brier score", scores["brier"], None, None, "Squared distance from the truth, over classes; 0 to 2."),
        Score(
            "Calibration error",
            scores["calibration_error"],
            None,
            None,
            f"Expected, over {bins} bins of confidence; 0 is best. Few samples a bin make it too high.",
        ),
    ]


class Fold(NamedTuple):
    """A line of the table of folds: one of them, their mean, or their standard deviation."""

    name: str
    n: int | None
    accuracy: float | None
    macro_f1: float | None
    roc_auc: float | None


def fold_rows(folds: Mapping[str, Any]) -> list[Fold]:
    """Scores of each fold, as ``metrics.json`` of a cross-validation tells them, then their mean and deviation."""
    spread = [folds[name] for name in ("accuracy", "macro_f1", "roc_auc")]
    rows = [Fold(str(i), n, *(one["each"][i] for one in spread)) for i, n in enumerate(folds["n"])]
    rows.append(Fold("mean", None, *(one["mean"] for one in spread)))
    return [*rows, Fold("standard deviation", None, *(one["sd"] for one in spread))]


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A published row."""

    published: Published
    interval: list[float]
    """Wilson's, if the test had ``TEST_SAMPLES`` samples."""
    ours: bool
    """The same network, trained the same way."""

    @property
    def name(self) -> str:
        """Of the network."""
        words = "Separable slow-fast" if self.published.network == "slow-fast" else "Music-video"
        return f"{words}, {'with' if self.published.mmtm else 'without'} MMTM"


def paper_rows(config: RunConfig) -> list[PaperRow]:
    """Tables 1 and 2 of the paper."""
    same = counterpart(config.network, pretrained=config.init is not None)
    return [
        PaperRow(published=row, interval=wilson_interval(row.correct, TEST_SAMPLES), ours=row is same)
        for row in PUBLISHED
    ]


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Samples of one class taken for another."""

    true: str
    predicted: str
    count: int
    share: float
    """Of the true class."""
    keys: list[tuple[str, float]]
    """The surest mistakes and their probability."""


def worst_confusions(said: Predictions, labels: Sequence[str]) -> list[Confusion]:
    """Pairs of classes that are mixed up most often, with their surest mistakes."""
    predicted, sure = said.predicted, said.probabilities.max(1)
    rows = []
    for i, j in {(int(i), int(j)) for i, j in zip(said.truth, predicted, strict=True) if i != j}:
        chosen = np.flatnonzero((said.truth == i) & (predicted == j))
        ordered = sorted(chosen.tolist(), key=lambda row: (-sure[row], said.keys[row]))
        rows.append(
            Confusion(
                true=labels[i],
                predicted=labels[j],
                count=len(ordered),
                share=len(ordered) / int((said.truth == i).sum()),
                keys=[(said.keys[row], float(sure[row])) for row in ordered[:KEYS_SHOWN]],
            )
        )
    rows.sort(key=lambda one: (-one.count, -one.share, one.true, one.predicted))
    return rows[:NUM_CONFUSIONS]


class Cell(NamedTuple):
    """A cell of the confusion table."""

    samples: int
    share: float | None
    """Of its row; None where the class has no sample."""
    shade: int
    """0 to 10."""


def confusion_cells(confusion: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """Counts with row shares."""
    table = []
    for row in confusion:
        total = sum(row)
        table.append([Cell(n, n / total if total else None, round(10 * n / total) if total else 0) for n in row])
    return table


def roc_charts(said: Predictions, scores: Mapping[str, Any]) -> list[Chart]:
    """Curves of the classes, and the mean curves of this run and of others; those that are defined."""
    return [chart for chart in (_roc_chart(said, scores), _mean_roc_chart(scores)) if chart]


def _roc_chart(said: Predictions, scores: Mapping[str, Any]) -> Chart | None:
    """One curve a class (paper, Fig. 9); None where no class has one."""
    labels = scores["labels"]
    lines = []
    for i, (x, y) in class_curves(said.truth, said.probabilities).items():
        area = scores["per_class"][labels[i]]["roc_auc"]
        rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_CURVE_POINTS)).round().astype(int))
        points = [Point(float(x[row]), float(y[row])) for row in rows]
        lines.append(Line(name=f"{labels[i]} {area:.3f}", points=points, color=i))
    return _unit_square("ROC, each class against the rest", lines, named=True) if lines else None


def _mean_roc_chart(scores: Mapping[str, Any]) -> Chart | None:
    """Mean curve of this run and of those it is compared with (paper, Fig. 10); None without one."""
    told = [(f"{scores['run']} (this run)", scores["roc_auc"], scores["mean_roc"])]
    told += [(one["run"], one["scores"]["roc_auc"], one["mean_roc"]) for one in scores["against"]]
    grid = np.linspace(0, 1, CURVE_POINTS)
    lines = [
        Line(
            name=f"{name} {area:.3f}",
            points=[Point(float(x), y) for x, y in zip(grid, curve, strict=True)],
            color=color,
        )
        for color, (name, area, curve) in enumerate(told)
        if curve is not None and area is not None
    ]
    return _unit_square("Mean ROC over classes", lines, named=True) if lines else None


def reliability_chart(scores: Mapping[str, Any]) -> Chart:
    """Accuracy over confidence, in bins."""
    bins = scores["reliability"]
    width = 1 / len(bins["count"])
    known = [i for i, count in enumerate(bins["count"]) if count]
    points = [Point(bins["confidence"][i], bins["accuracy"][i]) for i in known]
    return draw(
        "Reliability",
        [Line(name="mean confidence of a bin", points=points, color=1, dots=True)],
        x_label="probability of the likeliest class",
        y_label="accuracy",
        x_range=(0, 1),
        y_range=(0, 1),
        height=330,
        bars=[(i * width, (i + 1) * width, bins["accuracy"][i]) for i in known],
        chance=True,
    )


def _unit_square(title: str, lines: Sequence[Line], *, named: bool) -> Chart:
    return draw(
        title,
        lines,
        x_label="false positive rate",
        y_label="true positive rate",
        x_range=(0, 1),
        y_range=(0, 1),
        height=330,
        chance=True,
        always_named=named,
    )


def settings(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, as a page shows them."""
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]
