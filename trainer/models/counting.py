"""Sizes of networks as the paper counts them, and their cost."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from trainer.models.encoder import Encoder


def keras_count(module: nn.Module) -> int:
    """Return the parameters as Keras totals them: weights and batch norm's running means and variances.

    The paper's Table 1 quotes such totals. ``num_batches_tracked`` is torch's own and not counted.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    running = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
    return sum(parameter.numel() for parameter in module.parameters()) + sum(buffer.numel() for buffer in running)


def forward_macs(encoder: Encoder) -> int:
    """Return the multiply-adds of one clip's forward pass, convolutions and dense layers, without decoders.

    A copy without storage is run, so nothing is computed and no statistic moves.
    """
    shadow = copy.deepcopy(encoder).to("meta").eval()
    inputs = {role: torch.empty(1, *spec.shape, device="meta") for role, spec in shadow.inputs.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(inputs)
    return int(counter.get_total_flops()) // 2
