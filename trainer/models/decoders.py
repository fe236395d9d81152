"""Decoders: plain transposed convolutions from a pathway's latent map back to its input (paper, Figs. 7 and 8).

The paper gives the topology and that kernels and strides are chosen a layer so that the last size is the input's; the
numbers here are chosen so: channels halve a layer, and kernel and stride follow from the two sizes they must join.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.blocks import batch_norm, he_init_, same_conv

_TRANSPOSED: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Upsampling(NamedTuple):
    """Numbers of a transposed convolution along one axis."""

    kernel: int
    stride: int
    padding: int
    output_padding: int


def upsampling(small: int, large: int) -> Upsampling:
    """Return the transposed convolution that takes ``small`` positions to exactly ``large``.

    The stride is the ratio rounded up and the kernel at least 3: 41 to 81 or to 82 is kernel 3, stride 2; 41 to 162 is
    kernel 4, stride 4; 1 to 1 is kernel 3, stride 1. What overshoots is cut evenly from both ends.

    Raises
    ------
    ValueError
        If ``large`` is smaller than ``small``.
    """
    if large < small:
        raise ValueError(f"cannot take {small} positions up to {large}: give sizes from coarse to fine")
    stride = math.ceil(large / small)
    kernel = max(3, stride)
    overshoot = (small - 1) * stride + kernel - large
    padding = math.ceil(overshoot / 2)
    return Upsampling(kernel, stride, padding, output_padding=2 * padding - overshoot)


class Decoder(nn.Module):
    """Transposed convolution, ReLU and batch norm a layer; the last is linear, since its target is standardised.

    Deviation: the paper lists batch norm before ReLU; here it comes after, as everywhere else in these networks, where
    the bias of the convolution still matters.

    Parameters
    ----------
    channels
        Channels of the latent map; every layer but the last halves them.
    sizes
        Size of the latent map, then of each layer's output, without channels: the last is the input's.
    out_channels
        Channels of the input.
    auxiliary
        Whether every layer but the last has an output of its own, through a 1 x 1 convolution.
    """

    def __init__(self, channels: int, sizes: Sequence[tuple[int, ...]], out_channels: int, *, auxiliary: bool) -> None:
        super().__init__()
        num_layers, num_axes = len(sizes) - 1, len(sizes[0])
        widths = [max(1, channels >> i) for i in range(num_layers)] + [out_channels]
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.heads = nn.ModuleList()
        for i in range(num_layers):
            axes = [upsampling(small, large) for small, large in zip(sizes[i], sizes[i + 1], strict=True)]
            kernel, stride, padding, output_padding = zip(*axes, strict=True)
            layer = _TRANSPOSED[num_axes](widths[i], widths[i + 1], kernel, stride, padding, output_padding)
            self.layers.append(layer)
            if i < num_layers - 1:
                self.norms.append(batch_norm(widths[i + 1], num_axes))
                if auxiliary:
                    self.heads.append(same_conv(widths[i + 1], out_channels, (1,) * num_axes))
        self.apply(he_init_)

    def forward(self, latent_BCN: Tensor) -> list[Tensor]:
        """Return the outputs (B, out_channels, N), from the coarsest auxiliary one to the input's size."""
        outputs = []
        maps_BCN = latent_BCN
        for i, norm in enumerate(self.norms):
            maps_BCN = norm(F.relu(self.layers[i](maps_BCN)))
            if self.heads:
                outputs.append(self.heads[i](maps_BCN))
        return [*outputs, self.layers[-1](maps_BCN)]
