"""Helpers the model tests share."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.encoder import Encoder


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Every test starts from one seed and leaves the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_inputs() -> Callable[..., dict[str, Tensor]]:
    """Return a maker of smooth standardised inputs: noise of four positions an axis, stretched over the clip."""

    def make(encoder: Encoder, batch_size: int = 2) -> dict[str, Tensor]:
        inputs = {}
        for role, spec in encoder.inputs.items():
            coarse = torch.randn(batch_size, spec.shape[0], *(4 for _ in spec.shape[1:]))
            mode = "trilinear" if len(spec.shape) == 4 else "bilinear"
            inputs[role] = F.interpolate(coarse, spec.shape[1:], mode=mode)
        return inputs

    return make
