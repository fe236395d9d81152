"""Parts of a training split: whole source groups, classes in proportion, the same for a seed."""

import hashlib
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from trainer.errors import UserError


def draw_validation(labels: Sequence[int], groups: Sequence[str], *, fraction: float, seed: int) -> set[str]:
    """Choose source groups for validation.

    Parameters
    ----------
    labels, groups
        Of each training sample.
    fraction
        Share of the samples wanted; what whole groups allow comes near it.

    Raises
    ------
    UserError
        If nothing would be left on one side.
    """
    num_groups = len(set(groups))
    if num_groups < 2:
        raise UserError(
            f"the training split has {len(labels)} samples of {num_groups} source group, too few to set a validation "
            "split aside; give a set with a val split, or more sources"
        )
    largest_class = int(np.bincount(labels).max())
    if largest_class < 2:
        raise UserError(
            f"the training split has one sample a class, {len(labels)} in all, too few to set a validation split "
            "aside; give a set with a val split, or more samples"
        )
    # A fold more than there are groups, or members of the largest class, could not be filled.
    num_folds = max(2, min(round(1 / fraction), num_groups, largest_class))
    candidates = [
        rows for rows in _folds(labels, groups, num_folds=num_folds, seed=seed) if 0 < len(rows) < len(labels)
    ]
    if not candidates:
        raise UserError(f"no validation split of whole source groups fits {len(labels)} samples; give a set with one")
    best = min(candidates, key=lambda rows: abs(len(rows) - fraction * len(labels)))
    return {groups[row] for row in best}


def draw_folds(labels: Sequence[int], groups: Sequence[str], *, num_folds: int, seed: int) -> list[set[str]]:
    """Divide source groups into folds, each to be held out once.

    Parameters
    ----------
    labels, groups
        Of each sample.

    Returns
    -------
    list of set of str
        Groups of each fold. Folds differ in size as far as whole groups force them to.

    Raises
    ------
    UserError
        If there are too few groups, or members of every class, for so many folds.
    """
    num_groups, largest_class = len(set(groups)), int(np.bincount(labels).max())
    if num_folds > min(num_groups, largest_class):
        raise UserError(
            f"--folds {num_folds}: {len(labels)} samples of {num_groups} source groups, at most {largest_class} of a "
            f"class, are too few; give at most {min(num_groups, largest_class)}"
        )
    folds = [{groups[row] for row in rows} for rows in _folds(labels, groups, num_folds=num_folds, seed=seed)]
    if not all(folds):
        raise UserError(f"--folds {num_folds}: the source groups are too large to fill each fold; give fewer")
    return folds


def _folds(labels: Sequence[int], groups: Sequence[str], *, num_folds: int, seed: int) -> list[np.ndarray]:
    """Return the rows of each fold."""
    splitter = StratifiedGroupKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer members than folds: expected in small sets
        return [held_out for _, held_out in splitter.split(labels, labels, groups)]


def hash_groups(groups: Iterable[str], *, fraction: float) -> set[str]:
    """Choose source groups to set aside by nothing but their names: a group stays on its side as a set grows.

    Each has the chance ``fraction``, at most one half. None is chosen where that share is less than one group. Else at
    least one is, and one is not: where chance would have it otherwise, those of the smallest and of the greatest hash,
    which a set that grows may turn to the other side.
    """
    ranked = sorted((int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]), name) for name in set(groups))
    if fraction * len(ranked) < 1:
        return set()
    limit = int(fraction * 2**64)
    num_chosen = sum(place < limit for place, _ in ranked)
    return {name for _, name in ranked[: min(max(1, num_chosen), len(ranked) - 1)]}
