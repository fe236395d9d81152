"""The validation split drawn where a set has none."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import UserError
from trainer.splits import draw_validation, hash_groups


@settings(deadline=None, max_examples=50)
@given(
    samples=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=60),
    fraction=st.sampled_from([0.1, 0.25, 0.5]),
)
def test_whole_groups_are_drawn_and_both_sides_keep_some(samples, fraction):
    labels, groups = [label for label, _ in samples], [f"g{group}" for _, group in samples]
    if len(set(groups)) < 2:
        with pytest.raises(UserError, match="too few to set a validation split aside"):
            draw_validation(labels, groups, fraction=fraction, seed=0)
        return
    if len(set(labels)) == len(labels):
        with pytest.raises(UserError, match="one sample a class"):
            draw_validation(labels, groups, fraction=fraction, seed=0)
        return
    drawn = draw_validation(labels, groups, fraction=fraction, seed=0)
    assert drawn
    assert drawn < set(groups)


def test_a_split_is_stratified_near_its_size_and_the_same_for_a_seed():
    labels = np.tile(np.arange(6), 100).tolist()
    groups = [f"g{i // 12}" for i in range(600)]
    drawn = draw_validation(labels, groups, fraction=0.1, seed=3)
    assert drawn == draw_validation(labels, groups, fraction=0.1, seed=3)
    assert drawn != draw_validation(labels, groups, fraction=0.1, seed=4)
    counts = np.bincount([label for label, group in zip(labels, groups, strict=True) if group in drawn])
    assert counts.tolist() == [10] * 6


def test_samples_that_are_groups_of_their_own_in_small_classes_still_split():
    drawn = draw_validation([0, 0, 1, 2], list("abcd"), fraction=0.1, seed=0)
    assert 1 <= len(drawn) < 4


def test_groups_are_set_aside_by_name_and_stay_aside_as_a_set_grows():
    names = [f"group {i}" for i in range(2000)]
    small, large = (hash_groups(names[:n], fraction=0.05) for n in (1000, 2000))
    assert small == large.intersection(names[:1000])
    assert 70 < len(large) < 130
    assert hash_groups(names[:19], fraction=0.05) == set()
    assert hash_groups(names, fraction=0) == set()


@settings(deadline=None, max_examples=50)
@given(names=st.sets(st.text(max_size=4), max_size=70), fraction=st.sampled_from([0, 0.02, 0.1, 0.5]))
def test_groups_are_set_aside_wherever_their_share_is_one_or_more_and_some_are_left(names, fraction):
    held_out = hash_groups(names, fraction=fraction)
    assert bool(held_out) == (fraction * len(names) >= 1)
    assert held_out < names or not names
    lowest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[: len(held_out)]
    assert held_out == set(lowest)
