"""What a network reads, made of stored members on the device: float, standardised per channel, channels first."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.loader import Batch
from trainer.models.inputs import SIZE_PX, AudioInput, VideoInput
from trainer.shards import MEMBERS, NUM_FRAMES, SAMPLE_RATES_HZ

MIN_STD = 1e-6  # below it a channel is constant and is left unscaled

CHANNEL_NAMES = {"video": ("red", "green", "blue"), "audio": ("log-mel", "phase")}


class Source(NamedTuple):
    """Where a pathway's input is stored."""

    member: str
    every: int
    """Frames between two that are read; 1 for audio."""


def source_of(spec: VideoInput | AudioInput) -> Source:
    """Return the member that holds what a pathway reads.

    The slow pathway's 8 frames are every 8th of the 64 stored.

    Raises
    ------
    ValueError
        If no member does.
    """
    if isinstance(spec, VideoInput):
        if spec.size_px == SIZE_PX and NUM_FRAMES % spec.num_frames == 0:
            return Source("frames", NUM_FRAMES // spec.num_frames)
    else:
        for member, rate_hz in SAMPLE_RATES_HZ.items():
            if rate_hz == spec.sample_rate_hz and MEMBERS[member].shape[-1] == spec.num_frames:
                return Source(member, 1)
    raise ValueError(f"no stored member holds {spec}")


def members_read(specs: Mapping[str, VideoInput | AudioInput]) -> tuple[str, ...]:
    """Return the stored members that a network with these inputs needs."""
    return tuple(dict.fromkeys(source_of(spec).member for spec in specs.values()))


class Inputs:
    """From a batch of ``trainer.loader`` to the network's inputs by role.

    Parameters
    ----------
    specs
        ``encoder.inputs``.
    normalization
        ``{member: {"mean": [...], "std": [...]}}`` per channel, of the stored values (frames: 0 to 255). A channel
        whose std is 0, tiny or not a number is centred only.
    """

    def __init__(
        self,
        specs: Mapping[str, VideoInput | AudioInput],
        normalization: Mapping[str, Mapping[str, list[float]]],
        device: torch.device,
    ) -> None:
        self.specs = dict(specs)
        self.sources = {role: source_of(spec) for role, spec in specs.items()}
        self.members = members_read(specs)
        self.device = device
        if missing := sorted(set(self.members) - set(normalization)):
            raise UserError(f"dataset.json tells no normalization of {', '.join(missing)}; build the set again")
        self._moments = {name: self._tensors(name, normalization[name]) for name in self.members}

    @property
    def channel_names(self) -> dict[str, tuple[str, ...]]:
        """What the channels of each role are."""
        return {role: CHANNEL_NAMES[spec.modality][: spec.shape[0]] for role, spec in self.specs.items()}

    def _tensors(self, name: str, moments: Mapping[str, list[float]]) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(moments[k], dtype=torch.float32, device=self.device) for k in ("mean", "std"))
        std = torch.where(std.isfinite() & (std > MIN_STD), std, 1.0)
        shape = (-1,) + (1,) * (len(MEMBERS[name].shape) - 1)  # channels first, broadcast over the rest
        return mean.nan_to_num().view(shape), std.view(shape)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return float32 ``video_BCTHW`` and ``mel_BCMT`` by role, on the device."""
        members = {name: self._standardised(name, batch[name]) for name in self.members}
        inputs = {}
        for role, (member, every) in self.sources.items():
            channels = self.specs[role].shape[0]
            inputs[role] = members[member][:, :channels, ::every] if every > 1 else members[member][:, :channels]
        return {role: x.contiguous() for role, x in inputs.items()}

    def _standardised(self, name: str, stored: Tensor) -> Tensor:
        values = stored.to(self.device, non_blocking=True).movedim(MEMBERS[name].channel_axis + 1, 1).float()
        mean, std = self._moments[name]
        return (values - mean) / std
