"""The judge of pretraining: what it says of embeddings whose classes are known, and which clips it learns from."""

from collections import Counter

import numpy as np
import pytest
import torch

from trainer import pretrain, readers
from trainer.errors import UserError
from trainer.inputs import Inputs
from trainer.loader import Loader
from trainer.models.classifier import Classifier
from trainer.models.presets import build_encoder, network_config
from trainer.order import Order
from trainer.probe import better, embed, open_probe, overlap, scores
from trainer.shards import ShardSet, groups_of

RECIPE = {"phase": "projected", "denoise": 0.2, "modality": "audio"}
MEMBERS = ("mel_8k",)


def clusters(rng, labels, *, spread):
    """Points round a corner a class, in dimensions of very different size, and one that is constant."""
    points = np.eye(3)[labels] + spread * rng.normal(size=(len(labels), 3))
    return np.hstack([points * [1, 1000, 0.001], np.full((len(labels), 1), 7.0)])


def test_classes_that_lie_apart_are_told_apart_whatever_the_dimensions_sizes():
    rng = np.random.default_rng(0)
    train, test = np.repeat([0, 1, 2], 20), np.repeat([0, 1, 2], 10)
    judged = scores(clusters(rng, train, spread=0.1), train, clusters(rng, test, spread=0.1), test)
    assert judged == {
        "knn_accuracy": 1.0,
        "linear_accuracy": 1.0,
        "linear_macro_f1": 1.0,
        "most_frequent": pytest.approx(1 / 3),
        "n": 30,
    }


def test_noise_tells_about_as_much_as_the_most_frequent_class():
    rng = np.random.default_rng(0)
    train, test = rng.choice([0, 1], p=[0.3, 0.7], size=200), rng.choice([0, 1], p=[0.3, 0.7], size=200)
    judged = scores(rng.normal(size=(200, 5)), train, rng.normal(size=(200, 5)), test)
    assert judged["most_frequent"] == (test == 1).mean()
    assert abs(judged["linear_accuracy"] - judged["most_frequent"]) < 0.1
    assert abs(judged["knn_accuracy"] - judged["most_frequent"]) < 0.15


def test_neighbours_are_the_nearest_by_angle_of_what_is_standardised():
    rng = np.random.default_rng(1)
    train, test = rng.integers(3, size=49), rng.integers(3, size=20)
    a, b = clusters(rng, train, spread=0.7), clusters(rng, test, spread=0.7)
    mean, std = a.mean(0), a.std(0)
    std[std == 0] = 1
    x, y = (a - mean) / std, (b - mean) / std
    said = []
    for row in y:
        angles = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in x]
        nearest = sorted(range(49), key=lambda i: -angles[i])[:7]
        said.append(np.bincount(train[nearest], minlength=3).argmax())
    assert scores(a, train, b, test)["knn_accuracy"] == np.mean(np.array(said) == test)


def test_an_embedding_is_what_a_classifiers_head_reads(sets):
    data = ShardSet.open(str(sets / "mved"))
    torch.manual_seed(0)
    classifier = Classifier(build_encoder(network_config("slow-fast", "tiny", modality="audio")), 3)
    to_inputs = Inputs(classifier.encoder.inputs, data.manifest.normalization, torch.device("cpu"))
    loader = Loader(data, data.split("val"), members=to_inputs.members, order=Order(batch_size=4, shuffle=False))
    embedded, labels = embed(classifier.encoder, loader.batches(), to_inputs)
    assert classifier.encoder.training
    classifier.eval()
    with torch.no_grad():
        slow = torch.cat([classifier.embed(to_inputs(batch)) for batch in loader.batches()])
    np.testing.assert_allclose(embedded, slow.numpy(), rtol=1e-4, atol=1e-6)
    assert labels.tolist() == [0, 1, 2] * 2


def test_val_is_scored_where_there_is_one_and_test_is_left_alone(sets):
    probe = open_probe(str(sets / "mved"), recipe=RECIPE | {"modality": "both"}, members=MEMBERS, seed=0)
    assert {shard.split for shard in probe.train} == {"train"}
    assert {shard.split for shard in probe.test} == {"val"}
    assert probe.words == f"12 clips of {sets / 'mved'} to learn from, 6 of its split val to score"


