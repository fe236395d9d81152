"""Batch norm's statistics are those of the batches they are computed anew from."""

import torch
from torch import nn

from trainer.batchnorm import reestimate_batchnorm


class Named(nn.Module):
    """Takes inputs by name, as our networks do."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs):
        return self.layers(inputs["x"])


def test_reestimated_statistics_are_the_mean_and_variance_over_all_batches():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=0.01)
    model = Named(norm).eval()
    batches = [torch.randn(size, 3, 4, 5) * torch.tensor([1, 5, 0.1]).view(3, 1, 1) + size for size in (4, 4, 1)]
    reestimate_batchnorm(model, ({"x": x} for x in batches))
    everything = torch.cat(batches).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(norm.running_mean.double(), everything.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), everything.var(1), rtol=1e-5, atol=1e-5)
    assert norm.momentum == 0.01
    assert not model.training


def test_reestimation_normalises_each_batch_by_its_own_statistics_on_the_way():
    torch.manual_seed(0)
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    batches = [torch.randn(8, 2) + shift for shift in (0, 100)]
    reestimate_batchnorm(Named(first, second), [{"x": x} for x in batches])
    torch.testing.assert_close(second.running_mean, torch.zeros(2), rtol=0, atol=1e-5)
    assert (second.running_var < 1.1).all()
    assert (first.running_var > 1000).all()


def test_reestimation_leaves_weights_and_gradients_alone_and_nothing_changes_without_a_batch():
    model = Named(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not reestimate_batchnorm(model, [])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert reestimate_batchnorm(model, [{"x": torch.randn(4, 2)}])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())
    assert not model.layers[1]._forward_pre_hooks
