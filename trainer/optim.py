"""What the optimiser is told of each parameter: its learning rate by depth and time, and whether it decays."""

import math
from typing import Any

import torch

from trainer.models.classifier import Classifier


def parameter_groups(
    classifier: Classifier, *, lr: float, layer_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Group a classifier's parameters for ``torch.optim.AdamW``, which without weight decay is Adam.

    Parameters
    ----------
    lr
        Of the head.
    layer_decay
        What a stage's rate is of that of the stage above it (Clark et al., "ELECTRA", 2020; Bao et al., "BEiT", 2022).
        The last stage's is ``layer_decay`` times the head's; a stage's MMTMs go with its blocks.
    weight_decay
        Of weights; biases and the scales and shifts of batch norm have none.

    Returns
    -------
    list of dict
        ``params``, ``names``, ``weight_decay``, ``lr`` and ``peak_lr``, which ``set_rates`` multiplies.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    depth = len(classifier.encoder.stages)
    for name, parameter in classifier.named_parameters():
        part, *rest = name.split(".")
        below_head = depth - int(rest[1]) if part == "encoder" else 0  # encoder.stages.<i>...
        rate = lr * layer_decay**below_head
        decay = weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault(
            (rate, decay), {"params": [], "names": [], "lr": rate, "peak_lr": rate, "weight_decay": decay}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def rate_factor(step: int, *, num_steps: int, warmup: float = 0.0, cosine: bool = False) -> float:
    """Return what the learning rate of a step is of its peak.

    Parameters
    ----------
    step, num_steps
        Steps taken before this one, and steps in all.
    warmup
        Share of the steps over which the rate climbs linearly to its peak.
    cosine
        Fall along half a cosine afterwards, to nothing after the last step (Loshchilov & Hutter, "SGDR", 2017).
    """
    num_warmup = round(warmup * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if not cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to a share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
