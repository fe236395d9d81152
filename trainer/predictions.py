"""``predictions.csv``: what a run says of each sample, exact enough that every score can be computed from it again."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainer.errors import UserError, one_line
from trainer.metrics import Predictions
from trainer.runs import group_hash
from trainer.shards import Shard, groups_of, keys_of

COLUMNS = ("key", "group", "label", "predicted")
"""Before the probability of each class; ``group`` is the hash of the source group, empty where nobody asked."""


def write_predictions(said: Predictions, labels: Sequence[str], path: Path) -> None:
    """Write a row a sample: key, source group, true class, likeliest class, probability of each class."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *labels])
        groups = said.groups or [""] * len(said.keys)
        for key, group, truth, row in zip(said.keys, groups, said.truth, said.probabilities, strict=True):
            writer.writerow([key, group, labels[truth], labels[row.argmax()], *(repr(float(p)) for p in row)])


def in_tar_order(said: Predictions, shards: Sequence[Shard]) -> Predictions:
    """Return predictions in the order of the shards, whatever reader processes delivered, with source groups."""
    place = {key: row for row, key in enumerate(keys_of(shards))}
    groups = [group_hash(group) for group in groups_of(shards)]
    ordered = said.at(sorted(range(len(said.keys)), key=lambda row: place[said.keys[row]]))
    return replace(ordered, groups=[groups[place[key]] for key in ordered.keys])


def read_predictions(path: Path, labels: Sequence[str]) -> Predictions:
    """Read them back.

    Raises
    ------
    UserError
        If the file is not there, is damaged, or is of other labels.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = list(csv.reader(file))
        if tuple(head[: len(COLUMNS)]) != COLUMNS:
            raise UserError(f"{path} is no table of predictions; write it anew: python -m trainer.evaluate")
        if head[len(COLUMNS) :] != list(labels):
            raise UserError(f"{path} is of the labels {', '.join(head[len(COLUMNS) :])}, not of {', '.join(labels)}")
        index = {label: i for i, label in enumerate(labels)}
        if not rows:
            raise ValueError("it has no row")
        keys, groups, truth, _, *probabilities = [column[1:] for column in zip(head, *rows, strict=True)]
        return Predictions(
            keys=list(keys),
            groups=list(groups) if any(groups) else [],
            truth=np.array([index[label] for label in truth]),
            probabilities=np.array(probabilities, np.float64).T,
        )
    except FileNotFoundError:
        raise UserError(f"{path} is not there; score that run first: python -m trainer.evaluate --run RUN") from None
    except (OSError, ValueError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); score that run again") from None
