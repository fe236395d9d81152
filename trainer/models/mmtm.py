"""Multimodal transfer modules: what audio and video pathways tell each other after a block.

Two forms by name. ``sum`` is the one the published parameter counts demand; ``concat`` is the official one of Joze et
al., "MMTM: Multimodal Transfer Module for CNN Fusion", CVPR 2020. Both take and return feature maps by role, and any of
the pair may be missing: an absent pathway adds 0 to what is squeezed.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.models.blocks import global_average, same_conv

MmtmName = Literal["sum", "concat", "none"]


class ScseGate(nn.Module):
    """Gates one stream by channel, from the shared squeeze, and by position, from the stream itself; adds the two.

    Concurrent spatial and channel excitation of Roy et al., MICCAI 2018, without biases.
    """

    def __init__(self, channels: int, *, num_axes: int, ratio: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.Linear(channels, channels // ratio, bias=False),
            nn.ReLU(),
            nn.Linear(channels // ratio, channels, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = same_conv(channels, 1, (1,) * num_axes, bias=False)

    def forward(self, maps_BCN: Tensor, squeezed_BC: Tensor) -> Tensor:
        """Return the gated maps, (B, C, N)."""
        channel = _over_positions(self.channel(squeezed_BC), maps_BCN)
        return maps_BCN * channel + maps_BCN * torch.sigmoid(self.spatial(maps_BCN))


class SumMMTM(nn.Module):
    """The authors' module: squeezes are summed, then each stream has its own concurrent scSE gate.

    Deviation: the paper cites Joze et al.; its counts (44,640 and 187,984) fit no concatenating module.

    Parameters
    ----------
    num_axes
        By role, 3 for a video pathway and 2 for an audio one.
    channels
        Channels of every stream: what is summed must be of one width.
    ratio
        How many times the squeeze narrows.
    """

    def __init__(self, num_axes: dict[str, int], *, channels: int, ratio: int) -> None:
        super().__init__()
        self.gates = nn.ModuleDict(
            {role: ScseGate(channels, num_axes=axes, ratio=ratio) for role, axes in num_axes.items()}
        )

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gate the maps that are there, (B, C, N) by role."""
        squeezed_BC = torch.stack([global_average(maps_BCN) for maps_BCN in maps.values()]).sum(0)
        return {role: self.gates[role](maps_BCN, squeezed_BC) for role, maps_BCN in maps.items()}


class ConcatMMTM(nn.Module):
    """The official module: squeezes are concatenated into one narrow layer, from which each stream's gate is excited.

    As in the public code of Joze et al.: dense layers with biases, int(2 x width / ratio) shared units, a plain
    sigmoid. Deviation: their printed formula doubles the sigmoid. The parameters are those of ``SumMMTM``.
    """

    def __init__(self, num_axes: dict[str, int], *, channels: int, ratio: int) -> None:
        super().__init__()
        width = channels * len(num_axes)
        self.squeeze = nn.Linear(width, 2 * width // ratio)
        self.excite = nn.ModuleDict({role: nn.Linear(2 * width // ratio, channels) for role in num_axes})

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gate the maps that are there, (B, C, N) by role."""
        means = {role: global_average(maps_BCN) for role, maps_BCN in maps.items()}
        nothing = torch.zeros_like(next(iter(means.values())))
        shared = torch.relu(self.squeeze(torch.cat([means.get(role, nothing) for role in self.excite], 1)))
        return {
            role: maps_BCN * _over_positions(torch.sigmoid(self.excite[role](shared)), maps_BCN)
            for role, maps_BCN in maps.items()
        }


def _over_positions(gate_BC: Tensor, maps_BCN: Tensor) -> Tensor:
    """Give a gate as many trailing axes of size 1 as the maps have positions."""
    return gate_BC.reshape(*gate_BC.shape, *(1 for _ in maps_BCN.shape[2:]))
