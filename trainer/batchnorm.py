"""Batch norm's statistics and what stands in for an absent modality: computed anew from training batches, or frozen."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.models.classifier import Classifier
from trainer.ranks import ALONE, Ranks

FROZEN = "frozen"  # buffer of a batch norm that stays as it is


def freeze_batchnorm(model: nn.Module) -> None:
    """Have batch norm normalise by its running statistics from now on, in training too, and leave them as they are."""
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.register_buffer(FROZEN, torch.tensor(True), persistent=False)  # a copy of the network keeps it
            norm.register_forward_pre_hook(lambda norm, args: norm.eval() and None)  # whatever model.train() says


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[dict[str, Tensor]], ranks: Ranks = ALONE) -> bool:
    """Replace batch norm's running statistics by those of the whole of some training batches.

    With Keras' momentum of 0.01 the running average still remembers its start after hundreds of steps, and weights
    have moved on meanwhile. Mean and variance are pooled over all positions of all batches of all ranks, as if they
    were one, while each batch is normalised by its own, as in training. Without a batch nothing changes, nor where
    batch norm is frozen.

    Parameters
    ----------
    model
        Plain, not as ``fabric.setup`` or ``torch.compile`` returned it.
    batches
        The model's inputs, this rank's share.

    Returns
    -------
    bool
        Whether any rank had a batch.
    """
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and not hasattr(norm, FROZEN)]
    pooled = {norm: _Moments() for norm in norms}
    kept = [(norm, norm.momentum) for norm in norms]
    hooks = [norm.register_forward_pre_hook(lambda norm, args: pooled[norm].add(args[0])) for norm in norms]
    was_training, had_batch = model.training, False
    model.train()
    try:
        for norm in norms:
            norm.momentum = 0.0  # leave the running statistics as they are meanwhile
        for inputs in batches:
            model(inputs)
            had_batch = True
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in kept:
            norm.momentum = momentum
        model.train(was_training)
    for norm, moments in zip(norms, _over_ranks([pooled[norm] for norm in norms], ranks), strict=True):
        if moments.count and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(moments.mean)
            norm.running_var.copy_(moments.squares / max(1, moments.count - 1))
    return any(ranks.gather(had_batch))


def reestimate(classifier: Classifier, batches: Iterable[dict[str, Tensor]], ranks: Ranks = ALONE) -> bool:
    """Re-estimate a classifier's batch norm, and fill in the mean embedding in the same pass.

    Parameters
    ----------
    classifier
        Plain, as above. Gets as ``mean_embedding`` the mean over all samples of what its head reads, a number a channel
        of each pathway. Batches hold every role, so that nothing in it is a mean itself.

    Returns
    -------
    bool
        Whether any rank had a batch.
    """
    embedded = _Moments()
    hook = classifier.head.register_forward_pre_hook(lambda head, args: embedded.add(args[0]))
    try:
        had_batch = reestimate_batchnorm(classifier, batches, ranks)
    finally:
        hook.remove()
    (everywhere,) = _over_ranks([embedded], ranks)
    if everywhere.count:
        classifier.mean_embedding.copy_(everywhere.mean)
    return had_batch


class _Moments:
    """Mean and sum of squared deviations a channel, pooled batch by batch (Chan et al. 1983) in float64."""

    count = 0
    mean: Tensor
    squares: Tensor

    def add(self, maps_BCN: Tensor) -> None:
        values_CN = maps_BCN.detach().float().movedim(1, 0).flatten(1)
        variance, mean = (x.double() for x in torch.var_mean(values_CN, dim=1, correction=0))
        self.merge(values_CN.shape[1], mean, variance * values_CN.shape[1])

    def merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if not count:
            return
        if not self.count:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        shift = mean - self.mean
        self.squares = self.squares + squares + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def told(self) -> tuple[int, Tensor, Tensor]:
        """Return count, mean and squares, on the CPU."""
        nothing = torch.zeros(0)
        return (self.count, self.mean.cpu(), self.squares.cpu()) if self.count else (0, nothing, nothing)


def _over_ranks(mine: Sequence[_Moments], ranks: Ranks) -> list[_Moments]:
    """Pool each rank's moments, one by one, in the order of ranks."""
    pooled = [_Moments() for _ in mine]
    for told in ranks.gather([moments.told() for moments in mine]):
        for moments, (count, mean, squares) in zip(pooled, told, strict=True):
            moments.merge(count, mean, squares)
    return pooled
