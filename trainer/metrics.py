"""Scores of a classifier: what the paper and its authors' code report, with an interval."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score
from torch import Tensor, nn

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a classifier says of each sample."""

    keys: list[str]
    truth: np.ndarray
    """Class indices, (N,)."""
    probabilities: np.ndarray
    """Softmax, float64 (N, classes)."""

    @property
    def accuracy(self) -> float:
        """Share of samples whose likeliest class is the true one."""
        return float((self.probabilities.argmax(1) == self.truth).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        likelihood = self.probabilities[np.arange(len(self.truth)), self.truth]
        return float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


@torch.no_grad()
def predict(
    model: nn.Module, batches: Iterable[dict[str, Any]], to_inputs: Callable[[dict[str, Any]], dict[str, Tensor]]
) -> Predictions:
    """Classify every sample of labelled batches (see ``trainer.loader``), in evaluation mode."""
    was_training = model.training
    model.eval()
    keys: list[str] = []
    truth, probabilities = [], []
    for batch in batches:
        keys += batch["keys"]
        truth.append(batch["label"].numpy())
        probabilities.append(model(to_inputs(batch)).double().softmax(1).cpu().numpy())
    model.train(was_training)
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
        ``n, accuracy, accuracy_interval`` (95%, Wilson); ``macro_f1`` by argmax; ``macro_f1_rounded``, the authors':
        each probability rounded on its own, so that below one half no class is predicted at all; ``roc_auc``, the
        mean of one-vs-rest areas, null with ``roc_auc_reason`` where it is not defined; ``confusion`` (rows are the
        truth), ``per_class`` and ``labels``.
    """
    n = len(truth)
    predicted = probabilities.argmax(1)
    one_hot = np.eye(len(labels), dtype=int)[truth]
    rounded = np.round(probabilities).astype(int)
    present = [i for i in range(len(labels)) if one_hot[:, i].any()]
    f1 = f1_score(truth, predicted, labels=range(len(labels)), average=None, zero_division=0)
    f1_rounded = f1_score(one_hot, rounded, average=None, zero_division=0)
    areas = {i: float(roc_auc_score(one_hot[:, i], probabilities[:, i])) for i in present if not one_hot[:, i].all()}
    confusion = confusion_matrix(truth, predicted, labels=range(len(labels)))
    correct = int((predicted == truth).sum())
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_interval": wilson_interval(correct, n),
        "macro_f1": float(np.mean(f1[present])),
        "macro_f1_rounded": float(np.mean(f1_rounded[present])),
        "roc_auc": float(np.mean(list(areas.values()))) if areas else None,
        "roc_auc_reason": _auc_reason(areas, present, labels),
        "confusion": confusion.tolist(),
        "per_class": {
            label: {
                "n": int(confusion[i].sum()),
                "recall": float(confusion[i, i] / confusion[i].sum()) if i in present else None,
                "f1": float(f1[i]) if i in present else None,
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
