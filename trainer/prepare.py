"""What flags change about a network before it is trained: how it computes, never what its tensors are called."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from trainer.batchnorm import freeze_batchnorm
from trainer.flags import TrainingFlags
from trainer.models.blocks import DenseResidualBlock
from trainer.models.decoders import Decoder


def prepare(fabric: Fabric, module: nn.Module, cfg: TrainingFlags) -> nn.Module:
    """Return what ``fabric.setup`` is to get; ``module`` shares its tensors and their names.

    With several CUDA devices batch norm takes its statistics over the batches of all of them.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda" and not cfg.freeze_batchnorm:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    if cfg.freeze_batchnorm:
        freeze_batchnorm(module)
    if cfg.channels_last:
        channels_last(module)
    if cfg.checkpoint_activations:
        recompute_activations(module)
    return torch.compile(module) if cfg.compile else module  # type: ignore[return-value]


def channels_last(module: nn.Module) -> None:
    """Lay out the weights of convolutions with channels innermost, and so their outputs."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.to(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)


def recompute_activations(module: nn.Module) -> None:
    """Have blocks and decoders keep their inputs alone, and compute the rest again in the backward pass.

    Same numbers, batch norm's running averages included (Chen et al. 2016, "Training deep nets with sublinear memory
    cost"): less memory for about one more forward pass.
    """
    for part in module.modules():
        if isinstance(part, DenseResidualBlock | Decoder):
            part.forward = functools.partial(_recomputed, part, part.forward)  # type: ignore[method-assign]


def _recomputed(part: nn.Module, forward: Any, *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is drawn in a block
        context_fn=lambda: (contextlib.nullcontext(), _running_averages_kept(part)),
    )


@contextlib.contextmanager
def _running_averages_kept(part: nn.Module) -> Iterator[None]:
    """Let batch norm normalise as in training without counting the batch a second time."""
    norms = [norm for norm in part.modules() if isinstance(norm, _BatchNorm) and norm.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = (
                norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None
            )
        yield
    finally:
        for norm, momentum, num_batches in kept:
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
