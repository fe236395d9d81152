"""One optimiser step: gradients of all its batches, checked, clipped, applied."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.loader import Portion
from trainer.ranks import ALONE, Ranks
from trainer.readers import Batch
from trainer.record import to_floats

MAX_KEYS_SHOWN = 8
MIN_SCALE = 1.0  # float16's scale begins at 65,536 and halves; what is not finite below this is no fault of the scale

LossOf = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]
"""From a batch to its loss and to other numbers worth logging: each a mean over the batch's samples."""


def optimise(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    portion: Portion,
    loss_of: LossOf,
    *,
    clip_norm: float | None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Take one step along the gradient of the mean loss over all samples of all ranks' portions.

    A short batch counts for as much as it has samples.

    Parameters
    ----------
    model, optimizer
        As ``fabric.setup`` returned them; ``loss_of`` calls the model.
    clip_norm
        Greatest length of the gradient; None leaves it as it is.

    Returns
    -------
    dict
        ``loss``, what else ``loss_of`` measured, and ``grad_norm``, the length of the whole gradient before clipping.
        With float16 also ``skipped``, 1 where its range was left: then the step is not taken, and gradients are scaled
        less from now on (Micikevicius et al. 2018, "Mixed precision training").

    Raises
    ------
    UserError
        If the loss or the gradient is not finite; weights and optimiser are as they were.

    Notes
    -----
    A portion without a sample is ``skipped`` too: nothing is done, and its loss is not a number.
    """
    if not portion.batches:
        return {"loss": math.nan, "grad_norm": 0.0, "skipped": 1.0}
    optimizer.zero_grad()
    measures: list[dict[str, Tensor]] = []
    for i, (batch, weight) in enumerate(zip(portion.batches, portion.weights, strict=True)):
        with fabric.no_backward_sync(model, enabled=i < len(portion.batches) - 1):  # type: ignore[arg-type]
            loss, measured = loss_of(batch | {"place": i})
            fabric.backward(loss * weight)
        measures.append({name: value.detach().float() for name, value in {"loss": loss, **measured}.items()})
    # An infinite limit clips nothing: it measures alone.
    grad_norm = fabric.clip_gradients(
        model, optimizer, max_norm=math.inf if clip_norm is None else clip_norm, error_if_nonfinite=False
    )
    assert grad_norm is not None
    weighted = list(zip(measures, portion.weights, strict=True))
    means = {name: torch.stack([each[name] * weight for each, weight in weighted]).sum() for name in measures[0]}
    values = ranks.mean(to_floats(means | {"grad_norm": grad_norm}))
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None:
        values["skipped"] = float(not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])))
    if scaler is None or scaler.get_scale() < MIN_SCALE:
        check_finite(values["loss"], values["grad_norm"], lambda: _suspects(portion, measures, ranks))
    optimizer.step()  # a scaler takes it only if the gradient is finite
    return values


@torch.no_grad()
def measure(model: nn.Module, portions: Iterable[Portion], loss_of: LossOf, ranks: Ranks = ALONE) -> dict[str, float]:
    """Return the mean loss over all samples of all ranks' portions, and what else ``loss_of`` measures, in evaluation.

    Without a sample there is nothing to return.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, float] = {}
    count = 0
    for portion in portions:
        for batch, weight in zip(portion.batches, portion.weights, strict=True):
            loss, measured = loss_of(batch)
            if weight:  # one that fills up counts nothing
                count += len(batch["keys"])
                for name, value in to_floats({"loss": loss, **measured}).items():
                    sums[name] = sums.get(name, 0.0) + value * len(batch["keys"])
    model.train(was_training)
    told = ranks.gather((count, sums))
    total = sum(count for count, _ in told)
    names = dict.fromkeys(name for _, sums in told for name in sums) if total else {}
    return {name: sum(sums.get(name, 0.0) for _, sums in told) / total for name in names}


def check_finite(loss: float, grad_norm: float, keys: Callable[[], Sequence[str]]) -> None:
    """Stop before the optimiser takes a step that would ruin every weight; ``keys`` names the samples."""
    for name, value in (("loss", loss), ("gradient's norm", grad_norm)):
        if not math.isfinite(value):
            found = keys()
            shown = ", ".join(found[:MAX_KEYS_SHOWN]) + (", ..." if len(found) > MAX_KEYS_SHOWN else "")
            raise UserError(
                f"the {name} is {value} on the batch {shown}; look at these samples, or lower --lr; "
                "the last checkpoint is untouched"
            )


def _suspects(portion: Portion, measures: Sequence[Mapping[str, Tensor]], ranks: Ranks) -> list[str]:
    """Return the keys of all ranks' batches whose loss is not finite; where each is, of all batches."""
    batches = list(zip(portion.batches, measures, strict=True))
    bad = [key for batch, measured in batches if not measured["loss"].isfinite() for key in batch["keys"]]
    told = ranks.gather((bad, [key for batch, _ in batches for key in batch["keys"]]))
    return [key for keys, _ in told for key in keys] or [key for _, keys in told for key in keys]
