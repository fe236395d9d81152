"""One modality alone: networks without the other, and what a network of both may be asked without one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer import finetune, pretrain
from trainer.batchnorm import reestimate
from trainer.calibration import fit_sigmoids
from trainer.checkpoint import latest, load_weights
from trainer.inputs import Inputs
from trainer.loader import Loader
from trainer.metrics import predict
from trainer.modalities import built_for, may_read, why_not_alone
from trainer.models.classifier import Classifier
from trainer.models.presets import build_encoder, config_from_dict, network_config
from trainer.order import Order
from trainer.runs import read_config
from trainer.shards import ShardSet
from trainer.trained import open_trained

TINY = ["--preset", "tiny", "--batch-size", "6", "--bn-batches", "2", "--init", "scratch"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def heard(tmp_path_factory, make_set):
    """A set with sound alone."""
    return make_set(tmp_path_factory.mktemp("heard") / "set", splits={"train": [0, 1] * 4}, modality="audio")


def test_a_set_with_sound_alone_trains_the_audio_pathways_and_a_line_says_so(heard, tmp_path, capsys):
    short = ["--shards", str(heard), "--max-steps", "1", *TINY]
    for main, flags in ((finetune.main, ["--recipe", "strong"]), (pretrain.main, ["--pictures-every", "0"])):
        run = tmp_path / main.__module__
        main([*short, *flags, "--out", str(run)])
        out = capsys.readouterr().out
        assert f"modality: audio, as {heard} holds no other; the other pathways and MMTM are not built" in out
        config = read_config(run)
        assert config.network["modality"] == config.train["modality"] == "audio"
    config = read_config(tmp_path / "trainer.finetune")
    assert (config.train["augment_video"], config.train["modality_dropout"]) == (False, 0.0)
    assert (config.train["specaugment"], config.train["mixup"]) == (2, 0.2)


def test_what_was_asked_for_is_built_or_refused(heard, sets, refused, tmp_path):
    line = refused(finetune.main, "--shards", heard, "--out", tmp_path / "run", "--modality", "both", *TINY)
    assert "was built with modality audio and has no frames" in line
    both = ShardSet.open(str(sets / "mved"))
    assert built_for(both, None) == ("both", None)
    assert built_for(both, "video") == ("video", None)


@pytest.fixture(scope="module")
def dropped(sets, tmp_path_factory):
    """A network of both that lost a modality in half its batches."""
    run = tmp_path_factory.mktemp("dropped") / "run"
    learning = ["--max-steps", "9", "--lr", "4e-3", "--modality-dropout", "0.5"]
    finetune.main(["--shards", str(sets / "mved"), "--out", str(run), *learning, *TINY])
    return run


def load(run, data):
    config = read_config(run)
    classifier = Classifier(build_encoder(config_from_dict(config.network)), len(data.class_names))
    load_weights(latest(run), classifier)
    return classifier, Inputs(classifier.encoder.inputs, config.normalization, CPU)


def test_the_mean_embedding_is_the_mean_over_training_samples(sets, dropped):
    data = ShardSet.open(str(sets / "mved"))
    classifier, to_inputs = load(dropped, data)
    stored = classifier.mean_embedding.clone()
    assert stored.abs().min() > 0
    order = Order(batch_size=6)  # as the run's, without its shuffling buffer filled otherwise
    batches = list(Loader(data, data.split("train"), members=to_inputs.members, order=order).batches())[:2]
    classifier.mean_embedding.zero_()
    reestimate(classifier, map(to_inputs, batches))
    torch.testing.assert_close(classifier.mean_embedding, stored, rtol=1e-4, atol=1e-5)
    classifier.train()
    embedded = torch.cat([classifier.embed(to_inputs(batch)) for batch in batches])
    torch.testing.assert_close(classifier.mean_embedding, embedded.mean(0).detach(), rtol=1e-4, atol=1e-5)


def test_batches_of_unequal_size_count_by_their_samples():
    classifier = Classifier(build_encoder(network_config("slow-fast", "tiny", modality="audio")), 2).double()
    specs = classifier.encoder.inputs
    inputs = [{role: torch.randn(n, *spec.shape).double() for role, spec in specs.items()} for n in (3, 1)]
    reestimate(classifier, inputs)
    classifier.train()
    embedded = torch.cat([classifier.embed(batch) for batch in inputs])
    torch.testing.assert_close(classifier.mean_embedding, embedded.mean(0).detach(), check_dtype=False)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_each_modality_alone_is_recognised_by_a_network_that_had_to_do_without_the_other(sets, dropped, modality):
    data = ShardSet.open(str(sets / "mved"))
    config = read_config(dropped)
    assert why_not_alone(config) is None
    classifier, _ = load(dropped, data)
    specs = {role: spec for role, spec in classifier.encoder.inputs.items() if spec.modality == modality}
    to_inputs = Inputs(specs, config.normalization, CPU)
    batches = Loader(data, data.split("val"), members=to_inputs.members, order=Order(batch_size=6)).batches()
    assert predict(classifier, batches, to_inputs).accuracy > 0.5  # of three classes, told by colour and by pitch


def test_what_either_says_alone_has_sigmoids_of_its_own(sets, dropped):
    """Those of a network that read nothing else, fitted by hand."""
    trained, data = open_trained(dropped), ShardSet.open(str(sets / "mved"))
    assert list(trained.sigmoids) == may_read(trained.config) == ["both", "audio", "video"]
    for read, sigmoids in trained.sigmoids.items():
        specs = trained.classifier.encoder.inputs
        specs = {role: spec for role, spec in specs.items() if read == "both" or spec.modality == read}
        to_inputs = Inputs(specs, trained.config.normalization, CPU)
        batches = Loader(data, data.split("val"), members=to_inputs.members, order=Order(batch_size=6)).batches()
        said = predict(trained.classifier, batches, to_inputs)
        expected = fit_sigmoids(said.truth, said.probabilities)
        np.testing.assert_allclose(sigmoids.offsets, expected.offsets, rtol=1e-3, atol=1e-3)
        assert sigmoids.slope == pytest.approx(expected.slope, rel=1e-3)
    assert len({sigmoids.slope for sigmoids in trained.sigmoids.values()}) == 3


def test_one_that_always_had_both_is_not_asked_for_one(runs, dropped):
    assert "never had to do without one of the two" in why_not_alone(read_config(runs / "finetuned"))
    config = read_config(dropped)
    alone = replace(config, network={**config.network, "modality": "video"})
    assert why_not_alone(alone) == "the network reads video alone"
