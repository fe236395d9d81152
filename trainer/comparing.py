"""Two classifiers on the same samples: who is right where the other is wrong, and by how much the scores differ."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from trainer.bootstrap import MIN_GROUPS, interval, resampled
from trainer.errors import UserError, one_line
from trainer.metrics import Predictions, mean_curve, score
from trainer.predictions import read_predictions

MAX_KEYS_SHOWN = 3
SCORES = ("accuracy", "macro_f1", "roc_auc")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A run that was scored before."""

    folder: Path
    """Where its results lie."""
    about: dict[str, Any]
    """Its ``run``, ``checkpoint`` and ``network``, as its ``metrics.json`` tells them."""
    said: Predictions


def read_compared(folder: Path, labels: Sequence[str], *, besides: Path) -> Compared:
    """Read the results of a run that was scored before.

    Parameters
    ----------
    besides
        Where the new results go, which must be another place.

    Raises
    ------
    UserError
        If there are none, they are damaged, or of other labels.
    """
    flag = f"--against {folder}"
    if folder.resolve() == besides.resolve():
        raise UserError(f"{flag}: these are the results to be written; name another run, or give --out")
    try:
        told = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        about = {name: str(told[name]) for name in ("run", "checkpoint", "network")}
    except (FileNotFoundError, NotADirectoryError):
        if (folder / "folds.json").is_file():
            raise UserError(f"{flag}: no metrics.json there yet; train the other folds of that run first") from None
        raise UserError(
            f"{flag}: no metrics.json there; score that run first: python -m trainer.evaluate --run {folder}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{flag}: metrics.json cannot be read ({one_line(error)}); score that run again") from None
    return Compared(folder=folder, about=about, said=read_predictions(folder / "predictions.csv", labels))


def read_aligned(
    folders: Sequence[str], labels: Sequence[str], keys: Sequence[str], truth: np.ndarray, *, besides: Path
) -> list[Compared]:
    """Read the results of runs that were scored before on these samples, in the order of these keys.

    Raises
    ------
    UserError
        As ``read_compared`` and ``same_samples`` say.
    """
    found = [read_compared(Path(name), labels, besides=besides) for name in folders]
    return [
        replace(one, said=same_samples(keys, truth, one.said, where=f"{one.folder}/predictions.csv")) for one in found
    ]


def same_samples(keys: Sequence[str], truth: np.ndarray, theirs: Predictions, *, where: str) -> Predictions:
    """Return theirs in the order of our keys.

    Raises
    ------
    UserError
        If a sample is in one of both alone, or its class is another there.
    """
    mend = "score both runs on the same split of the same set"
    if missing := sorted(set(keys) - set(theirs.keys)):
        raise UserError(f"{where} is of other samples: it lacks {_named(missing)}; {mend}")
    if more := sorted(set(theirs.keys) - set(keys)):
        raise UserError(f"{where} is of other samples: it has {_named(more)} too; {mend}")
    place = {key: row for row, key in enumerate(theirs.keys)}
    aligned = theirs.at([place[key] for key in keys])
    if differ := np.flatnonzero(aligned.truth != truth).tolist():
        raise UserError(f"{where} gives another class to {_named([keys[row] for row in differ])}; {mend}")
    return aligned


def _named(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:MAX_KEYS_SHOWN])
    return shown if len(keys) <= MAX_KEYS_SHOWN else f"{shown} and {len(keys) - MAX_KEYS_SHOWN} more"


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test (1947): whether the samples that one alone got right are split evenly.

    Parameters
    ----------
    ours, theirs
        Whether each sample was classified rightly, bool (N,).

    Returns
    -------
    dict
        ``only_this``, ``only_other``, ``both``, ``neither``: samples; ``p_value``, two-sided, 1 where none differs.
    """
    only_this, only_other = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    differing = only_this + only_other
    return {
        "only_this": only_this,
        "only_other": only_other,
        "both": int((ours & theirs).sum()),
        "neither": int((~ours & ~theirs).sum()),
        "p_value": float(binomtest(only_this, differing).pvalue) if differing else 1.0,
    }


def compare(
    ours: Predictions, theirs: Predictions, labels: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Compare with another classifier's predictions of the same samples in the same order.

    Returns
    -------
    dict
        The other's ``scores``; ``difference`` of each score, ours minus theirs, with an ``interval`` from resampled
        source groups, both on the same resamples (null where it is not defined); ``mcnemar``; ``mean_roc``, the
        other's mean ROC curve.
    """
    scores = [score(said.truth, said.probabilities, labels) for said in (ours, theirs)]
    drawn = None
    if len(set(ours.groups)) >= MIN_GROUPS:
        both = {"ours": ours.probabilities, "theirs": theirs.probabilities}
        drawn = resampled(ours.truth, both, ours.groups, resamples=resamples, seed=seed)
    difference = {}
    for name in SCORES:
        here, there = (one[name] for one in scores)
        defined = here is not None and there is not None
        difference[name] = {
            "value": here - there if defined else None,
            "interval": interval(drawn["ours"][name] - drawn["theirs"][name]) if drawn and defined else None,
        }
    return {
        "scores": {name: scores[1][name] for name in (*SCORES, "accuracy_interval", "macro_f1_rounded")},
        "difference": difference,
        "mcnemar": mcnemar(ours.predicted == ours.truth, theirs.predicted == theirs.truth),
        "mean_roc": mean_curve(theirs.truth, theirs.probabilities),
    }


def in_words(against: dict[str, Any]) -> str:
    """Tell of one that was compared with in a line; ``against`` is what ``metrics.json`` holds of it."""
    difference, test = against["difference"]["accuracy"], against["mcnemar"]
    span = difference["interval"]
    between = f" (95% {span[0]:+.3f} to {span[1]:+.3f})" if span else ""
    return f"against {against['run']}: accuracy {difference['value']:+.3f}{between}, McNemar p {test['p_value']:.3g}"
