"""Two runs on the same samples: tests against sums by hand, and refusals that name the sample."""

from math import comb

import numpy as np
import pytest

from trainer.comparing import compare, mcnemar, same_samples
from trainer.errors import UserError
from trainer.metrics import Predictions
from trainer.predictions import read_predictions, write_predictions

LABELS = ["a", "b"]


def said(right, truth=None, keys=None, groups=None):
    right = np.asarray(right, bool)
    truth = np.zeros(len(right), int) if truth is None else np.asarray(truth)
    predicted = np.where(right, truth, 1 - truth)
    return Predictions(
        keys=keys or [f"k{i}" for i in range(len(right))],
        truth=truth,
        probabilities=np.where(np.eye(2)[predicted] == 1, 0.7, 0.3),
        groups=groups or [f"g{i}" for i in range(len(right))],
    )


def two_sided(one, other):
    """Twice the smaller tail of a fair coin."""
    n, least = one + other, min(one, other)
    return min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (5, 5), (8, 1), (3, 17), (0, 12)])
def test_mcnemar_is_a_fair_coin_over_the_samples_where_they_differ(one, other):
    ours = [True] * one + [False] * other + [True] * 4 + [False] * 3
    theirs = [False] * one + [True] * other + [True] * 4 + [False] * 3
    told = mcnemar(np.array(ours), np.array(theirs))
    assert [told[name] for name in ("only_this", "only_other", "both", "neither")] == [one, other, 4, 3]
    assert told["p_value"] == pytest.approx(two_sided(one, other))


def test_a_difference_is_resampled_with_both_runs_on_the_same_groups():
    truth = [0, 1] * 20
    right = np.random.default_rng(0).random(40) < 0.6
    worse = right.copy()
    worse[np.flatnonzero(right)[:5]] = False
    told = compare(said(right, truth), said(worse, truth), LABELS, resamples=2000, seed=0)
    assert told["difference"]["accuracy"]["value"] == pytest.approx(5 / 40)
    low, high = told["difference"]["accuracy"]["interval"]
    # five of forty: a paired interval never goes below 0, and 1.96 standard errors are 0.1025
    assert 0 <= low <= 5 / 40 - 0.07
    assert high == pytest.approx(5 / 40 + 0.1025, abs=0.03)
    same = compare(said(right, truth), said(right, truth), LABELS, resamples=100, seed=0)
    assert same["difference"]["macro_f1"] == {"value": 0, "interval": [0, 0]}
    assert same["mcnemar"]["p_value"] == 1


def test_a_difference_without_an_area_or_with_one_group_has_no_interval():
    told = compare(said([1, 0, 1], groups=["g"] * 3), said([0, 1, 1]), LABELS, resamples=100, seed=0)
    assert told["difference"]["roc_auc"] == {"value": None, "interval": None}
    assert told["difference"]["accuracy"] == {"value": 0, "interval": None}
    assert told["mean_roc"] is None


def test_other_samples_are_refused_by_name_and_the_same_are_put_in_order():
    ours = said([1, 0, 1], truth=[0, 1, 0])
    mixed = said([1, 1, 0], truth=[0, 0, 1], keys=["k2", "k0", "k1"])
    assert same_samples(ours.keys, ours.truth, mixed, where="x").keys == ours.keys
    for other, words in [
        (said([1, 1]), "x is of other samples: it lacks k2"),
        (said([1] * 9), "x is of other samples: it has k3, k4, k5 and 3 more too"),
        (said([1, 1, 1]), "x gives another class to k1"),
    ]:
        with pytest.raises(UserError, match=words):
            same_samples(ours.keys, ours.truth, other, where="x")


def test_predictions_come_back_from_their_table_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    labels = ['odd, "label"', "line\nbreak", "ünï"]
    first = Predictions(
        keys=["a", "b", "c"],
        truth=np.array([2, 0, 1]),
        probabilities=rng.dirichlet([0.01] * 3, 3),
        groups=["x", "y", "x"],
    )
    write_predictions(first, labels, tmp_path / "predictions.csv")
    again = read_predictions(tmp_path / "predictions.csv", labels)
    assert (again.keys, again.groups) == (first.keys, first.groups)
    assert np.array_equal(again.truth, first.truth)
    assert np.array_equal(again.probabilities, first.probabilities)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not there; score that run first"),
        ("", "cannot be read"),
        ("key,group,label,predicted,a,b\n", "cannot be read"),
        ("key,group,label,predicted,a,b\nk,g,a,a,0.5\n", "cannot be read"),
        ("key,group,label,predicted,a,b\nk,g,z,a,0.5,0.5\n", "cannot be read"),
        ("key,label,predicted,a,b\nk,a,a,0.5,0.5\n", "is no table of predictions"),
        ("key,group,label,predicted,a,c\nk,g,a,a,0.5,0.5\n", "is of the labels a, c, not of a, b"),
    ],
)
def test_a_table_of_predictions_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "predictions.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words) as told:
        read_predictions(path, LABELS)
    assert "\n" not in str(told.value)
