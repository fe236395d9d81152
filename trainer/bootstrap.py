"""How far scores would move with other videos: source groups drawn anew, with replacement.

Clips of one video resemble each other, so that intervals which take them for independent are too narrow. Whole source
groups are drawn instead (the cluster bootstrap: Davison & Hinkley 1997, section 3.8; Field & Welsh 2007), and what
lies between the 2.5th and 97.5th percentile of the resampled scores is the interval. With few groups it is too narrow
all the same, and an error that never occurred is in no resample: read it beside Wilson's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.metrics import CONFIDENCE

MIN_GROUPS = 2
CHUNK = 2_000_000  # weights held at a time: 16 MB

Scores = dict[str, np.ndarray]
"""One value a resample, (R,), by name; nan where the resample does not define it."""


def group_counts(num_groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn, int64 (r, groups), in parts of which r adds up to ``resamples``."""
    rng = np.random.default_rng(seed)
    part = max(1, CHUNK // num_groups)
    for start in range(0, resamples, part):
        yield rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=min(part, resamples - start))


def weighted_scores(truth: np.ndarray, probabilities: np.ndarray, weights_RN: np.ndarray) -> Scores:
    """Accuracy, macro-F1 by argmax and mean ROC-AUC of samples that count so many times each.

    Equal to ``trainer.metrics.score`` of the samples repeated, for many resamples at once.

    Parameters
    ----------
    truth
        Class indices, (N,).
    probabilities
        (N, classes).
    weights_RN
        How often each sample counts in each resample.
    """
    predicted = probabilities.argmax(1)
    weights_RN = weights_RN.astype(np.float64)
    f1s, areas = [], []
    for i in range(probabilities.shape[1]):
        is_true, is_said = (truth == i).astype(float), (predicted == i).astype(float)
        positives, said, hits = (weights_RN @ chosen for chosen in (is_true, is_said, is_true * is_said))
        with np.errstate(invalid="ignore", divide="ignore"):
            f1s.append(np.where(positives > 0, 2 * hits / (positives + said), np.nan))
        areas.append(_areas(is_true, probabilities[:, i], weights_RN))
    return {
        "accuracy": weights_RN @ (predicted == truth) / weights_RN.sum(1),
        "macro_f1": _nanmean(np.stack(f1s)),
        "roc_auc": _nanmean(np.stack(areas)),
    }


def _areas(is_true: np.ndarray, values: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each resample: pairs ranked right, ties half; nan without one of the sides."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # where each distinct value begins
    sorted_RN, sorted_true = weights_RN[:, order], is_true[order]
    positives = np.add.reduceat(sorted_RN * sorted_true, starts, axis=1)
    negatives = np.add.reduceat(sorted_RN * (1 - sorted_true), starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positives * below).sum(1) / (positives.sum(1) * negatives.sum(1)))


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is a number; nan where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(0) / known.sum(0))


def resampled(
    truth: np.ndarray, by_name: Mapping[str, np.ndarray], groups: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Scores]:
    """Scores of several classifiers of the same samples, on the same resamples.

    Parameters
    ----------
    truth
        Class indices, (N,).
    by_name
        Probabilities, (N, classes), of each classifier.
    groups
        Source group of each sample.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    parts: dict[str, list[Scores]] = {name: [] for name in by_name}
    for counts in group_counts(len(names), resamples, seed):
        # A resample holds all samples of the groups drawn, so its size varies.
        step = max(1, CHUNK // len(truth))
        for start in range(0, len(counts), step):
            weights_RN = counts[start : start + step, index]
            for name, probabilities in by_name.items():
                parts[name].append(weighted_scores(truth, probabilities, weights_RN))
    return {
        name: {key: np.concatenate([part[key] for part in scores]) for key in scores[0]}
        for name, scores in parts.items()
    }


def intervals(values: Scores) -> dict[str, list[float] | None]:
    """95% percentile intervals; null where fewer than half of the resamples define the score."""
    return {name: interval(resampled_R) for name, resampled_R in values.items()}


def interval(values: np.ndarray) -> list[float] | None:
    """95% percentile interval of what is a number; None where less than half is."""
    known = values[np.isfinite(values)]
    if 2 * len(known) < len(values):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    return [float(edge) for edge in np.percentile(known, [tail, 100 - tail])]


def cluster_intervals(
    truth: np.ndarray, probabilities: np.ndarray, groups: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return ``metrics.json``'s ``cluster_bootstrap``: intervals, or null with a reason."""
    head: dict[str, Any] = {"groups": len(set(groups)), "resamples": resamples, "seed": seed, "reason": None}
    if head["groups"] < MIN_GROUPS:
        reason = f"all {len(truth)} samples are of one source group: nothing to draw from"
        return head | {"reason": reason, "accuracy": None, "macro_f1": None, "roc_auc": None}
    drawn = resampled(truth, {"": probabilities}, groups, resamples=resamples, seed=seed)[""]
    return head | intervals(drawn)
