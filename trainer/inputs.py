"""What a network reads, made of a batch's stored members on the device."""

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.models.inputs import CHANNEL_NAMES, AudioInput
from trainer.models.preprocess import Moments, Preprocess, Specs, members_read, source_of
from trainer.phase import Normalization, channel_moments, joined
from trainer.readers import Batch

__all__ = ["Inputs", "Moments", "Specs", "members_read", "moments_read"]

COLOURS = ("red", "green", "blue")


def moments_read(specs: Specs, stored: Moments, mode: Normalization = "channel") -> dict[str, dict[str, list[float]]]:
    """Return the mean and standard deviation by which each channel that a network reads is standardised.

    Parameters
    ----------
    stored
        Of the stored channels: ``dataset.json``'s ``normalization``.
    mode
        ``channel``, its own of each; ``joint``, one of all values of a member, as the authors' public code has it: the
        phase is then next to constant beside a log-mel in dB.

    Raises
    ------
    UserError
        If the set tells none of a member that is read.
    """
    if missing := sorted(set(members_read(specs)) - set(stored)):
        raise UserError(f"dataset.json tells no normalization of {', '.join(missing)}; build the set again")
    moments = {}
    for spec in specs.values():
        member = source_of(spec).member
        own = {name: list(values) for name, values in stored[member].items()}
        if isinstance(spec, AudioInput):
            own = channel_moments(own, spec.phase)
        moments[member] = joined(own) if mode == "joint" else own
    return moments


class Inputs:
    """From a batch of ``trainer.readers`` to the network's inputs by role.

    Parameters
    ----------
    specs
        ``encoder.inputs``.
    normalization
        What ``moments_read`` gives.
    """

    def __init__(self, specs: Specs, normalization: Moments, device: torch.device) -> None:
        self.preprocess = Preprocess(specs, normalization).to(device)
        self.specs, self.sources = self.preprocess.specs, self.preprocess.sources
        self.members = self.preprocess.members
        self.device = device
        self.moments = self.preprocess.moments
        """(mean, std) of each member's channels, shaped to broadcast over ``video_BCTHW`` or ``mel_BCMT``."""

    @property
    def channel_names(self) -> dict[str, tuple[str, ...]]:
        """What the channels of each role are."""
        return {
            role: CHANNEL_NAMES[spec.phase] if isinstance(spec, AudioInput) else COLOURS
            for role, spec in self.specs.items()
        }

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return float32 ``video_BCTHW`` and ``mel_BCMT`` by role, on the device."""
        stored = {name: batch[name].to(self.device, non_blocking=True) for name in self.members}
        inputs: dict[str, Tensor] = self.preprocess(stored)
        return inputs
