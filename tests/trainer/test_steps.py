"""One step: the gradient of the mean over all its samples, checked before it is taken."""

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import nn

from trainer.devices import start_fabric
from trainer.errors import UserError
from trainer.loader import Place, Portion
from trainer.steps import check_finite, optimise


def portion(*batches):
    """Batches of numbers as one step's."""
    batches = [{"keys": [str(x) for x in batch], "x": torch.tensor(batch)[:, None]} for batch in batches]
    sizes = [len(batch["keys"]) for batch in batches]
    return Portion(0, Place(0, 1), batches, [size / sum(sizes) for size in sizes])


@pytest.fixture
def fabric():
    return start_fabric("auto", seed=0, device="cpu")


def one_step(fabric, step, *, clip_norm=None, lr=1.0, spoil=None):
    """Take one plain step on a linear model with a squared loss; its weights after it, and what was measured."""
    model, optimizer = fabric.setup(net := nn.Linear(1, 1), torch.optim.SGD(net.parameters(), lr=lr))
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias.fill_(0.0)

    def loss_of(batch):
        squares = model(batch["x"]).square()
        return squares.mean() * (spoil or 1.0), {"seen": batch["x"].mean()}

    values = optimise(fabric, model, optimizer, step, loss_of, clip_norm=clip_norm)
    return torch.cat([net.weight.flatten(), net.bias]).detach(), values


def test_several_batches_give_the_step_of_one_that_holds_their_samples(fabric):
    whole, said = one_step(fabric, portion([1.0, 2.0, 3.0, 4.0, 5.0]))
    parts, said_of_parts = one_step(fabric, portion([1.0, 2.0], [3.0, 4.0], [5.0]))
    torch.testing.assert_close(parts, whole)
    assert said_of_parts == pytest.approx(said)
    assert said["loss"] == pytest.approx(4 * 55 / 5)
    assert said["seen"] == 3


def test_a_gradient_that_is_too_long_is_shortened_and_its_length_told(fabric):
    free, said = one_step(fabric, portion([1.0]))
    assert (free - torch.tensor([2.0, 0.0])).norm().item() == pytest.approx(said["grad_norm"])
    short, said_of_short = one_step(fabric, portion([1.0]), clip_norm=0.5)
    assert said_of_short["grad_norm"] == said["grad_norm"]
    assert (short - torch.tensor([2.0, 0.0])).norm().item() == pytest.approx(0.5, rel=1e-4)
    loose, _ = one_step(fabric, portion([1.0]), clip_norm=1e6)
    assert torch.equal(loose, free)


def test_with_float16s_scale_a_step_out_of_range_is_skipped_until_the_scale_is_no_excuse():
    scaler = torch.amp.GradScaler("cpu")
    plugin = MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    start = torch.tensor([2.0, 0.0])
    weights, said = one_step(fabric, portion([1.0]), spoil=float("inf"))
    assert torch.equal(weights, start)
    assert said["skipped"] == 1
    assert scaler.get_scale() == 2**15
    skipped = [one_step(fabric, portion([1.0]))[1]["skipped"] for _ in range(3)]
    assert skipped == [1, 1, 0]  # 4 scaled by 2**13 is the first that float16 can hold
    while scaler.get_scale() >= 1:
        one_step(fabric, portion([1.0]), spoil=float("inf"))
    with pytest.raises(UserError, match=r"the loss is inf on the batch 1\.0;"):
        one_step(fabric, portion([1.0]), spoil=float("inf"))


def test_a_loss_or_a_gradient_that_is_not_finite_names_the_samples(fabric):
    check_finite(1.0, 2.0, list)
    with pytest.raises(UserError, match=r"the loss is nan on the batch a, b"):
        check_finite(float("nan"), 1.0, lambda: ["a", "b"])
    with pytest.raises(UserError, match=r"the gradient's norm is inf on the batch a, b"):
        check_finite(1.0, float("inf"), lambda: ["a", "b"])
    with pytest.raises(UserError, match=r"the loss is inf on the batch 1\.0, 2\.0, 3\.0;"):
        one_step(fabric, portion([1.0, 2.0], [3.0]), spoil=float("inf"))
