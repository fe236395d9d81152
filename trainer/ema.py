"""A running average of the weights: what is validated and kept as best, while training goes on with the weights."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(model: nn.Module, *, decay: float) -> AveragedModel:
    """Return an exponential moving average of a model's parameters; its buffers are the model's.

    The n-th update keeps min(decay, n / (n + 9)) of the average, so that a short run's average does not hang on its
    start; thus in TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.

    Parameters
    ----------
    decay
        Share of the average that an update keeps, below 1.
    """

    def update(averages: Tensors, values: Tensors, num_updates: Tensor | int) -> None:
        n = int(num_updates)
        get_ema_multi_avg_fn(min(decay, n / (n + 9)))(averages, values, n)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=update)
