"""Intervals from resampled source groups, against resampling by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import bootstrap
from trainer.bootstrap import cluster_intervals, group_counts, interval, resampled, weighted_scores
from trainer.metrics import score

LABELS = ["a", "b", "c"]


def drawn(seed, n=30, decimals=1):
    """Predictions with ties, and groups of several samples."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    probabilities = np.round(rng.dirichlet([1, 1, 1], n) + 0.4 * np.eye(3)[truth], decimals)
    return truth, probabilities, [f"g{i}" for i in rng.integers(0, max(2, n // 3), n)]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 30))
def test_weighted_scores_are_those_of_the_samples_repeated(seed, n):
    truth, probabilities, _ = drawn(seed, n)
    weights = np.random.default_rng(seed).integers(0, 3, (4, n))
    weights[:, 0] += weights.sum(1) == 0
    fast = weighted_scores(truth, probabilities, weights)
    for r, row in enumerate(weights):
        again = np.repeat(np.arange(n), row)
        slow = score(truth[again], probabilities[again], LABELS)
        for name in ("accuracy", "macro_f1", "roc_auc"):
            assert fast[name][r] == pytest.approx(np.nan if slow[name] is None else slow[name], nan_ok=True)


def test_whole_groups_are_drawn_as_often_as_there_are_groups():
    parts = list(group_counts(7, 500, seed=3))
    counts = np.concatenate(parts)
    assert counts.shape == (500, 7)
    assert (counts.sum(1) == 7).all()
    assert counts.mean() == 1
    assert counts.std() == pytest.approx(np.sqrt(6 / 7), abs=0.05)
    truth, probabilities, _ = drawn(1, 20)
    groups = [f"g{i % 4}" for i in range(20)]
    scores = resampled(truth, {"x": probabilities}, groups, resamples=500, seed=3)["x"]
    slow = []
    for row in np.concatenate(list(group_counts(4, 500, seed=3))):
        again = [i for group, times in enumerate(row) for _ in range(times) for i in range(20) if i % 4 == group]
        slow.append((probabilities[again].argmax(1) == truth[again]).mean())
    assert scores["accuracy"] == pytest.approx(np.array(slow))


def test_the_interval_is_the_same_for_a_seed_and_however_the_work_is_cut_up(monkeypatch):
    truth, probabilities, groups = drawn(5)
    asked = {"resamples": 300, "seed": 1}
    whole = resampled(truth, {"x": probabilities}, groups, **asked)["x"]["roc_auc"]
    monkeypatch.setattr(bootstrap, "CHUNK", 200)
    parts = resampled(truth, {"x": probabilities}, groups, **asked)["x"]["roc_auc"]
    assert np.array_equal(whole, parts, equal_nan=True)
    other = resampled(truth, {"x": probabilities}, groups, resamples=300, seed=2)["x"]["roc_auc"]
    assert not np.array_equal(whole, other, equal_nan=True)


def test_clips_of_one_video_that_agree_widen_the_interval():
    rng = np.random.default_rng(0)
    truth = np.zeros(200, int)
    right = np.repeat(rng.random(20) < 0.7, 10)  # all ten clips of a video right, or all wrong
    probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    alone = cluster_intervals(truth, probabilities, [str(i) for i in range(200)], resamples=1000, seed=0)
    videos = cluster_intervals(truth, probabilities, [str(i // 10) for i in range(200)], resamples=1000, seed=0)
    width = [one["accuracy"][1] - one["accuracy"][0] for one in (alone, videos)]
    assert width[1] > 2.5 * width[0]  # the square root of 10, were there infinitely many
    assert (alone["groups"], videos["groups"]) == (200, 20)
    assert videos["roc_auc"] is None


def test_one_group_has_no_interval_and_says_why():
    truth, probabilities, _ = drawn(0, 5)
    told = cluster_intervals(truth, probabilities, ["g"] * 5, resamples=100, seed=0)
    assert told["reason"] == "all 5 samples are of one source group: nothing to draw from"
    assert told["accuracy"] is None


def test_an_interval_of_values_that_mostly_are_not_defined_is_none():
    assert interval(np.array([np.nan, np.nan, 1.0])) is None
    assert interval(np.array([np.nan, 0.5, 0.5])) == [0.5, 0.5]
