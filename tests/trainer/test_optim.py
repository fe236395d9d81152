"""Learning rates by parameter and by step, and the average of the weights, each against the slow way."""

import math

import pytest
import torch
from torch import nn

from trainer.ema import averaged
from trainer.models.classifier import Classifier
from trainer.models.presets import build_encoder, network_config
from trainer.optim import parameter_groups, rate_factor, set_rates


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Classifier(build_encoder(network_config("slow-fast", "tiny")), num_classes=3)


def test_every_parameter_has_the_rate_of_its_stage_and_decays_if_it_is_a_weight(classifier):
    groups = parameter_groups(classifier, lr=0.1, layer_decay=0.5, weight_decay=0.01)
    told = {name: group for group in groups for name in group["names"]}
    kinds = set()
    for name, parameter in classifier.named_parameters():
        group = told.pop(name)
        assert any(parameter is held for held in group["params"])
        stage = {"encoder.stages.0": 3, "encoder.stages.1": 2, "encoder.stages.2": 1}.get(name[:16], 0)
        assert group["lr"] == group["peak_lr"] == pytest.approx(0.1 * 0.5**stage)
        exempt = name.endswith("bias") or ".norm_" in name
        assert group["weight_decay"] == (0.0 if exempt else 0.01), name
        kinds.add((stage, exempt))
    assert not told
    assert len(kinds) == len(groups) == 8
    assert any("mmtms" in name for name in groups[0]["names"])


def test_without_decays_it_is_adam_bit_for_bit():
    def train(optimizer_of):
        torch.manual_seed(1)
        model = Classifier(build_encoder(network_config("slow-fast", "tiny", modality="audio")), num_classes=2)
        optimizer = optimizer_of(model)
        for _ in range(3):
            optimizer.zero_grad()
            sum(parameter.square().sum() for parameter in model.parameters()).backward()
            optimizer.step()
        return model.state_dict()

    ours = train(lambda model: torch.optim.AdamW(parameter_groups(model, lr=1e-3)))
    adam = train(lambda model: torch.optim.Adam(model.parameters(), lr=1e-3))
    assert all(torch.equal(ours[name], adam[name]) for name in adam)


def test_the_rate_climbs_falls_along_half_a_cosine_and_else_stands():
    assert [rate_factor(step, num_steps=5) for step in range(5)] == [1.0] * 5
    rates = [rate_factor(step, num_steps=20, warmup=0.2, cosine=True) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([(1 + math.cos(math.pi * i / 16)) / 2 for i in range(16)])
    assert rate_factor(7, num_steps=20, warmup=0.2) == 1.0
    assert rate_factor(0, num_steps=1, warmup=0.9, cosine=True) == 1.0


def test_rates_are_set_as_shares_of_each_groups_own(classifier):
    optimizer = torch.optim.AdamW(parameter_groups(classifier, lr=0.1, layer_decay=0.5))
    for factor in (0.5, 1.0):
        set_rates(optimizer, factor)
        assert sorted({group["lr"] for group in optimizer.param_groups}) == [
            pytest.approx(factor * rate) for rate in (0.0125, 0.025, 0.05, 0.1)
        ]


def test_the_average_is_that_by_hand_and_its_buffers_are_the_models():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    ema = averaged(model, decay=0.4)
    values = [torch.randn(1, 2) for _ in range(12)]
    expected = values[0]
    for n, value in enumerate(values):
        with torch.no_grad():
            model[0].weight.copy_(value)
            model[1].running_mean.fill_(float(n))
        ema.update_parameters(model)
        if n:
            keep = min(0.4, n / (n + 9))
            expected = keep * expected + (1 - keep) * value
        torch.testing.assert_close(ema.module[0].weight.detach(), expected)
        assert ema.module[1].running_mean.item() == n
    assert ema.module[0].weight is not model[0].weight