def test_without_a_val_split_whole_source_groups_of_train_are_drawn(make_set, tmp_path):
    root = make_set(
        tmp_path / "set",
        splits={"train": [0, 1, 2] * 6},
        groups=lambda split, i: f"{split}-{i // 2}",
        modality="audio",
    )
    probe = open_probe(str(root), recipe=RECIPE, members=MEMBERS, seed=3)
    learned, scored = groups_of(probe.train), groups_of(probe.test)
    assert len(learned) + len(scored) == 18
    assert 2 <= len(scored) <= 6
    assert not set(learned) & set(scored)
    again = open_probe(str(root), recipe=RECIPE, members=MEMBERS, seed=3)
    assert groups_of(again.test) == scored
    data = ShardSet.open(str(root))
    assert overlap(probe, data.split("train")) == len(set(scored))
    assert overlap(probe, probe.train) == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"splits": {"unlabeled": [None] * 2}, "labels": None}, "--probe .* has no labels; give a labelled set"),
        ({"splits": {"train": [1, 1], "val": [0, 1]}}, "its training clips are of one class"),
        ({"splits": {"val": [0, 1]}}, "has no split 'train'"),
        (
            {"splits": {"train": [0, 1], "val": [0]}, "recipe": {"phase": "angle", "denoise": 0.2}},
            "--probe .* was built by another recipe: its phase is angle, that of the set pretrained on projected",
        ),
        ({"splits": {"train": [0, 1], "val": [0]}, "modality": "video"}, "was built with modality video"),
    ],
)
def test_a_set_that_cannot_judge_is_refused(make_set, tmp_path, spec, words):
    root = make_set(tmp_path / "set", **({"modality": "audio"} | spec))
    with pytest.raises(UserError, match=words):
        open_probe(str(root), recipe=RECIPE, members=MEMBERS, seed=0)


def test_a_run_hashes_each_tar_of_both_sets_once_however_often_it_probes(make_set, tmp_path, monkeypatch):
    clips = make_set(tmp_path / "clips", splits={"unlabeled": [None] * 6}, labels=None, modality="audio", shard_size=3)
    judge = make_set(tmp_path / "judge", splits={"train": [0, 1] * 2, "val": [0, 1]}, modality="audio", shard_size=2)
    times_read, hashed = Counter(), Counter()
    plain = readers.read

    def counted(fs, shard, rows, members, *, verify, skip):
        times_read[shard.name] += 1
        hashed[shard.name] += verify
        return plain(fs, shard, rows, members, verify=verify, skip=skip)

    monkeypatch.setattr(readers, "read", counted)
    flags = ["--shards", str(clips), "--preset", "tiny", "--batch-size", "2", "--max-steps", "4", "--bn-batches", "1"]
    flags += ["--shuffle-buffer", "1", "--probe", str(judge), "--probe-every", "1", "--pictures-every", "0"]
    pretrain.main([*flags, "--out", str(tmp_path / "run")])
    names = {path.name for root in (clips, judge) for path in root.glob("*.tar")}
    assert len(names) == 5
    assert hashed == dict.fromkeys(names, 1)
    assert times_read["train-000000.tar"] == 5


def test_a_probe_that_is_not_there_is_named_by_its_flag(tmp_path):
    with pytest.raises(UserError, match=r"^--probe .*nowhere: there is no such folder"):
        open_probe(str(tmp_path / "nowhere"), recipe=RECIPE, members=MEMBERS, seed=0)


def test_the_best_is_the_first_of_equals():
    first = {"linear_accuracy": 0.5, "knn_accuracy": 0.4}
    assert better(first, None)
    assert not better(dict(first), first)
    assert better(first | {"knn_accuracy": 0.5}, first)
    assert not better({"linear_accuracy": 0.4, "knn_accuracy": 1.0}, first)
