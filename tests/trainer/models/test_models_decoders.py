"""Decoders and autoencoders: sizes, recovered counts, targets, learning."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.models.autoencoder import Autoencoder
from trainer.models.blocks import halved
from trainer.models.counting import keras_count
from trainer.models.decoders import Decoder, Upsampling, upsampling
from trainer.models.inputs import Phase
from trainer.models.presets import Network, Preset, build_encoder, network_config

MakeInputs = Callable[..., dict[str, Tensor]]


def autoencoder_of(network: Network, preset: Preset = "tiny", **overrides: Any) -> Autoencoder:
    return Autoencoder(build_encoder(network_config(network, preset, **overrides)))


def on_meta(network: Network, preset: Preset, **overrides: Any) -> Autoencoder:
    with torch.device("meta"):
        return autoencoder_of(network, preset, **overrides)


def losses(autoencoder: Autoencoder, inputs: dict[str, Tensor]) -> Tensor:
    outputs, targets = autoencoder(inputs), autoencoder.targets(inputs)
    pairs = [pair for role in outputs for pair in zip(outputs[role], targets[role], strict=True)]
    return torch.stack([F.mse_loss(output, target) for output, target in pairs])


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (4, 8, Upsampling(kernel=3, stride=2, padding=1, output_padding=1)),
        (30, 59, Upsampling(kernel=3, stride=2, padding=1, output_padding=0)),
        (1, 1, Upsampling(kernel=3, stride=1, padding=1, output_padding=0)),
        (4, 16, Upsampling(kernel=4, stride=4, padding=0, output_padding=0)),
        (41, 162, Upsampling(kernel=4, stride=4, padding=1, output_padding=0)),
    ],
)
def test_kernel_and_stride_follow_from_the_two_sizes(small: int, large: int, expected: Upsampling) -> None:
    assert upsampling(small, large) == expected


@given(small=st.integers(1, 60), factor=st.integers(1, 8), data=st.data())
def test_an_upsampling_ends_at_exactly_the_size_asked_for(small: int, factor: int, data: st.DataObject) -> None:
    large = data.draw(st.integers(max(small, (factor - 1) * small + 1), factor * small))
    numbers = upsampling(small, large)
    layer = nn.ConvTranspose1d(1, 1, *numbers)
    assert layer(torch.empty(1, 1, small)).shape[-1] == large


def test_going_down_is_refused() -> None:
    with pytest.raises(ValueError, match="coarse to fine"):
        upsampling(8, 4)


@pytest.mark.parametrize(
    ("network", "total", "decoders"),
    [
        ("music-video", 24_872_647, {"video": 1_178_271, "audio": 618_600}),
        (
            "slow-fast",
            23_779_708,
            {"video_slow": 4_705_155, "video_fast": 295_011, "audio_slow": 1_569_698, "audio_fast": 98_666},
        ),
    ],
)
def test_decoders_and_autoencoders_have_the_recovered_counts(
    network: Network, total: int, decoders: dict[str, int]
) -> None:
    autoencoder = on_meta(network, "paper")
    assert {role: keras_count(decoder) for role, decoder in autoencoder.decoders.items()} == decoders
    assert keras_count(autoencoder) == total


@pytest.mark.parametrize(
    ("network", "role", "widths", "sizes"),
    [
        (
            "music-video",
            "video",
            [128, 64, 32, 16, 3],
            [(4, 8, 8), (8, 16, 16), (16, 32, 32), (32, 64, 64), (64, 128, 128)],
        ),
        ("music-video", "audio", [128, 64, 32, 2], [(16, 162), (32, 323), (64, 646), (128, 1292)]),
        (
            "slow-fast",
            "video_slow",
            [256, 128, 64, 32, 3],
            [(1, 8, 8), (1, 16, 16), (2, 32, 32), (4, 64, 64), (8, 128, 128)],
        ),
        (
            "slow-fast",
            "video_fast",
            [64, 32, 16, 8, 3],
            [(4, 8, 8), (8, 16, 16), (16, 32, 32), (32, 64, 64), (64, 128, 128)],
        ),
        ("slow-fast", "audio_slow", [256, 128, 64, 32, 2], [(8, 118), (16, 235), (32, 469), (64, 938), (128, 1876)]),
        ("slow-fast", "audio_fast", [64, 32, 16, 8, 2], [(8, 30), (16, 59), (32, 118), (64, 235), (128, 469)]),
    ],
)
def test_decoder_layers_put_out_the_recovered_shapes(
    network: Network, role: str, widths: list[int], sizes: list[tuple[int, ...]]
) -> None:
    autoencoder = on_meta(network, "paper")
    encoder, decoder = autoencoder.encoder, autoencoder.decoders[role]
    assert isinstance(decoder, Decoder)
    seen: list[tuple[int, ...]] = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    decoder(torch.empty(2, encoder.channels[role], *encoder.size(role, 5), device="meta"))
    assert seen == [(width, *size) for width, size in zip(widths, sizes, strict=True)]


@pytest.mark.parametrize("preset", ["paper", "small", "tiny"])
@pytest.mark.parametrize(
    ("network", "phase"), [("slow-fast", "angle"), ("music-video", "cos-sin"), ("music-video", "none")]
)
def test_outputs_and_targets_have_the_same_shapes_and_end_at_the_reduced_input(
    network: Network, preset: Preset, phase: Phase
) -> None:
    autoencoder = on_meta(network, preset, phase=phase)
    encoder = autoencoder.encoder
    inputs = {role: torch.empty(2, *spec.shape, device="meta") for role, spec in encoder.inputs.items()}
    outputs, targets, reduced = autoencoder(inputs), autoencoder.targets(inputs), encoder.reduce(inputs)
    expected_lengths = {"video": 5, "audio": 4} if network == "music-video" else dict.fromkeys(encoder.inputs, 1)
    assert {role: len(tensors) for role, tensors in outputs.items()} == expected_lengths
    for role in encoder.inputs:
        assert [tensor.shape for tensor in outputs[role]] == [tensor.shape for tensor in targets[role]]
        assert outputs[role][-1].shape == reduced[role].shape


def test_deep_supervision_is_a_switch_of_either_network() -> None:
    assert len(on_meta("music-video", "paper", auxiliary_outputs=False).decoders["video"].heads) == 0  # type: ignore[arg-type]
    slow_fast = on_meta("slow-fast", "paper", auxiliary_outputs=True)
    inputs = {role: torch.empty(2, *spec.shape, device="meta") for role, spec in slow_fast.encoder.inputs.items()}
    outputs, targets = slow_fast(inputs), slow_fast.targets(inputs)
    assert [tuple(output.shape[2:]) for output in outputs["video_slow"]] == [
        (1, 8, 8),
        (1, 16, 16),
        (2, 32, 32),
        (4, 64, 64),
        (8, 128, 128),
    ]
    assert [[o.shape for o in outputs[role]] for role in outputs] == [[t.shape for t in targets[r]] for r in targets]


def test_auxiliary_targets_average_the_cells_the_poolings_saw_at_odd_sizes_too() -> None:
    autoencoder = autoencoder_of("music-video", pool=1)
    mel = torch.randn(1, 2, 128, 1_292)
    targets = autoencoder.targets({"audio": mel})["audio"]
    assert torch.equal(targets[-1], mel)
    for level, target in zip((3, 2, 1), targets, strict=False):
        side = 2**level
        assert tuple(target.shape[2:]) == halved((128, 1_292), level)
        torch.testing.assert_close(target[0, 1, 2, 5], mel[0, 1, 2 * side : 3 * side, 5 * side : 6 * side].mean())
        torch.testing.assert_close(target[0, 0, 0, -1], mel[0, 0, :side, (target.shape[-1] - 1) * side :].mean())


@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_decoder_is_transposed_convolution_relu_and_norm_a_layer_and_ends_linear(auxiliary: bool) -> None:
    decoder = Decoder(8, [(2, 3), (4, 5), (8, 10)], 2, auxiliary=auxiliary)
    weights, latent = dict(decoder.named_parameters()), torch.randn(3, 8, 2, 3)
    maps = F.conv_transpose2d(
        latent, weights["layers.0.weight"], weights["layers.0.bias"], stride=2, padding=1, output_padding=(1, 0)
    ).clamp(min=0)
    mean, var = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
    maps = (maps - mean) / (var + 1e-3).sqrt()  # the norm's scale and shift start at 1 and 0
    expected = [
        F.conv_transpose2d(
            maps, weights["layers.1.weight"], weights["layers.1.bias"], stride=2, padding=1, output_padding=1
        )
    ]
    if auxiliary:
        expected.insert(0, F.conv2d(maps, weights["heads.0.weight"], weights["heads.0.bias"]))
    torch.testing.assert_close(decoder(latent), expected, rtol=1e-4, atol=1e-4)
    assert expected[-1].min() < 0


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_gradients_reach_every_parameter_of_an_autoencoder(network: Network, make_inputs: MakeInputs) -> None:
    autoencoder = autoencoder_of(network)
    losses(autoencoder, make_inputs(autoencoder.encoder, 4)).sum().backward()
    without = [name for name, p in autoencoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_an_autoencoder_learns_one_batch_by_heart(network: Network, make_inputs: MakeInputs) -> None:
    autoencoder = autoencoder_of(network)
    inputs = make_inputs(autoencoder.encoder, 2)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    first = losses(autoencoder, inputs)
    for _ in range(80):
        optimizer.zero_grad()
        losses(autoencoder, inputs).sum().backward()
        optimizer.step()
    last = losses(autoencoder, inputs)
    assert last.sum() < first.sum() / 4
    targets = autoencoder.targets(inputs)
    variances = torch.stack([target.var() for role in targets for target in targets[role]])
    assert (last < variances / 2).all(), "an output does little better than the mean of its target"
