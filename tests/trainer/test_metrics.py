"""Scores against numbers worked out by hand or printed elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from trainer.calibration import NUM_BINS, reliability
from trainer.metrics import CURVE_POINTS, Predictions, class_curves, mean_curve, score, top_k_accuracy, wilson_interval
from trainer.paper import PUBLISHED, TEST_SAMPLES, counterpart
from trainer.plots import plot_confusion, plot_mean_roc, plot_per_class, plot_reliability, plot_roc

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
    assert scores["per_class"]["b"] == pytest.approx(
        {"n": 2, "predicted": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5, "average_precision": 0.7, "roc_auc": 0.75}
    )
    # average precision of b: at 0.7 half is found with precision 1, at 0.3 the rest with 2 of 5
    assert scores["majority"] == pytest.approx(1 / 3)
    assert scores["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert scores["top2_accuracy"] == 1  # b taken for a has b second, c taken for b has c second
    assert scores["brier"] == pytest.approx((0.06 + 0.54 + 0.14 + 0.86 + 0.26 + 0.78) / 6)
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
    names = ("precision", "recall", "f1", "average_precision", "roc_auc")
    assert scores["per_class"]["c"] == {"n": 0, "predicted": 0, **dict.fromkeys(names)}
    assert scores["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)


def test_one_class_alone_has_no_area_and_says_why():
    scores = score(TRUTH[:2], PROBABILITIES[:2], LABELS)
    assert scores["roc_auc"] is None
    assert scores["roc_auc_reason"] == "every sample is of class a: there is no other class to tell it from"
    assert scores["accuracy"] == 1


def test_predictions_know_their_accuracy_and_loss():
    said = Predictions(keys=list("uvwxyz"), truth=TRUTH, probabilities=PROBABILITIES)
    assert said.accuracy == pytest.approx(4 / 6)
    assert said.loss == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.3, 0.6, 0.3]).mean())


def many(seed=0, n=200, classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = rng.normal(0, 1, (n, classes)) + 1.5 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, probabilities


def test_calibration_and_precision_are_those_of_the_libraries():
    truth, probabilities = many()
    scores = score(truth, probabilities, list("abcd"))
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(truth), num_classes=4, n_bins=NUM_BINS, norm="l1"
    )
    assert scores["calibration_error"] == pytest.approx(float(error), abs=1e-6)
    assert scores["brier"] == pytest.approx(brier_score_loss(truth, probabilities, scale_by_half=False))
    assert scores["negative_log_likelihood"] == pytest.approx(log_loss(truth, probabilities))
    expected = average_precision_score(np.eye(4)[truth], probabilities, average="macro")
    assert scores["average_precision"] == pytest.approx(expected)


def test_a_bin_holds_the_samples_of_its_confidence_and_an_empty_one_says_nothing():
    bins = reliability(np.array([0, 0, 1]), np.array([[1.0, 0.0], [0.97, 0.03], [0.55, 0.45]]))
    assert bins.count == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert bins.accuracy == [None] * 5 + [0.0] + [None] * 3 + [1.0]
    assert bins.confidence[-1] == pytest.approx(0.985)
    assert bins.expected_error == pytest.approx((0.55 + 2 * 0.015) / 3)


def test_of_equal_probabilities_the_lower_class_is_the_likelier_in_every_score():
    flat = np.full((3, 3), 1 / 3)
    truth = np.array([0, 1, 2])
    assert top_k_accuracy(truth, flat, k=1) == score(truth, flat, LABELS)["accuracy"] == pytest.approx(1 / 3)
    assert top_k_accuracy(truth, flat, k=2) == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 5))
def test_scores_of_any_predictions_are_within_their_bounds(seed, n, classes):
    truth, probabilities = many(seed, n, classes)
    scores = score(truth, probabilities, list("abcde")[:classes])
    low, high = scores["accuracy_interval"]
    assert low <= scores["accuracy"] <= high
    assert scores["accuracy"] <= scores["top2_accuracy"] <= 1
    assert 0 <= scores["brier"] <= 2
    assert 0 <= scores["calibration_error"] <= 1
    assert sum(scores["reliability"]["count"]) == n
    assert scores["roc_auc"] is not None or len(set(truth)) == 1
    curve = mean_curve(truth, probabilities)
    assert (curve is None) == (scores["roc_auc"] is None)
    if curve is not None:
        assert (curve[0], curve[-1]) == (0, 1)
        assert curve == sorted(curve)


def test_the_mean_curve_has_the_mean_of_the_areas():
    truth, probabilities = many(n=2000)
    curve = mean_curve(truth, probabilities)
    area = np.trapezoid(curve, np.linspace(0, 1, CURVE_POINTS))
    assert area == pytest.approx(score(truth, probabilities, list("abcd"))["roc_auc"], abs=0.005)
    assert list(class_curves(TRUTH[:2], PROBABILITIES[:2])) == []


def test_published_accuracies_are_whole_numbers_of_the_test_samples():
    for row in PUBLISHED:
        assert row.correct / TEST_SAMPLES == pytest.approx(row.accuracy, abs=5e-5)
    same = counterpart({"network": "slow-fast", "mmtm": "sum", "modality": "both"}, pretrained=True)
    assert (same.table, same.accuracy) == (2, 0.77)
    assert counterpart({"network": "slow-fast", "mmtm": "sum", "modality": "audio"}, pretrained=True) is None
    assert counterpart({"network": "slow-fast", "mmtm": "none", "modality": "both"}, pretrained=True) is None


def test_plots_are_drawn_for_present_and_absent_classes_and_odd_labels(tmp_path):
    labels = ["a", r"$\frac$", "<b>&"]
    scores = score(TRUTH[:4], PROBABILITIES[:4], labels)
    plot_confusion(np.array(scores["confusion"]), labels, tmp_path / "confusion.png", title="t $1 and $2")
    areas = [one["roc_auc"] for one in scores["per_class"].values()]
    plot_roc(TRUTH[:4], PROBABILITIES[:4], labels, tmp_path / "roc.png", areas=areas, title="t")
    plot_mean_roc({"_this $": mean_curve(TRUTH[:4], PROBABILITIES[:4])}, tmp_path / "compared.png", title="t")
    plot_reliability(scores["reliability"], tmp_path / "reliability.png", title="t")
    plot_per_class(scores["per_class"], tmp_path / "classes.png", title="t")
    for path in tmp_path.iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 10
