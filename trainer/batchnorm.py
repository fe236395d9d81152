"""Batch norm's statistics, computed anew from training batches."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> None:
    """Replace batch norm's running statistics by those of the whole of some training batches.

    With Keras' momentum of 0.01 the running average still remembers its start after hundreds of steps, and weights
    have moved on meanwhile. Mean and variance are pooled over all positions of all batches, as if they were one, while
    each batch is normalised by its own, as in training. Without a batch nothing changes.

    Parameters
    ----------
    batches
        The model's inputs.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    pooled = {norm: _Moments() for norm in norms}
    kept = [(norm, norm.momentum) for norm in norms]
    hooks = [norm.register_forward_pre_hook(lambda norm, args: pooled[norm].add(args[0])) for norm in norms]
    was_training = model.training
    model.train()
    try:
        for norm in norms:
            norm.momentum = 0.0  # leave the running statistics as they are meanwhile
        for inputs in batches:
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in kept:
            norm.momentum = momentum
        model.train(was_training)
    for norm, moments in pooled.items():
        if moments.count and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(moments.mean)
            norm.running_var.copy_(moments.squares / max(1, moments.count - 1))


class _Moments:
    """Mean and sum of squared deviations a channel, pooled batch by batch (Chan et al. 1983) in float64."""

    count = 0
    mean: Tensor
    squares: Tensor

    def add(self, maps_BCN: Tensor) -> None:
        values_CN = maps_BCN.detach().float().movedim(1, 0).flatten(1)
        count = values_CN.shape[1]
        variance, mean = (x.double() for x in torch.var_mean(values_CN, dim=1, correction=0))
        if not self.count:
            self.count, self.mean, self.squares = count, mean, variance * count
            return
        total = self.count + count
        shift = mean - self.mean
        self.squares = self.squares + variance * count + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
