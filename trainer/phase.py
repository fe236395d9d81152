"""Which phase a network reads of a set, and the moments by which it is standardised.

Shards hold one of two, by their recipe: ``projected`` or ``angle``. What is derived of an angle stands in
``trainer.models.preprocess``.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

from trainer.errors import UserError
from trainer.models.inputs import CHANNEL_NAMES, Phase

Normalization = Literal["channel", "joint"]

STORED: tuple[Phase, ...] = ("projected", "angle")

DERIVED_MOMENTS: dict[Phase, list[tuple[float, float]]] = {
    "cos-sin": [(0.0, math.sqrt(0.5)), (0.0, math.sqrt(0.5))],
    "inst-freq": [(0.0, math.pi / math.sqrt(3))],
    "none": [],
}
"""Mean and standard deviation of the channels that no set stores, as of an angle that is anywhere equally often."""


def choose_phase(asked: Phase | None, recipe: Mapping[str, Any], *, address: str) -> Phase:
    """Return what a network reads of a set's phase: what was asked for, by default what is stored.

    Raises
    ------
    UserError
        If the set stores another phase than that is, or is derived of.
    """
    stored: Phase = recipe.get("phase", "projected")
    if stored not in STORED:
        raise UserError(
            f"{address} was built with phase {stored}, which is none of {', '.join(STORED)}; build it again"
        )
    if asked is None or asked == "none":
        return asked or stored
    needed = "projected" if asked == "projected" else "angle"
    if stored != needed:
        raise UserError(
            f"--phase {asked}, but {address} was built with phase {stored}; build it with --phase {needed}, "
            f"or train with --phase {stored} or none"
        )
    return asked


def channel_moments(stored: Mapping[str, list[float]], phase: Phase) -> dict[str, list[float]]:
    """Return mean and standard deviation of each channel that ``trainer.models.preprocess.with_phase`` gives.

    Parameters
    ----------
    stored
        ``{"mean": [...], "std": [...]}`` of the stored channels.
    """
    if phase in STORED:
        return {name: list(values) for name, values in stored.items()}
    mean, std = zip((stored["mean"][0], stored["std"][0]), *DERIVED_MOMENTS[phase], strict=True)
    assert len(mean) == len(CHANNEL_NAMES[phase])
    return {"mean": list(mean), "std": list(std)}


def joined(moments: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return one mean and standard deviation for all channels, which have equally many values."""
    num_channels = len(moments["mean"])
    mean = sum(moments["mean"]) / num_channels
    square = sum(std**2 + own**2 for own, std in zip(moments["mean"], moments["std"], strict=True)) / num_channels
    return {"mean": [mean] * num_channels, "std": [max(0.0, square - mean**2) ** 0.5] * num_channels}
