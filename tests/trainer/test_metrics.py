"""Scores against numbers worked out by hand or printed elsewhere."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from trainer.metrics import Predictions, score, wilson_interval
from trainer.plots import plot_confusion, plot_roc

LABELS = ["a", "b", "c"]
TRUTH = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],  # a, right
        [0.4, 0.3, 0.3],  # a, right, yet below one half: rounds to no class
        [0.2, 0.7, 0.1],  # b, right
        [0.6, 0.3, 0.1],  # b, taken for a
        [0.1, 0.3, 0.6],  # c, right
        [0.2, 0.5, 0.3],  # c, taken for b; one half rounds to even, to no class
    ]
)


def test_scores_of_six_samples_are_those_worked_out_by_hand():
    scores = score(TRUTH, PROBABILITIES, LABELS)
    assert scores["n"] == 6
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 1, 1]]
    # F1 = 2 TP / (2 TP + FP + FN): a 4/5, b 2/4, c 2/3
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    # rounded: a has 1 TP, 1 FP, 1 FN; b 1 TP, 1 FN; c 1 TP, 1 FN
    assert scores["macro_f1_rounded"] == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    # pairs ranked right, ties half: a 0.8 beats all four, 0.4 beats three: 7/8; b 0.7 beats all, 0.3 beats 0.1 and
    # ties 0.3 and 0.3 and loses to 0.5: 6/8; c 0.6 beats all, 0.3 beats three and ties one: 7.5/8
    assert scores["roc_auc"] == pytest.approx((7 / 8 + 6 / 8 + 7.5 / 8) / 3)
    assert scores["roc_auc_reason"] is None
    assert scores["per_class"]["b"] == pytest.approx({"n": 2, "recall": 0.5, "f1": 0.5, "roc_auc": 0.75})
    assert scores["labels"] == LABELS


def test_rounded_f1_is_the_authors_formula():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, 120)
    probabilities = rng.dirichlet(np.full(6, 0.3), 120)
    expected = f1_score(np.eye(6, dtype=int)[truth], np.round(probabilities), average="macro", zero_division=0)
    assert score(truth, probabilities, list("abcdef"))["macro_f1_rounded"] == pytest.approx(expected)


def test_wilson_interval_has_its_published_values():
    # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29
    for correct, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(correct, n) == pytest.approx([low, high], abs=5e-5)


def test_a_class_without_samples_is_left_out_of_the_means_and_named():
    scores = score(TRUTH[:4], PROBABILITIES[:4], LABELS)
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores["roc_auc"] == pytest.approx((3 / 4 + 3.5 / 4) / 2)
    assert "c" in scores["roc_auc_reason"]
    assert scores["per_class"]["c"] == {"n": 0, "recall": None, "f1": None, "roc_auc": None}


def test_one_class_alone_has_no_area_and_says_why():
    scores = score(TRUTH[:2], PROBABILITIES[:2], LABELS)
    assert scores["roc_auc"] is None
    assert scores["roc_auc_reason"] == "every sample is of class a: there is no other class to tell it from"
    assert scores["accuracy"] == 1


def test_predictions_know_their_accuracy_and_loss():
    said = Predictions(keys=list("uvwxyz"), truth=TRUTH, probabilities=PROBABILITIES)
    assert said.accuracy == pytest.approx(4 / 6)
    assert said.loss == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.3, 0.6, 0.3]).mean())


def test_plots_are_drawn_for_present_and_absent_classes(tmp_path):
    plot_confusion(np.array([[2, 0, 0], [1, 1, 0], [0, 0, 0]]), LABELS, tmp_path / "confusion.png", title="t")
    plot_roc(TRUTH[:4], PROBABILITIES[:4], LABELS, tmp_path / "roc.png", areas=[0.75, 0.9, None], title="t")
    for name in ("confusion.png", "roc.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 10
