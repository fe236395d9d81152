"""Views of a clip at test time."""

import csv

import numpy as np
import torch
from PIL import Image

from trainer import evaluate
from trainer.checkpoint import latest, load_weights
from trainer.inputs import Inputs
from trainer.loader import Loader
from trainer.models.classifier import Classifier
from trainer.models.presets import build_encoder, config_from_dict
from trainer.order import Order
from trainer.runs import read_config
from trainer.shards import ShardSet
from trainer.views import MAX_VIEWS, views

RNG = np.random.default_rng(0)
SMOOTH = RNG.integers(0, 256, size=(1, 2, 8, 8, 3), dtype=np.uint8).repeat(16, 2).repeat(16, 3)
BATCH = {"keys": ["a"], "frames": torch.from_numpy(SMOOTH), "mel_8k": torch.zeros(1, 2, 128, 469)}


def test_views_are_the_clip_its_mirror_image_and_crops_of_both():
    seen = list(views(BATCH, MAX_VIEWS))
    assert len(seen) == MAX_VIEWS == 12
    assert torch.equal(seen[0]["frames"], BATCH["frames"])
    for plain, mirrored in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(plain["frames"].flip(3), mirrored["frames"])
    places = [(8, 8), (0, 0), (0, 16), (16, 0), (16, 16)]
    for view, (top, left) in zip(seen[2::2], places, strict=True):
        assert view["frames"].shape == BATCH["frames"].shape
        assert view["mel_8k"] is BATCH["mel_8k"]
        crop = Image.fromarray(SMOOTH[0, 1, top : top + 112, left : left + 112])
        enlarged = np.asarray(crop.resize((128, 128), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(view["frames"][0, 1].numpy() - enlarged).max() <= 1


def test_fewer_views_are_the_first_ones_and_sound_has_but_one():
    for few, many in zip(views(BATCH, 3), list(views(BATCH, MAX_VIEWS))[:3], strict=True):
        assert torch.equal(few["frames"], many["frames"])
    heard = {"keys": ["a"], "mel_8k": BATCH["mel_8k"]}
    assert list(views(heard, 4)) == [heard]


def test_evaluation_averages_the_probabilities_of_the_views(runs, sets, tmp_path, refused):
    flags = ["--run", str(runs / "finetuned"), "--shards", str(sets / "mved"), "--out", str(tmp_path)]
    evaluate.main([*flags, "--test-crops", "2"])
    data, config = ShardSet.open(str(sets / "mved")), read_config(runs / "finetuned")
    classifier = Classifier(build_encoder(config_from_dict(config.network)), 3).eval()
    load_weights(latest(runs / "finetuned", "best"), classifier)
    to_inputs = Inputs(classifier.encoder.inputs, config.normalization, torch.device("cpu"))
    order = Order(batch_size=8, shuffle=False)
    (batch,) = Loader(data, data.split("test"), members=to_inputs.members, order=order).batches()
    mirrored = batch | {"frames": batch["frames"].flip(3)}
    with torch.no_grad():
        expected = sum(classifier(to_inputs(seen)).softmax(1) for seen in (batch, mirrored)) / 2
    with (tmp_path / "predictions.csv").open() as file:
        rows = {row["key"]: [float(row[label]) for label in data.class_names] for row in csv.DictReader(file)}
    for key, probabilities in zip(batch["keys"], expected, strict=True):
        np.testing.assert_allclose(rows[key], probabilities, atol=1e-5)
    assert "--test-crops 13: give 1 to 12" in refused(evaluate.main, *flags, "--test-crops", "13")
