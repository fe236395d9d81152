"""Scores that can be taken at their word: a sigmoid a class, fitted on validation samples."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from trainer.calibration import Sigmoids, fit_sigmoids, log_odds
from trainer.checkpoint import latest, read_state
from trainer.errors import UserError
from trainer.trained import open_trained


def overconfident(num_samples=4000, num_classes=3, factor=3.0, seed=0):
    """Truth drawn from softmax probabilities, and what a network says that multiplies its logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_samples, num_classes))
    truth = np.array([rng.choice(num_classes, p=p) for p in softmax(logits, 1)])
    return truth, softmax(logits, 1), softmax(factor * logits, 1)


def test_scores_of_an_overconfident_network_are_as_often_right_as_they_say():
    truth, _, said = overconfident()
    scores = fit_sigmoids(truth, said)(said)
    one_hot = np.eye(3)[truth]
    for low in (0.1, 0.3, 0.5, 0.7):
        here = (scores >= low) & (scores < low + 0.2)
        assert abs(scores[here].mean() - one_hot[here].mean()) < 0.05
        sure = (said >= low) & (said < low + 0.2)
        told = abs(said[sure].mean() - one_hot[sure].mean())
        assert told > 0.05 or low in (0.3, 0.5)


def test_one_class_alone_gets_the_sigmoid_that_scikit_learn_fits():
    """Two classes are one logistic regression: opposite log-odds, so one slope is no constraint."""
    truth, _, said = overconfident(num_classes=2, factor=2.0)
    fitted = fit_sigmoids(truth, said)
    slow = LogisticRegression(C=np.inf).fit(log_odds(said)[:, 1:], truth)
    assert fitted.slope == pytest.approx(slow.coef_[0, 0], rel=0.01)
    assert fitted.offsets[1] == pytest.approx(slow.intercept_[0], abs=0.01)
    assert fitted.num_samples == len(truth)


def test_what_all_logits_share_changes_no_score():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    sigmoids = Sigmoids(slope=0.7, offsets=[0.1, 0.2, -0.3, 0.0], num_samples=5)
    shifted = sigmoids(softmax(logits + 100.0, 1))
    np.testing.assert_allclose(sigmoids(softmax(logits, 1)), shifted, rtol=1e-9)
    odds = logits - np.log(np.exp(logits).sum(1, keepdims=True) - np.exp(logits))
    np.testing.assert_allclose(shifted, expit(0.7 * odds + sigmoids.offsets), rtol=1e-6)


def test_classes_that_are_separated_or_absent_stay_finite_and_low_where_they_should():
    truth = np.array([0, 0, 1, 1])
    said = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]])
    fitted = fit_sigmoids(truth, said)
    scores = fitted(said)
    assert np.isfinite(scores).all()
    assert (scores[:2, 0] > 0.6).all()
    assert (scores[:, 2] < 0.4).all()  # Platt's target of a class never seen: 1 / (4 + 2)
    assert Sigmoids.of(json.loads(json.dumps(fitted.as_dict()))) == fitted


def test_a_run_keeps_the_sigmoids_of_its_best_checkpoint(runs):
    trained = open_trained(runs / "finetuned")
    assert trained.checkpoint == latest(runs / "finetuned", "best")
    (read, sigmoids), *alone = trained.sigmoids.items()
    assert (read, alone) == ("both", [])  # it never had to do without one of the two
    assert len(sigmoids.offsets) == len(trained.labels)
    assert sigmoids == Sigmoids.of(read_state(trained.checkpoint)["sigmoids"]["both"])
    assert not trained.classifier.training
    with pytest.raises(UserError, match="let the run validate once"):
        _ = type(trained)(**{**vars(trained), "state": {}}).sigmoids
