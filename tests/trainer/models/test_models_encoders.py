"""Both encoders against the published and recovered numbers, and their behaviour."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from trainer.models.blocks import Convolution, DenseResidualBlock
from trainer.models.classifier import Classifier
from trainer.models.counting import keras_count
from trainer.models.encoder import Encoder, Stage
from trainer.models.inputs import AudioInput, VideoInput
from trainer.models.presets import Network, Preset, build_encoder, network_config

NETWORKS: tuple[Network, ...] = ("slow-fast", "music-video")
MakeInputs = Callable[..., dict[str, Tensor]]


def encoder_of(network: Network, preset: Preset = "tiny", **overrides: Any) -> Encoder:
    return build_encoder(network_config(network, preset, **overrides))


def paper_encoder(network: Network, **overrides: Any) -> Encoder:
    with torch.device("meta"):
        return encoder_of(network, "paper", **overrides)


def stages_of(encoder: Encoder) -> list[Stage]:
    return [stage for stage in encoder.stages if isinstance(stage, Stage)]


@pytest.mark.parametrize(
    ("network", "mmtm", "published", "trainable"),
    [
        ("music-video", "sum", 23_078_854, 23_069_022),
        ("music-video", "none", 23_034_214, 23_024_382),
        ("slow-fast", "sum", 17_118_864, 17_113_904),
        ("slow-fast", "none", 16_930_880, 16_925_920),
    ],
)
def test_a_classifier_of_six_has_the_parameters_of_table_1(
    network: Network, mmtm: str, published: int, trainable: int
) -> None:
    classifier = Classifier(paper_encoder(network, mmtm=mmtm), 6)
    assert keras_count(classifier) == published
    assert sum(p.numel() for p in classifier.parameters()) == trainable


@pytest.mark.parametrize(("network", "published"), [("music-video", 44_640), ("slow-fast", 187_984)])
def test_mmtm_adds_the_published_difference(network: Network, published: int) -> None:
    assert keras_count(paper_encoder(network)) - keras_count(paper_encoder(network, mmtm="none")) == published


@pytest.mark.parametrize(
    ("network", "role", "published"),
    [
        ("music-video", "video", [150_192, 555_232, 1_617_344, 4_680_576, 12_392_192]),
        ("music-video", "audio", [15_472, 85_216, 241_088, 764_800, 2_529_024]),
        ("slow-fast", "video_slow", [19_308, 156_929, 623_105, 2_216_961, 8_857_601]),
        ("slow-fast", "audio_slow", [5_883, 48_961, 194_177, 740_097, 2_954_753]),
        ("slow-fast", "video_fast", [3_804, 14_337, 46_721, 156_929, 623_105]),
        ("slow-fast", "audio_fast", [711, 3_649, 13_025, 48_961, 194_177]),
    ],
)
def test_every_block_has_its_recovered_parameter_count(network: Network, role: str, published: list[int]) -> None:
    stages = stages_of(paper_encoder(network))
    assert [keras_count(stage.blocks[role]) for stage in stages] == published


@pytest.mark.parametrize(
    ("network", "published"),
    [
        ("music-video", [[160, 576, 2_176, 8_448, 33_280]]),
        ("slow-fast", [[576, 2_176, 8_448, 33_280, 132_096], [48, 160, 576, 2_176, 8_448]]),
    ],
)
def test_every_mmtm_has_its_recovered_parameter_count(network: Network, published: list[list[int]]) -> None:
    stages = stages_of(paper_encoder(network))
    assert [[keras_count(mmtm) for mmtm in stage.mmtms] for stage in stages] == [
        list(counts) for counts in zip(*published, strict=True)
    ]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            "music-video",
            {
                "video": [(16, 32, 64, 64), (32, 16, 32, 32), (64, 8, 16, 16), (128, 4, 8, 8), (256, 2, 4, 4)],
                "audio": [(16, 64, 646), (32, 32, 323), (64, 16, 162), (128, 8, 81), (256, 4, 41)],
            },
        ),
        (
            "slow-fast",
            {
                "video_slow": [(32, 4, 64, 64), (64, 2, 32, 32), (128, 1, 16, 16), (256, 1, 8, 8), (512, 1, 4, 4)],
                "video_fast": [(8, 32, 64, 64), (16, 16, 32, 32), (32, 8, 16, 16), (64, 4, 8, 8), (128, 2, 4, 4)],
                "audio_slow": [(32, 64, 938), (64, 32, 469), (128, 16, 235), (256, 8, 118), (512, 4, 59)],
                "audio_fast": [(8, 64, 235), (16, 32, 118), (32, 16, 59), (64, 8, 30), (128, 4, 15)],
            },
        ),
    ],
)
def test_every_block_puts_out_the_recovered_shape(network: Network, expected: dict[str, list[tuple[int, ...]]]) -> None:
    encoder = paper_encoder(network)
    seen: dict[str, list[tuple[int, ...]]] = {role: [] for role in expected}

    def note(_: nn.Module, __: Any, maps: dict[str, Tensor]) -> None:
        for role, maps_BCN in maps.items():
            seen[role].append(tuple(maps_BCN.shape[1:]))

    for stage in encoder.stages:
        stage.register_forward_hook(note)
    latents = encoder({r: torch.empty(2, *spec.shape, device="meta") for r, spec in encoder.inputs.items()})

    assert seen == expected
    assert list(latents) == list(encoder.inputs) == list(expected)
    for role, shapes in expected.items():
        assert encoder.channels[role] == shapes[-1][0]
        assert [encoder.size(role, level + 1) for level in range(5)] == [shape[1:] for shape in shapes]


def test_the_pathways_read_what_the_paper_says() -> None:
    assert paper_encoder("music-video").inputs == {"video": VideoInput(64), "audio": AudioInput(22_050, 1_292)}
    assert paper_encoder("slow-fast").inputs == {
        "video_slow": VideoInput(8),
        "video_fast": VideoInput(64),
        "audio_slow": AudioInput(32_000, 1_876),
        "audio_fast": AudioInput(8_000, 469),
    }
    assert VideoInput(8).shape == (3, 8, 128, 128)
    assert AudioInput(8_000, 469).shape == (2, 128, 469)


def test_swapped_branches_exchange_inputs_and_keep_their_blocks() -> None:
    plain, swapped = (
        paper_encoder("slow-fast", swap_video_branches=swap, swap_audio_branches=swap) for swap in (False, True)
    )
    assert swapped.inputs["video_slow"] == plain.inputs["video_fast"]
    assert swapped.inputs["video_fast"] == plain.inputs["video_slow"]
    assert swapped.inputs["audio_slow"] == plain.inputs["audio_fast"]
    assert swapped.inputs["audio_fast"] == plain.inputs["audio_slow"]
    assert swapped.channels == plain.channels
    assert keras_count(swapped) == keras_count(plain)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_one_modality_alone_builds_no_other_pathway_and_no_mmtm(
    network: Network, modality: str, make_inputs: MakeInputs
) -> None:
    encoder = encoder_of(network, modality=modality)
    assert encoder.inputs
    assert all(role.startswith(modality) for role in encoder.inputs)
    assert not any("mmtms" in name for name, _ in encoder.named_parameters())
    assert list(encoder(make_inputs(encoder))) == list(encoder.inputs)


def test_log_mel_alone_narrows_only_the_audio_inputs() -> None:
    encoder = paper_encoder("slow-fast", phase="none")
    assert {role: spec.shape[0] for role, spec in encoder.inputs.items()} == {
        "video_slow": 3,
        "video_fast": 3,
        "audio_slow": 1,
        "audio_fast": 1,
    }


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("convolution", get_args(Convolution))
def test_any_convolution_of_figure_2_makes_either_network(network: Network, convolution: str) -> None:
    encoder = paper_encoder(network, convolution=convolution)
    blocks = [module for module in encoder.modules() if isinstance(module, DenseResidualBlock)]
    single = convolution in ("channel-separable", "separable")
    assert all((block.dense_2.out_channels == 1) == single for block in blocks)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mmtm", ["sum", "concat"])
def test_audio_latents_know_of_the_video_only_when_fused(network: Network, mmtm: str, make_inputs: MakeInputs) -> None:
    encoder = encoder_of(network, mmtm=mmtm).eval()
    inputs = make_inputs(encoder)
    other_video = {role: x + role.startswith("video") for role, x in inputs.items()}

    def latents_differ(*, fused: bool) -> list[bool]:
        one, two = encoder(inputs, fused=fused), encoder(other_video, fused=fused)
        return [not torch.equal(one[role], two[role]) for role in one if role.startswith("audio")]

    assert all(latents_differ(fused=True))
    assert not any(latents_differ(fused=False))


@pytest.mark.parametrize("network", NETWORKS)
def test_left_out_roles_leave_the_others_encoded(network: Network, make_inputs: MakeInputs) -> None:
    encoder = encoder_of(network).eval()
    inputs = make_inputs(encoder)
    audio = {role: x for role, x in inputs.items() if role.startswith("audio")}
    alone, unfused = encoder(audio), encoder(inputs, fused=False)
    assert list(alone) == list(audio)
    assert list(encoder(audio, fused=False)) == list(audio)
    for role in audio:
        torch.testing.assert_close(encoder(audio, fused=False)[role], unfused[role])
        assert not torch.allclose(alone[role], unfused[role])


@pytest.mark.parametrize("network", NETWORKS)
def test_in_evaluation_a_clip_is_encoded_the_same_twice_and_in_any_batch(
    network: Network, make_inputs: MakeInputs
) -> None:
    encoder = encoder_of(network).eval()
    inputs = make_inputs(encoder, 3)
    with torch.no_grad():
        first, second = encoder(inputs), encoder(inputs)
        alone = encoder({role: x[1:2] for role, x in inputs.items()})
    for role in first:
        assert torch.equal(first[role], second[role])
        torch.testing.assert_close(first[role][1:2], alone[role], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mmtm", ["sum", "concat"])
def test_gradients_reach_every_parameter_of_a_classifier(network: Network, mmtm: str, make_inputs: MakeInputs) -> None:
    classifier = Classifier(encoder_of(network, mmtm=mmtm), 3)
    classifier(make_inputs(classifier.encoder, 4)).logsumexp(1).sum().backward()
    without = [name for name, p in classifier.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_reducing_averages_pixels_bands_and_columns_and_keeps_frames() -> None:
    encoder = encoder_of("slow-fast", pool=8)
    video = torch.arange(128.0).repeat(1, 3, 8, 128, 1)  # a ramp over columns
    audio = torch.arange(469.0).repeat(1, 2, 128, 1)
    reduced = encoder.reduce({"video_slow": video, "audio_fast": audio})
    assert reduced["video_slow"].shape == (1, 3, 8, 16, 16)
    assert reduced["video_slow"][0, 0, 0, 0].tolist() == [3.5 + 8 * i for i in range(16)]
    assert reduced["audio_fast"].shape == (1, 2, 16, 59)
    assert reduced["audio_fast"][0, 0, 0, -2:].tolist() == [459.5, 466.0]  # the last window holds 464 to 468


def test_without_pooling_the_inputs_pass_untouched() -> None:
    encoder = encoder_of("slow-fast", pool=1)
    inputs = {"audio_fast": torch.randn(1, 2, 128, 469)}
    assert encoder.reduce(inputs)["audio_fast"] is inputs["audio_fast"]


def test_a_tensor_of_another_shape_is_refused_with_the_reason() -> None:
    encoder = encoder_of("music-video")
    with pytest.raises(AssertionError, match=r"audio is \(1, 2, 128, 1293\).*30-second clip"):
        encoder({"audio": torch.zeros(1, 2, 128, 1_293)})
    with pytest.raises(AssertionError, match="at least one role"):
        encoder({})
