"""A validation split for a set that has none: whole source groups, classes in proportion, the same for a seed."""

import warnings
from collections.abc import Sequence

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
    folds = max(2, min(round(1 / fraction), num_groups, largest_class))
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer members than folds: expected in small sets
        candidates = [
            validation for train, validation in splitter.split(labels, labels, groups) if len(train) and len(validation)
        ]
    if not candidates:
        raise UserError(f"no validation split of whole source groups fits {len(labels)} samples; give a set with one")
    best = min(candidates, key=lambda rows: abs(len(rows) - fraction * len(labels)))
    return {groups[row] for row in best}
