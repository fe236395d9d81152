"""Losses. Reconstruction, the paper's: mean squared error of every pathway's outputs, summed."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

OutputsByRole = Mapping[str, Sequence[Tensor]]
"""A pathway's outputs, or their targets, by role: coarsest auxiliary first, the full size last."""


def reconstruction(outputs: OutputsByRole, targets: OutputsByRole, *, aux_weight: float) -> Tensor:
    """Sum over all outputs of their mean squared errors.

    Deviation: the paper does not weigh audio against video nor auxiliary outputs against the main ones; a plain sum of
    per-output means is the reading that its framework's defaults suggest.

    Parameters
    ----------
    aux_weight
        What an auxiliary output's error counts beside the main one's.
    """
    loss = torch.zeros((), device=next(iter(outputs.values()))[-1].device)
    for role, by_level in outputs.items():
        for level, (output, target) in enumerate(zip(by_level, targets[role], strict=True)):
            weight = 1.0 if level == len(by_level) - 1 else aux_weight
            loss = loss + weight * F.mse_loss(output.float(), target)
    return loss


@torch.no_grad()
def channel_errors(
    outputs: OutputsByRole, targets: OutputsByRole, channel_names: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Mean squared error of the full-size outputs a channel, beside that of predicting the training mean.

    Inputs are standardised, so the training mean is 0 and its error about 1; a channel is learned as far as its error
    is below that. (The network that averages its input first, `pool` > 1, has a smaller one.)

    Returns
    -------
    dict
        ``mse/<role>``, ``mse/<role>/<channel>`` and ``mean/<role>/<channel>``.
    """
    errors: dict[str, Tensor] = {}
    for role, by_level in outputs.items():
        output_BCN, target_BCN = by_level[-1].float().flatten(2), targets[role][-1].flatten(2)
        mse_C = (output_BCN - target_BCN).square().mean((0, 2))
        baseline_C = target_BCN.square().mean((0, 2))
        errors[f"mse/{role}"] = mse_C.mean()
        for i, name in enumerate(channel_names[role]):
            errors[f"mse/{role}/{name}"] = mse_C[i]
            errors[f"mean/{role}/{name}"] = baseline_C[i]
    return errors


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Categorical cross-entropy, the paper's."""
    return F.cross_entropy(logits.float(), labels)
