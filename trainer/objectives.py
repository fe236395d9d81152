"""Losses: reconstruction and classification, the paper's; ``trainer.contrast`` has that between sound and picture."""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import UserError

OutputsByRole = Mapping[str, Sequence[Tensor]]
"""A pathway's outputs, or their targets, by role: coarsest auxiliary first, the full size last."""


def read_weights(words: Sequence[str]) -> dict[str, float]:
    """Read ``--output-weights``: ``role=weight``, as often as wanted.

    Raises
    ------
    ValueError
        If one is not of that form.
    """
    weights = {}
    for word in words:
        role, _, number = word.partition("=")
        try:
            weights[role] = float(number)
        except ValueError:
            weights[role] = math.nan
        if not 0 <= weights[role] < math.inf:
            raise ValueError(f"--output-weights {word}: give role=weight with a weight of 0 or more, as video_slow=0.5")
    return weights


def require_roles(weights: Collection[str], roles: Collection[str]) -> None:
    """Refuse weights of outputs that a network does not have."""
    if unknown := sorted(set(weights) - set(roles)):
        raise UserError(f"--output-weights {unknown[0]}: the network has no such pathway; it has {', '.join(roles)}")


def reconstruction(
    outputs: OutputsByRole,
    targets: OutputsByRole,
    *,
    aux_weight: float,
    output_weights: Mapping[str, float] | None = None,
    shares: OutputsByRole | None = None,
) -> Tensor:
    """Sum over all outputs of their mean squared errors.

    Deviation: the paper does not weigh audio against video nor auxiliary outputs against the main ones; a plain sum of
    per-output means is the reading that its framework's defaults suggest.

    Parameters
    ----------
    aux_weight
        What an auxiliary output's error counts beside the main one's.
    output_weights
        What all outputs of a role count; 1 where nothing is said.
    shares
        What each position counts in the mean, (B, 1, N): of masked pretraining, how much of it was hidden.
    """
    loss = torch.zeros((), device=next(iter(outputs.values()))[-1].device)
    for role, by_level in outputs.items():
        role_weight = (output_weights or {}).get(role, 1.0)
        for level, (output, target) in enumerate(zip(by_level, targets[role], strict=True)):
            weight = role_weight * (1.0 if level == len(by_level) - 1 else aux_weight)
            if shares is None:
                error = F.mse_loss(output.float(), target)
            else:
                error = _channel_means((output.float() - target).square(), shares[role][level]).mean()
            loss = loss + weight * error
    return loss


@torch.no_grad()
def channel_errors(
    outputs: OutputsByRole,
    targets: OutputsByRole,
    channel_names: Mapping[str, Sequence[str]],
    shares: OutputsByRole | None = None,
) -> dict[str, Tensor]:
    """Mean squared error of the full-size outputs a channel, beside that of predicting the training mean.

    Inputs are standardised, so the training mean is 0 and its error about 1; a channel is learned as far as its error
    is below that. (The network that averages its input first, `pool` > 1, has a smaller one.)

    Parameters
    ----------
    shares
        As in ``reconstruction``; both errors are then of what was hidden.

    Returns
    -------
    dict
        ``mse/<role>``, ``mse/<role>/<channel>`` and ``mean/<role>/<channel>``.
    """
    errors: dict[str, Tensor] = {}
    for role, by_level in outputs.items():
        output, target = by_level[-1].float(), targets[role][-1]
        share = torch.ones_like(target[:, :1]) if shares is None else shares[role][-1]
        mse_C = _channel_means((output - target).square(), share)
        baseline_C = _channel_means(target.square(), share)
        errors[f"mse/{role}"] = mse_C.mean()
        for i, name in enumerate(channel_names[role]):
            errors[f"mse/{role}/{name}"] = mse_C[i]
            errors[f"mean/{role}/{name}"] = baseline_C[i]
    return errors


def _channel_means(values_BCN: Tensor, share_B1N: Tensor) -> Tensor:
    """Weighted mean of each channel, (C,); 0 where nothing has a weight."""
    total = share_B1N.sum().clamp_min(torch.finfo(share_B1N.dtype).tiny)
    return (values_BCN * share_B1N).movedim(1, 0).flatten(1).sum(1) / total


def classification(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Categorical cross-entropy, the paper's.

    Parameters
    ----------
    targets
        Class indices (B,), or probabilities (B, classes).
    label_smoothing
        Share of a target's probability that is spread evenly over all classes (Szegedy et al. 2016).
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
