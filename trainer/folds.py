"""Cross-validation: a run a fold, each trained on its own part, and what all say of what they never saw.

Files::

RUN/folds.json                          flags, and the samples that were divided
RUN/fold-0/, RUN/fold-1/, ...           a run each, with held_out.csv: its predictions for the fold it did not see
RUN/predictions.csv, RUN/metrics.json   of all folds together, written when the last one is done
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.bootstrap import cluster_intervals
from trainer.comparing import compare, read_aligned
from trainer.errors import UserError
from trainer.files import now, require_empty, require_folder, write_text
from trainer.metrics import Predictions, mean_curve, score
from trainer.normalization import normalization_of
from trainer.predictions import in_tar_order, read_predictions, write_predictions
from trainer.runs import read_config, read_folds, require_same_flags, versions
from trainer.shards import Shard, ShardSet, fingerprint, groups_of, keys_of, labels_of, num_samples, select
from trainer.splits import draw_folds, draw_validation

HELD_OUT = "held_out.csv"
RESAMPLES = 2000  # of whole source groups, for intervals


class Part(NamedTuple):
    """What one run is trained on and judged by."""

    run: Path
    train: list[Shard]
    val: list[Shard]
    words: str
    """Where the latter come from."""
    normalization: dict[str, Any]


def whole(run: Path, data: ShardSet, *, fraction: float, seed: int) -> Part:
    """Take a set's own splits; where it has no val split, set a share of the training split aside."""
    train = data.split("train")
    if "val" in data.split_names:
        val = data.split("val")
        words = f"{num_samples(val)} samples of the set's own split val"
        return Part(run, train, val, words, data.manifest.normalization)
    drawn = draw_validation(labels_of(train), groups_of(train), fraction=fraction, seed=seed)
    val = select(train, drawn.__contains__)
    rest = select(train, lambda group: group not in drawn)
    words = f"{num_samples(val)} samples of {len(drawn)} source groups drawn from train, as the set has no split val"
    return Part(run, rest, val, words, data.manifest.normalization)


def divided(data: ShardSet) -> list[Shard]:
    """Return the shards that are divided: those of the train and val splits."""
    return [shard for name in ("train", "val") if name in data.split_names for shard in data.split(name)]


def divide(run: Path, data: ShardSet, *, num_folds: int, fold: int | str, seed: int) -> list[Part]:
    """Divide the train and val splits into folds; of a fold's run the rest is what it is trained and standardised on.

    Parameters
    ----------
    fold
        ``all``, or the number of the one wanted, from 0.
    """
    shards = divided(data)
    folds = draw_folds(labels_of(shards), groups_of(shards), num_folds=num_folds, seed=seed)
    parts = []
    for number in range(num_folds) if fold == "all" else [int(fold)]:
        held_out = folds[number]
        rest = set(groups_of(shards)) - held_out
        train = select(shards, rest.__contains__)
        val = select(shards, held_out.__contains__)
        words = f"{num_samples(val)} samples of {len(held_out)} source groups, fold {number} of {num_folds}, held out"
        parts.append(Part(run / f"fold-{number}", train, val, words, normalization_of(data, train)))
    return parts


def open_folds(run: Path, data: ShardSet, flags: Mapping[str, Any], *, resume: bool) -> None:
    """Begin a cross-validation, or take up the one that is there.

    Raises
    ------
    UserError
        If something else is there, or the same with other flags or samples.
    """
    require_folder(run)
    if (run / "config.json").exists():
        raise UserError(f"--out {run} is one run; of a cross-validation give the folder above its folds, and --fold")
    path = run / "folds.json"
    samples = fingerprint(data.shards)
    if path.exists():
        stored = read_folds(run)
        if not resume and flags["fold"] == "all":
            raise UserError(f"--out {run} exists already; add --resume to go on with it, or name another folder")
        require_same_flags(run, stored["train"], flags)
        if stored["data"] != samples:
            raise UserError(f"{run} was begun on other samples than the set holds now; begin another run")
        return
    require_empty(run, but=(".folds.json",))
    run.mkdir(parents=True, exist_ok=True)
    stored = {"train": dict(flags), "data": samples, "versions": versions(), "created": now()}
    write_text(path, json.dumps(stored, indent=2) + "\n")


def require_comparable(run: Path, data: ShardSet, against: Sequence[str]) -> None:
    """Refuse to be compared with what is not scored, or on other samples, before anything is trained.

    Raises
    ------
    UserError
        As ``trainer.comparing.read_aligned`` says.
    """
    shards = divided(data)
    read_aligned(against, data.class_names, keys_of(shards), np.array(labels_of(shards)), besides=run)


def keep_held_out(part: Part, said: Predictions, labels: Sequence[str]) -> None:
    """Write what a fold's run says, in the end, of the samples it was not trained on."""
    hidden = part.run / f".{HELD_OUT}"
    write_predictions(in_tar_order(said, part.val), labels, hidden)
    hidden.replace(part.run / HELD_OUT)


def summarise(
    run: Path, labels: Sequence[str], *, num_folds: int, against: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Pool what every fold's run said of its held-out samples; nothing while one is missing.

    Parameters
    ----------
    against
        Folders of other cross-validations of the same samples; they may have been divided otherwise.

    Returns
    -------
    dict
        Scores of all samples together, under ``folds`` those of each fold with mean and standard deviation, and what
        ``trainer.comparing.compare`` says of each one under ``against``.
    """
    paths = [run / f"fold-{number}" / HELD_OUT for number in range(num_folds)]
    if not all(path.is_file() for path in paths):
        return None
    each = [read_predictions(path, labels) for path in paths]
    pooled = Predictions(
        keys=[key for said in each for key in said.keys],
        truth=np.concatenate([said.truth for said in each]),
        probabilities=np.concatenate([said.probabilities for said in each]),
        groups=[group for said in each for group in said.groups],
    )
    others = read_aligned(against, labels, pooled.keys, pooled.truth, besides=run)
    write_predictions(pooled, labels, run / "predictions.csv")
    scored = [score(said.truth, said.probabilities, labels) for said in each]
    scores = score(pooled.truth, pooled.probabilities, labels)
    scores |= {
        "source_groups": len(set(pooled.groups)),
        "cluster_bootstrap": cluster_intervals(
            pooled.truth, pooled.probabilities, pooled.groups, resamples=RESAMPLES, seed=0
        ),
        "mean_roc": mean_curve(pooled.truth, pooled.probabilities),
        "against": [one.about | compare(pooled, one.said, labels, resamples=RESAMPLES, seed=0) for one in others],
        "run": str(run),
        "checkpoint": "the last of each fold",
        "network": read_config(run / "fold-0").name,
        "split": f"{num_folds} folds, each held out once",
    }
    scores["folds"] = {"n": [fold["n"] for fold in scored]} | {
        name: _spread([fold[name] for fold in scored]) for name in ("accuracy", "macro_f1", "roc_auc")
    }
    write_text(run / "metrics.json", json.dumps(scores, indent=2) + "\n")
    return scores


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) of a score over folds; it may not be defined in one."""
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "each": list(values),
    }
