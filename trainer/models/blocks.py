"""The dense residual block (paper, Figs. 2, 4 and 6) and the layers all networks share.

Every convolution has stride 1, zero padding to the same size and a bias, and is followed by ReLU; batch norm comes
after the ReLU. So the published parameter counts have it, and so the authors' public networks do.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolution = Literal["full", "channel-separable", "filter-separable", "separable"]

BN_EPS = 1e-3  # Keras' defaults, which differ from torch's 1e-5 and 0.1
BN_MOMENTUM = 0.01

_CONV: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL: dict[int, type[nn.MaxPool2d | nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Widths and kernels of one dense residual block; the same serves video (cubes) and audio (squares)."""

    features: int
    """Filters of each convolution before the smoothing one (one filter in a channel-separable middle)."""
    kernels: tuple[int, int, int, int, int]
    """Long sides of the kernels: first, second, third of the dense path, shortcut, smoothing."""
    out_channels: int
    """Filters of the smoothing convolution."""

    def __post_init__(self) -> None:
        """Refuse what cannot be padded to the same size."""
        if min(self.features, self.out_channels) < 1:
            raise ValueError(f"--features {self.features}, --out-channels {self.out_channels}: give 1 or more of each")
        if len(self.kernels) != 5 or any(side < 1 or side % 2 == 0 for side in self.kernels):
            raise ValueError(f"--kernels {self.kernels}: give five odd sizes (dense 1, 2, 3, shortcut, smoothing)")


def full_kernel(side: int, num_axes: int) -> tuple[int, ...]:
    """Return a cube for video, a square for audio."""
    return (side,) * num_axes


def temporal_kernel(side: int, num_axes: int) -> tuple[int, ...]:
    """Return the half of a factorised kernel that runs along time.

    The paper's "1 x n x n" is written in the axis order of the authors' arrays, (H, W, T): it spans the columns of a
    frame *and* time. In torch's order (T, H, W) that is (n, 1, n). Audio: "1 x n" over (M, T), as it stands.
    """
    return (side, 1, side) if num_axes == 3 else (1, side)


def spatial_kernel(side: int, num_axes: int) -> tuple[int, ...]:
    """Return the half of a factorised kernel that stays within a moment.

    The paper's "n x n x 1" over (H, W, T) is (1, n, n) in torch's order (T, H, W). Audio: "n x 1" over (M, T), along
    frequency.
    """
    return (1, side, side) if num_axes == 3 else (side, 1)


def same_conv(
    in_channels: int, out_channels: int, kernel: tuple[int, ...], *, bias: bool = True
) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution over as many axes as the odd ``kernel`` has, padded with zeros to keep the size."""
    padding = tuple(side // 2 for side in kernel)
    return _CONV[len(kernel)](in_channels, out_channels, kernel, padding=padding, bias=bias)  # type: ignore[arg-type]


def batch_norm(channels: int, num_axes: int) -> nn.Module:
    """Return batch norm with Keras' constants."""
    return _BATCH_NORM[num_axes](channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def he_init_(module: nn.Module) -> None:
    """Fill a convolution's or dense layer's weights He-normally and its bias with zeros; for ``Module.apply``.

    Fan-in is Keras' for all of them: torch too counts a transposed convolution's outputs. Deviation: Keras draws from a
    truncated normal of the same variance.
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def global_average(maps_BCN: Tensor) -> Tensor:
    """Average over all axes after the channels: (B, C, ...) to (B, C)."""
    return maps_BCN.flatten(2).mean(-1)


def halved(size: tuple[int, ...], times: int) -> tuple[int, ...]:
    """Return the size of a map after ``times`` poolings by 2 that round up."""
    return tuple(math.ceil(side / 2**times) for side in size)


class DenseResidualBlock(nn.Module):
    """Dense path plus shortcut, each pooled to half the size, then a smoothing convolution (paper, Figs. 4 and 6).

    With ``I`` the block's input and ``[a|b]`` channel concatenation::

        x = relu(dense_1(I))
        y = relu(dense_2(norm_1([I|x])))
        z = relu(dense_3(norm_2([I|y])))
        s = relu(shortcut(I))
        O = norm_out(relu(smooth(maxpool(norm_3([I|z])) + maxpool(norm_4([I|s])))))

    The dense path concatenates the raw input again each time, not all earlier features.

    Parameters
    ----------
    config
        Widths and kernels.
    in_channels
        Channels of the input.
    num_axes
        3 for video (B, C, T, H, W), 2 for audio (B, C, M, T).
    convolution
        One of Fig. 2. ``channel-separable`` gives ``dense_2`` a single filter (nowhere is a convolution grouped or
        depthwise); ``filter-separable`` gives ``dense_1`` and ``dense_3`` temporal kernels, ``dense_2`` and
        ``shortcut`` spatial ones; ``separable`` does both. The smoothing kernel is always full.
    inner_norm
        Whether norm_1 to norm_4 are batch norms (music-video network) or nothing (slow-fast network).
    """

    def __init__(
        self, config: BlockConfig, *, in_channels: int, num_axes: int, convolution: Convolution, inner_norm: bool
    ) -> None:
        super().__init__()
        features, out_channels = config.features, config.out_channels
        middle = 1 if convolution in ("channel-separable", "separable") else features
        factorised = convolution in ("filter-separable", "separable")
        temporal = temporal_kernel if factorised else full_kernel
        spatial = spatial_kernel if factorised else full_kernel
        side_1, side_2, side_3, side_shortcut, side_smooth = config.kernels

        def norm(channels: int) -> nn.Module:
            return batch_norm(channels, num_axes) if inner_norm else nn.Identity()

        self.dense_1 = same_conv(in_channels, features, temporal(side_1, num_axes))
        self.norm_1 = norm(in_channels + features)
        self.dense_2 = same_conv(in_channels + features, middle, spatial(side_2, num_axes))
        self.norm_2 = norm(in_channels + middle)
        self.dense_3 = same_conv(in_channels + middle, features, temporal(side_3, num_axes))
        self.norm_3 = norm(in_channels + features)
        self.shortcut = same_conv(in_channels, features, spatial(side_shortcut, num_axes))
        self.norm_4 = norm(in_channels + features)
        self.pool = _MAX_POOL[num_axes](2, ceil_mode=True)  # "same" pooling: an odd last row has a window of its own
        self.smooth = same_conv(in_channels + features, out_channels, full_kernel(side_smooth, num_axes))
        self.norm_out = batch_norm(out_channels, num_axes)

    def forward(self, maps_BCN: Tensor) -> Tensor:
        """Map (B, in_channels, N) to (B, out_channels, ceil(N / 2))."""
        x = F.relu(self.dense_1(maps_BCN))
        y = F.relu(self.dense_2(self.norm_1(torch.cat([maps_BCN, x], 1))))
        z = F.relu(self.dense_3(self.norm_2(torch.cat([maps_BCN, y], 1))))
        s = F.relu(self.shortcut(maps_BCN))
        dense = self.pool(self.norm_3(torch.cat([maps_BCN, z], 1)))
        residual = self.pool(self.norm_4(torch.cat([maps_BCN, s], 1)))
        out: Tensor = self.norm_out(F.relu(self.smooth(dense + residual)))
        return out
