"""The classifier: order of the embedding, absent pathways, head."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.models.blocks import global_average
from trainer.models.classifier import Classifier
from trainer.models.presets import Network, build_encoder, network_config

MakeInputs = Callable[..., dict[str, Tensor]]
NETWORKS: tuple[Network, ...] = ("slow-fast", "music-video")


@pytest.mark.parametrize(
    ("network", "roles", "width"),
    [
        ("slow-fast", ["video_slow", "video_fast", "audio_slow", "audio_fast"], 512 + 128 + 512 + 128),
        ("music-video", ["video", "audio"], 256 + 256),
    ],
)
def test_the_papers_head_reads_all_pathways_in_a_fixed_order(network: Network, roles: list[str], width: int) -> None:
    with torch.device("meta"):
        classifier = Classifier(build_encoder(network_config(network, "paper")), 6)
    assert list(classifier.encoder.channels) == roles
    assert classifier.head.weight.shape == (6, width)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_embedding_is_the_averages_side_by_side_and_the_logits_are_the_heads(
    network: Network, make_inputs: MakeInputs
) -> None:
    classifier = Classifier(build_encoder(network_config(network, "tiny")), 6).eval()
    inputs = make_inputs(classifier.encoder)
    latents = classifier.encoder(inputs)
    shuffled = dict(reversed(inputs.items()))
    expected = torch.cat([global_average(latents[role]) for role in classifier.encoder.inputs], 1)
    torch.testing.assert_close(classifier.embed(shuffled), expected)
    logits = classifier(inputs)
    assert logits.shape == (2, 6)
    torch.testing.assert_close(logits, expected @ classifier.head.weight.T + classifier.head.bias)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_absent_pathway_pools_to_the_mean_embedding(network: Network, make_inputs: MakeInputs) -> None:
    classifier = Classifier(build_encoder(network_config(network, "tiny")), 6).eval()
    torch.nn.init.normal_(classifier.mean_embedding)
    inputs = make_inputs(classifier.encoder)
    audio = {role: x for role, x in inputs.items() if role.startswith("audio")}
    embedding = classifier.embed(audio)
    video_width = sum(width for role, width in classifier.encoder.channels.items() if role.startswith("video"))
    for row in embedding:
        assert torch.equal(row[:video_width], classifier.mean_embedding[:video_width])
        assert not torch.equal(row[video_width:], classifier.mean_embedding[video_width:])


def test_an_unfused_embedding_keeps_audio_ignorant_of_video(make_inputs: MakeInputs) -> None:
    classifier = Classifier(build_encoder(network_config("music-video", "tiny")), 6).eval()
    inputs = make_inputs(classifier.encoder)
    width = classifier.encoder.channels["video"]
    changed = {**inputs, "video": inputs["video"] + 1}
    fused, unfused = (
        [classifier.embed(some, fused=fused)[:, width:] for some in (inputs, changed)] for fused in (True, False)
    )
    assert not torch.equal(*fused)
    assert torch.equal(*unfused)


def test_the_head_starts_glorot_uniform_and_unbiased() -> None:
    classifier = Classifier(build_encoder(network_config("slow-fast", "tiny")), 6)
    limit = (6 / (classifier.head.in_features + 6)) ** 0.5
    assert limit * 0.9 < classifier.head.weight.abs().max() <= limit
    assert not classifier.head.bias.any()


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="--num-classes 1"):
        Classifier(build_encoder(network_config("slow-fast", "tiny")), 1)
