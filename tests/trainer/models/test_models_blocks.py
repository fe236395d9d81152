"""The dense residual block against its definition, and the orientation of its kernels."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.blocks import (
    BlockConfig,
    Convolution,
    DenseResidualBlock,
    halved,
    he_init_,
    same_conv,
    spatial_kernel,
    temporal_kernel,
)

CONFIG = BlockConfig(features=3, kernels=(5, 5, 3, 3, 3), out_channels=4)


def block_of(convolution: Convolution, num_axes: int, *, inner_norm: bool = False) -> DenseResidualBlock:
    return DenseResidualBlock(CONFIG, in_channels=2, num_axes=num_axes, convolution=convolution, inner_norm=inner_norm)


def randomise_norms(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for values in (module.weight, module.bias, module.running_mean):
                assert values is not None
                nn.init.normal_(values)
            assert module.running_var is not None
            nn.init.uniform_(module.running_var, 0.5, 2.0)


@pytest.mark.parametrize("convolution", get_args(Convolution))
@pytest.mark.parametrize("inner_norm", [True, False])
@pytest.mark.parametrize("size", [(5, 7, 6), (7, 9)], ids=["video", "audio"])
def test_a_block_computes_what_figures_4_and_6_draw(
    convolution: Convolution, inner_norm: bool, size: tuple[int, ...]
) -> None:
    video = len(size) == 3
    block = block_of(convolution, len(size), inner_norm=inner_norm).eval()
    randomise_norms(block)
    weights = dict(block.named_parameters()) | dict(block.named_buffers())
    image = torch.randn(2, 2, *size)

    def convolve(maps: Tensor, name: str) -> Tensor:
        kernel = weights[f"{name}.weight"]
        padding = [side // 2 for side in kernel.shape[2:]]
        return (F.conv3d if video else F.conv2d)(maps, kernel, weights[f"{name}.bias"], padding=padding).clamp(min=0)

    def normalise(maps: Tensor, name: str) -> Tensor:
        if not inner_norm and name != "norm_out":
            return maps
        columns = (1, -1, *(1 for _ in size))
        mean, var = weights[f"{name}.running_mean"].reshape(columns), weights[f"{name}.running_var"].reshape(columns)
        scale, shift = weights[f"{name}.weight"].reshape(columns), weights[f"{name}.bias"].reshape(columns)
        return (maps - mean) / (var + 1e-3).sqrt() * scale + shift

    def pool(maps: Tensor) -> Tensor:  # pads odd ends with -inf, as Keras does
        odd_ends = [amount for side in reversed(size) for amount in (0, side % 2)]
        padded = F.pad(maps, odd_ends, value=-torch.inf)
        for axis in range(2, padded.ndim):
            padded = torch.maximum(*(padded.unfold(axis, 2, 2).select(-1, i) for i in (0, 1)))
        return padded

    def joined(maps: Tensor) -> Tensor:
        return torch.cat([image, maps], 1)

    x = convolve(image, "dense_1")
    y = convolve(normalise(joined(x), "norm_1"), "dense_2")
    z = convolve(normalise(joined(y), "norm_2"), "dense_3")
    s = convolve(image, "shortcut")
    added = pool(normalise(joined(z), "norm_3")) + pool(normalise(joined(s), "norm_4"))
    expected = normalise(convolve(added, "smooth"), "norm_out")

    out = block(image)
    assert out.shape == (2, 4, *halved(size, 1))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_a_1xnxn_kernel_spans_columns_and_time_and_an_nxnx1_kernel_spans_the_frame() -> None:
    video = block_of("separable", 3)  # weights are (out, in, T, H, W)
    assert video.dense_1.weight.shape == (3, 2, 5, 1, 5)
    assert video.dense_2.weight.shape == (1, 2 + 3, 1, 5, 5)
    assert video.dense_3.weight.shape == (3, 2 + 1, 3, 1, 3)
    assert video.shortcut.weight.shape == (3, 2, 1, 3, 3)
    assert video.smooth.weight.shape == (4, 2 + 3, 3, 3, 3)

    audio = block_of("separable", 2)  # weights are (out, in, M, T)
    assert audio.dense_1.weight.shape == (3, 2, 1, 5)
    assert audio.dense_2.weight.shape == (1, 2 + 3, 5, 1)
    assert audio.smooth.weight.shape == (4, 2 + 3, 3, 3)


def test_a_temporal_kernel_sees_motion_and_a_spatial_one_does_not() -> None:
    flash = torch.zeros(1, 1, 5, 5, 5)
    flash[0, 0, 2, 2, 2] = 1
    for kernel, seen_in_frames in ((temporal_kernel(3, 3), [1, 2, 3]), (spatial_kernel(3, 3), [2])):
        conv = same_conv(1, 1, kernel, bias=False)
        nn.init.ones_(conv.weight)
        assert conv(flash)[0, 0].sum((1, 2)).nonzero().flatten().tolist() == seen_in_frames


@pytest.mark.parametrize(
    ("convolution", "expected"),
    # weights and biases of the dense path, the shortcut and the smoothing, and the last norm's scale and shift
    [
        ("full", (2 * 3 * 125 + 3) + (5 * 3 * 125 + 3) + (5 * 3 * 27 + 3) + (2 * 3 * 27 + 3) + (5 * 4 * 27 + 4) + 8),
        (
            "channel-separable",
            (2 * 3 * 125 + 3) + (5 * 125 + 1) + (3 * 3 * 27 + 3) + (2 * 3 * 27 + 3) + (5 * 4 * 27 + 4) + 8,
        ),
        (
            "filter-separable",
            (2 * 3 * 25 + 3) + (5 * 3 * 25 + 3) + (5 * 3 * 9 + 3) + (2 * 3 * 9 + 3) + (5 * 4 * 27 + 4) + 8,
        ),
        ("separable", (2 * 3 * 25 + 3) + (5 * 25 + 1) + (3 * 3 * 9 + 3) + (2 * 3 * 9 + 3) + (5 * 4 * 27 + 4) + 8),
    ],
)
def test_the_four_convolutions_of_figure_2_differ_by_middle_filter_and_factorised_kernels(
    convolution: Convolution, expected: int
) -> None:
    assert sum(p.numel() for p in block_of(convolution, 3).parameters()) == expected


def test_no_convolution_is_grouped() -> None:
    convs = [m for m in block_of("separable", 3).modules() if isinstance(m, nn.Conv3d)]
    assert [conv.groups for conv in convs] == [1] * 5


def test_batch_norm_has_keras_constants() -> None:
    norms = [m for m in block_of("full", 2, inner_norm=True).modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-3, 0.01)] * 5


def test_weights_start_he_normal_and_biases_at_zero() -> None:
    conv = same_conv(64, 64, (3, 3, 3))
    conv.apply(he_init_)
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)
    assert conv.bias is not None
    assert not conv.bias.any()


@pytest.mark.parametrize("kernels", [(4, 3, 3, 3, 3), (3, 3, 3), (0, 3, 3, 3, 3)])
def test_kernels_that_cannot_keep_the_size_are_refused(kernels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="--kernels"):
        BlockConfig(features=4, kernels=kernels, out_channels=8)  # type: ignore[arg-type]


def test_a_block_without_filters_is_refused() -> None:
    with pytest.raises(ValueError, match="--features 0"):
        BlockConfig(features=0, kernels=(3, 3, 3, 3, 3), out_channels=8)
