"""Whether a classifier's probabilities can be taken at their word, and scores that can."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from trainer.models.emotion import MIN_PROBABILITY

NUM_BINS = 10
SLOPES = (0.01, 10.0)  # a score never falls as its class becomes likelier
OFFSETS = (-20.0, 20.0)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Samples in bins of confidence, evenly from 0 to 1; what a bin without samples would say is null."""

    count: list[int]
    confidence: list[float | None]
    """Mean probability of the likeliest class."""
    accuracy: list[float | None]
    """Share of them where it was the true one."""

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean distance of a bin's accuracy from its confidence, weighed by its samples.

        After Naeini, Cooper & Hauskrecht (2015) and Guo et al. (2017). With few samples a bin it is too high.
        """
        gaps = [
            count * abs(confidence - accuracy)
            for count, confidence, accuracy in zip(self.count, self.confidence, self.accuracy, strict=True)
            if confidence is not None and accuracy is not None
        ]
        return sum(gaps) / sum(self.count)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds."""
        return asdict(self)


def reliability(truth: np.ndarray, probabilities: np.ndarray, *, num_bins: int = NUM_BINS) -> Reliability:
    """Compare confidence with accuracy, bin by bin.

    Parameters
    ----------
    truth
        Class indices, (N,).
    probabilities
        (N, classes).
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    sums = [np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, correct)]
    means = [
        [float(total / n) if n else None for total, n in zip(sums_a_bin, count, strict=True)] for sums_a_bin in sums
    ]
    return Reliability(count=count.tolist(), confidence=means[0], accuracy=means[1])


def negative_log_likelihood(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean cross-entropy, nats; a probability of 0 counts as the least positive number."""
    likelihood = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


def brier_score(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes: 0 to 2 (Brier 1950)."""
    one_hot = np.eye(probabilities.shape[1])[truth]
    return float(np.square(probabilities - one_hot).sum(1).mean())


@dataclass(frozen=True, kw_only=True)
class Sigmoids:
    """One sigmoid a class over its log-odds: a score of each emotion for itself, which need not add up to 1.

    Softmax leaves logits free up to a number that all classes share, so a sigmoid of the logits themselves would mean
    nothing. The log-odds of softmax's probability are free of it.
    """

    slope: float
    """What log-odds are multiplied by, the same for all classes."""
    offsets: list[float]
    """What is added to them, a number a class."""
    num_samples: int
    """Of how many validation samples they were fitted."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Sigmoids":
        """Read what a checkpoint says.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not as it was written.
        """
        return cls(
            slope=float(raw["slope"]),
            offsets=[float(offset) for offset in raw["offsets"]],
            num_samples=int(raw["num_samples"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return asdict(self)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the scores, 0 to 1, of softmax probabilities (..., classes): the same shape, float64."""
        return np.asarray(expit(self.slope * log_odds(probabilities) + np.array(self.offsets)))


def fit_sigmoids(truth: np.ndarray, probabilities: np.ndarray) -> Sigmoids:
    """Fit them by maximum likelihood, each class against the others, as Platt (1999) does with support vectors.

    His targets are kept: not 0 and 1 but what a uniform prior makes of the counts, so that classes which a few samples
    separate, or that are absent, end at no infinity. One slope serves all classes, since validation splits are small.

    Parameters
    ----------
    truth
        Class indices, (N,).
    probabilities
        (N, classes), softmax.
    """
    odds_NK = log_odds(probabilities)
    one_hot_NK = np.eye(odds_NK.shape[1])[truth]
    counts_K = one_hot_NK.sum(0)
    high_K, low_K = (counts_K + 1) / (counts_K + 2), 1 / (len(truth) - counts_K + 2)
    target_NK = np.where(one_hot_NK == 1, high_K, low_K)

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        values_NK = parameters[0] * odds_NK + parameters[1:]
        error_NK = (expit(values_NK) - target_NK) / len(truth)
        loss = (np.logaddexp(0, values_NK) - target_NK * values_NK).sum() / len(truth)
        return float(loss), np.concatenate([[(error_NK * odds_NK).sum()], error_NK.sum(0)])

    start = np.concatenate([[1.0], np.zeros(odds_NK.shape[1])])
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[SLOPES] + [OFFSETS] * odds_NK.shape[1])
    slope, *offsets = found.x.tolist()
    return Sigmoids(slope=slope, offsets=offsets, num_samples=len(truth))


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)), nats; beyond what float32 tells apart from 0 and 1 it stays finite."""
    return np.asarray(logit(np.clip(np.asarray(probabilities, np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)))
