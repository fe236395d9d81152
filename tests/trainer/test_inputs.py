"""From stored members to what a network reads, against numpy."""

import numpy as np
import pytest
import torch

from trainer.errors import UserError
from trainer.inputs import Inputs, moments_read
from trainer.loader import Loader
from trainer.models.inputs import AudioInput, VideoInput
from trainer.models.preprocess import STORED, Source, source_of, stored_shape
from trainer.models.presets import build_encoder, network_config
from trainer.order import Order
from trainer.shards import MEMBERS, SAMPLE_RATES_HZ, ShardSet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(sets):
    return ShardSet.open(str(sets / "mved"))


def batch_of(data, members):
    order = Order(batch_size=3, shuffle=False)
    return next(iter(Loader(data, data.split("val"), members=members, order=order).batches()))


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_every_role_is_standardised_per_channel_as_numpy_says(data, network):
    encoder = build_encoder(network_config(network, "tiny"))
    to_inputs = Inputs(encoder.inputs, data.manifest.normalization, CPU)
    batch = batch_of(data, to_inputs.members)
    inputs = to_inputs(batch)
    assert set(inputs) == set(encoder.inputs)
    for role, spec in encoder.inputs.items():
        assert inputs[role].shape == (3, *spec.shape)
        assert inputs[role].dtype == torch.float32
        member, every = source_of(spec)
        stored = batch[member].numpy().astype(np.float64)
        stored = np.moveaxis(stored, -1, 1)[:, :, ::every] if member == "frames" else stored
        moments = data.manifest.normalization[member]
        shape = (1, -1) + (1,) * (stored.ndim - 2)
        expected = (stored - np.reshape(moments["mean"], shape)) / np.reshape(moments["std"], shape)
        np.testing.assert_allclose(inputs[role].numpy(), expected, rtol=1e-3, atol=1e-4)
    encoder(inputs)


def test_pathways_read_the_members_that_the_format_names():
    assert source_of(VideoInput(64)) == Source("frames", 1)
    assert source_of(VideoInput(8)) == Source("frames", 8)
    assert source_of(AudioInput.of_clip(32_000)) == Source("mel_32k", 1)
    assert source_of(AudioInput.of_clip(22_050)) == Source("mel_22k", 1)
    assert source_of(AudioInput.of_clip(8_000)) == Source("mel_8k", 1)
    for unknown in (VideoInput(7), VideoInput(64, 64), AudioInput.of_clip(16_000), AudioInput(8_000, 470)):
        with pytest.raises(ValueError, match="no stored member"):
            source_of(unknown)


def test_networks_know_the_members_as_the_format_has_them():
    assert {name: stored_shape(name) for name in STORED} == {name: member.shape for name, member in MEMBERS.items()}
    rates = {name: spec.sample_rate_hz for name, spec in STORED.items() if isinstance(spec, AudioInput)}
    assert rates == SAMPLE_RATES_HZ


def test_only_the_members_that_the_network_reads_are_asked_for(data):
    encoder = build_encoder(network_config("slow-fast", "tiny", modality="audio"))
    assert Inputs(encoder.inputs, data.manifest.normalization, CPU).members == ("mel_32k", "mel_8k")


def test_one_audio_channel_is_the_log_mel(data):
    two, one = (
        Inputs(specs, moments_read(specs, data.manifest.normalization), CPU)
        for specs in ({"audio": AudioInput.of_clip(8_000, phase)} for phase in ("projected", "none"))
    )
    batch = batch_of(data, ["mel_8k"])
    assert torch.equal(one(batch)["audio"], two(batch)["audio"][:, :1])
    assert one.channel_names == {"audio": ("log-mel",)}


def test_a_member_without_normalisation_is_named():
    with pytest.raises(UserError, match="no normalization of mel_8k"):
        moments_read({"audio": AudioInput.of_clip(8_000)}, {})


@pytest.mark.parametrize("std", [0.0, float("nan"), 1e-12])
def test_a_constant_channel_is_centred_and_stays_finite(std):
    spec = {"audio": AudioInput.of_clip(8_000)}
    to_inputs = Inputs(spec, {"mel_8k": {"mean": [-80.0, 0.0], "std": [std, 2.0]}}, CPU)
    stored = torch.full((1, 2, 128, 469), -80.0, dtype=torch.float16)
    inputs = to_inputs({"mel_8k": stored})["audio"]
    assert torch.equal(inputs[:, 0], torch.zeros(1, 128, 469))
    assert torch.equal(inputs[:, 1], torch.full((1, 128, 469), -40.0))
