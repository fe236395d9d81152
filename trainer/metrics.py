"""Scores of a classifier: what the paper and its authors' code report, with an interval, and what they leave out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)
from torch import Tensor, nn

from trainer.calibration import brier_score, negative_log_likelihood, reliability

CONFIDENCE = 0.95
CURVE_POINTS = 101
"""Of a mean ROC curve, evenly over false-positive rates."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a classifier says of each sample."""

    keys: list[str]
    truth: np.ndarray
    """Class indices, (N,)."""
    probabilities: np.ndarray
    """Softmax, float64 (N, classes)."""
    groups: list[str] = field(default_factory=list)
    """Hashes of the samples' source groups; empty where nobody asked."""

    @property
    def predicted(self) -> np.ndarray:
        """Likeliest class of each sample, (N,)."""
        return np.asarray(self.probabilities.argmax(1))

    @classmethod
    def of(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Join what several ranks say of their shares, of which some may be empty."""
        said = [part for part in parts if part.keys]
        return cls(
            keys=[key for part in said for key in part.keys],
            truth=np.concatenate([part.truth for part in said]),
            probabilities=np.concatenate([part.probabilities for part in said]),
            groups=[group for part in said for group in part.groups],
        )

    @property
    def accuracy(self) -> float:
        """Share of samples whose likeliest class is the true one."""
        return float((self.predicted == self.truth).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return negative_log_likelihood(self.truth, self.probabilities)

    def at(self, rows: Sequence[int] | np.ndarray) -> "Predictions":
        """Return those of some samples, in the order given."""
        return Predictions(
            keys=[self.keys[row] for row in rows],
            truth=self.truth[rows],
            probabilities=self.probabilities[rows],
            groups=[self.groups[row] for row in rows] if self.groups else [],
        )


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    to_inputs: Callable[[dict[str, Any]], dict[str, Tensor]],
    views: Callable[[dict[str, Any]], Iterable[dict[str, Any]]] = lambda batch: [batch],
) -> Predictions:
    """Classify every sample of labelled batches (see ``trainer.readers``), in evaluation mode.

    Parameters
    ----------
    views
        From a batch to several of the same samples, whose probabilities are averaged.
    """
    was_training = model.training
    model.eval()
    keys: list[str] = []
    truth, probabilities = [np.zeros(0, np.int64)], []
    for batch in batches:
        keys += batch["keys"]
        truth.append(batch["label"].numpy())
        seen = [model(to_inputs(view)).double().softmax(1) for view in views(batch)]
        probabilities.append(torch.stack(seen).mean(0).cpu().numpy())
    model.train(was_training)
    if not keys:  # a rank's share may be empty
        return Predictions(keys=[], truth=truth[0], probabilities=np.zeros((0, 0)))
    return Predictions(keys=keys, truth=np.concatenate(truth), probabilities=np.concatenate(probabilities))


def wilson_interval(correct: int, n: int) -> list[float]:
    """95% Wilson score interval of a proportion."""
    interval = binomtest(correct, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def score(truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Score predictions.

    Averages over classes are over those that occur in ``truth``.

    Parameters
    ----------
    truth
        Class indices, (N,).
    probabilities
        (N, classes).

    Returns
    -------
    dict
        ``n, accuracy, accuracy_interval`` (95%, Wilson); ``majority``, the share of the most frequent class;
        ``balanced_accuracy``, the mean recall; ``top2_accuracy``; ``macro_f1`` by argmax; ``macro_f1_rounded``, the
        authors': each probability rounded on its own, so that below one half no class is predicted at all;
        ``roc_auc``, the mean of one-vs-rest areas, null with ``roc_auc_reason`` where it is not defined;
        ``average_precision``, the mean over classes; ``negative_log_likelihood`` (nats), ``brier`` (0 to 2),
        ``calibration_error`` and its ``reliability`` bins; ``confusion`` (rows are the truth), ``per_class`` and
        ``labels``.
    """
    n, classes = len(truth), range(len(labels))
    predicted = probabilities.argmax(1)
    one_hot = np.eye(len(labels), dtype=int)[truth]
    rounded = np.round(probabilities).astype(int)
    present = [i for i in classes if one_hot[:, i].any()]
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    _, _, f1_rounded, _ = precision_recall_fscore_support(one_hot, rounded, zero_division=0)
    areas = {i: float(roc_auc_score(one_hot[:, i], probabilities[:, i])) for i in present if not one_hot[:, i].all()}
    average_precision = {i: float(average_precision_score(one_hot[:, i], probabilities[:, i])) for i in present}
    confusion = confusion_matrix(truth, predicted, labels=classes)
    correct = int((predicted == truth).sum())
    calibration = reliability(truth, probabilities)
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_interval": wilson_interval(correct, n),
        "majority": float(one_hot.sum(0).max() / n),
        "balanced_accuracy": float(np.mean(recall[present])),
        "top2_accuracy": top_k_accuracy(truth, probabilities, k=2),
        "macro_f1": float(np.mean(f1[present])),
        "macro_f1_rounded": float(np.mean(f1_rounded[present])),
        "roc_auc": float(np.mean(list(areas.values()))) if areas else None,
        "roc_auc_reason": _auc_reason(areas, present, labels),
        "average_precision": float(np.mean(list(average_precision.values()))),
        "negative_log_likelihood": negative_log_likelihood(truth, probabilities),
        "brier": brier_score(truth, probabilities),
        "calibration_error": calibration.expected_error,
        "reliability": calibration.as_dict(),
        "confusion": confusion.tolist(),
        "per_class": {
            label: {
                "n": int(confusion[i].sum()),
                "predicted": int(confusion[:, i].sum()),
                "precision": float(precision[i]) if i in present and confusion[:, i].any() else None,
                "recall": float(recall[i]) if i in present else None,
                "f1": float(f1[i]) if i in present else None,
                "average_precision": average_precision.get(i),
                "roc_auc": areas.get(i),
            }
            for i, label in enumerate(labels)
        },
        "labels": list(labels),
    }


def _auc_reason(areas: dict[int, float], present: list[int], labels: Sequence[str]) -> str | None:
    """Say why an area is missing, or what the mean leaves out."""
    if not areas:
        return f"every sample is of class {labels[present[0]]}: there is no other class to tell it from"
    if absent := [label for i, label in enumerate(labels) if i not in present]:
        return f"mean over the classes present; without a sample: {', '.join(absent)}"
    return None


def top_k_accuracy(truth: np.ndarray, probabilities: np.ndarray, *, k: int) -> float:
    """Share of samples whose true class is among the k likeliest; of equal probabilities the lower index comes first.

    As by ``argmax``, so that k = 1 is the accuracy; scikit-learn's own takes the higher index.
    """
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((likeliest == truth[:, None]).any(1).mean())


def class_curves(truth: np.ndarray, probabilities: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """One-vs-rest ROC curves: false- and true-positive rates by class, for the classes that have both sides."""
    curves = {}
    for i in range(probabilities.shape[1]):
        positive = truth == i
        if positive.any() and not positive.all():
            false_positives, true_positives, _ = roc_curve(positive, probabilities[:, i])
            curves[i] = (false_positives, true_positives)
    return curves


def mean_curve(truth: np.ndarray, probabilities: np.ndarray) -> list[float] | None:
    """Mean of the one-vs-rest ROC curves, at ``CURVE_POINTS`` false-positive rates from 0 to 1; None without one."""
    curves = class_curves(truth, probabilities).values()
    if not curves:
        return None
    grid = np.linspace(0, 1, CURVE_POINTS)
    mean = np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)
    mean[0] = 0.0
    return [round(float(y), 6) for y in mean]
