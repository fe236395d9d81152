"""From the stored members of samples to what a network reads: float, standardised, channels first.

Of the phase a member holds, as its set's recipe says, ``projected``, mel filters times the angle of the transform, or
``angle``, the angle of mel filters times the transform. An angle jumps by a whole turn, which a squared error punishes
though nothing happened; its relatives, which are derived of it here, do not:

    cos-sin     cosine and sine, two channels
    inst-freq   how far the angle turns from one column to the next, the shorter way round, in radians; as GANSynth's
                (Engel et al., "GANSynth: Adversarial Neural Audio Synthesis", ICLR 2019), but that the first column,
                which has none before it, repeats the second's
    none        no phase at all
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.inputs import NUM_MELS, AudioInput, Phase, VideoInput

MIN_STD = 1e-6  # below it a channel is constant and is left unscaled

Specs = Mapping[str, VideoInput | AudioInput]
"""What each pathway reads, by role: ``encoder.inputs``."""
Moments = Mapping[str, Mapping[str, list[float]]]
"""``{member: {"mean": [...], "std": [...]}}``, a number a channel."""

STORED: dict[str, VideoInput | AudioInput] = {
    "frames": VideoInput(64),
    "mel_32k": AudioInput.of_clip(32_000),
    "mel_8k": AudioInput.of_clip(8_000),
    "mel_22k": AudioInput.of_clip(22_050),
}
"""The members of a stored sample by name; a test holds them against ``pipeline.schema.MEMBERS``."""


class Source(NamedTuple):
    """Where a pathway's input is stored."""

    member: str
    every: int
    """Frames between two that are read; 1 for audio."""


def stored_shape(member: str) -> tuple[int, ...]:
    """Return a member's shape as stored, without the batch: (T, H, W, 3) of uint8, or (2, M, T) of float16."""
    held = STORED[member]
    if isinstance(held, VideoInput):
        return (held.num_frames, held.size_px, held.size_px, 3)
    return (2, NUM_MELS, held.num_frames)


def source_of(spec: VideoInput | AudioInput) -> Source:
    """Return the member that holds what a pathway reads.

    The slow pathway's 8 frames are every 8th of the 64 stored.

    Raises
    ------
    ValueError
        If no member does.
    """
    for member, held in STORED.items():
        if isinstance(spec, VideoInput) and isinstance(held, VideoInput):
            every, rest = divmod(held.num_frames, spec.num_frames)
            if rest == 0 and spec.size_px == held.size_px:
                return Source(member, every)
        elif isinstance(spec, AudioInput) and replace(spec, phase="projected") == held:
            return Source(member, 1)
    raise ValueError(f"no stored member holds {spec}")


def members_read(specs: Specs) -> tuple[str, ...]:
    """Return the stored members that a network with these inputs needs."""
    return tuple(dict.fromkeys(source_of(spec).member for spec in specs.values()))


def with_phase(mel_BCMT: Tensor, phase: Phase) -> Tensor:
    """Turn what is stored into the channels that a network reads, not yet standardised.

    Parameters
    ----------
    mel_BCMT
        float (B, 2, M, T): log-mel in dB and the stored phase; an angle in radians where one is to be derived of it.

    Returns
    -------
    Tensor
        float (B, C, M, T), channels as ``trainer.models.inputs.CHANNEL_NAMES`` has them.
    """
    level_B1MT, angle_B1MT = mel_BCMT[:, :1], mel_BCMT[:, 1:]
    if phase == "none":
        return level_B1MT
    if phase == "cos-sin":
        return torch.cat([level_B1MT, angle_B1MT.cos(), angle_B1MT.sin()], 1)
    if phase == "inst-freq":
        turn_B1MT = wrapped(angle_B1MT.diff(dim=-1))
        return torch.cat([level_B1MT, torch.cat([turn_B1MT[..., :1], turn_B1MT], -1)], 1)
    return mel_BCMT


def wrapped(angle: Tensor) -> Tensor:
    """Return the same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


class Preprocess(nn.Module):
    """Stored members to inputs by role; its numbers are constants, which no state dict holds.

    Parameters
    ----------
    specs
        ``encoder.inputs``.
    normalization
        Of each channel read (frames: 0 to 255). A channel whose std is 0, tiny or not a number is centred only.

    Raises
    ------
    ValueError
        If a member's numbers are not as many as its channels.
    """

    def __init__(self, specs: Specs, normalization: Moments) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.sources = {role: source_of(spec) for role, spec in specs.items()}
        self.members = members_read(specs)
        for role, spec in self.specs.items():
            member, num_channels = self.sources[role].member, spec.shape[0]
            mean, std = (torch.tensor(normalization[member][name], dtype=torch.float32) for name in ("mean", "std"))
            if mean.shape != (num_channels,) or std.shape != (num_channels,):
                raise ValueError(f"normalization of {member} is not of the {num_channels} channels that are read")
            shape = (-1,) + (1,) * (len(spec.shape) - 1)  # channels first, broadcast over the rest
            std = torch.where(std.isfinite() & (std > MIN_STD), std, 1.0)
            self.register_buffer(f"mean_{member}", mean.nan_to_num().view(shape), persistent=False)
            self.register_buffer(f"std_{member}", std.view(shape), persistent=False)

    @property
    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(mean, std) of each member's channels, as applied: they broadcast over ``video_BCTHW`` or ``mel_BCMT``."""
        return {name: (self.get_buffer(f"mean_{name}"), self.get_buffer(f"std_{name}")) for name in self.members}

    def forward(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return float32 ``video_BCTHW`` and ``mel_BCMT`` by role, of the roles whose members are there.

        Parameters
        ----------
        stored
            By member: ``frames`` ``video_BTHWC``, 0 to 255, ``mel_...`` (B, 2, M, T), of any type.
        """
        floats = {
            name: (stored[name].movedim(-1, 1) if isinstance(STORED[name], VideoInput) else stored[name]).float()
            for name in self.members
            if name in stored
        }
        inputs = {}
        for role, (member, every) in self.sources.items():
            if member not in floats:
                continue
            spec, values = self.specs[role], floats[member]
            values = with_phase(values, spec.phase) if isinstance(spec, AudioInput) else values[:, :, ::every]
            mean, std = self.moments[member]
            inputs[role] = ((values - mean) / std).contiguous()
        return inputs
