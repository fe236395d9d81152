"""Losses by hand, and that one batch can be learned."""

import math

import pytest
import torch

from trainer.errors import UserError
from trainer.inputs import Inputs
from trainer.loader import Loader
from trainer.models.autoencoder import Autoencoder
from trainer.models.classifier import Classifier
from trainer.models.presets import build_encoder, network_config
from trainer.objectives import channel_errors, classification, read_weights, reconstruction, require_roles
from trainer.order import Order
from trainer.shards import ShardSet


@pytest.fixture(scope="module")
def data(sets):
    return ShardSet.open(str(sets / "mved"))


def one_batch(data, encoder, size=6):
    to_inputs = Inputs(encoder.inputs, data.manifest.normalization, torch.device("cpu"))
    order = Order(batch_size=size, shuffle=False)
    batch = next(iter(Loader(data, data.split("train"), members=to_inputs.members, order=order).batches()))
    return to_inputs(batch), batch["label"]


def test_reconstruction_sums_the_means_of_all_outputs_and_weighs_auxiliary_ones():
    targets = {"a": [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)], "b": [torch.zeros(1, 2, 3)]}
    outputs = {"a": [torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 4, 4), 3.0)], "b": [torch.ones(1, 2, 3)]}
    assert reconstruction(outputs, targets, aux_weight=1.0).item() == 4 + 9 + 1
    assert reconstruction(outputs, targets, aux_weight=0.5).item() == 2 + 9 + 1
    assert reconstruction(outputs, targets, aux_weight=0.0).item() == 9 + 1


def test_outputs_of_a_pathway_count_as_much_as_is_asked():
    targets = {"a": [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)], "b": [torch.zeros(1, 2, 3)]}
    outputs = {"a": [torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 4, 4), 3.0)], "b": [torch.ones(1, 2, 3)]}
    weights = read_weights(["a=0.5", "b=3"])
    assert reconstruction(outputs, targets, aux_weight=0.5, output_weights=weights).item() == 0.5 * (2 + 9) + 3
    assert reconstruction(outputs, targets, aux_weight=1.0, output_weights={"b": 0.0}).item() == 4 + 9
    for word in ("a", "a=", "a=x", "a=-1", "a=inf", "a=nan"):
        with pytest.raises(ValueError, match=f"--output-weights {word}: give role=weight"):
            read_weights([word])
    with pytest.raises(UserError, match="--output-weights c: the network has no such pathway; it has a, b"):
        require_roles(["a", "c"], ["a", "b"])


def test_hidden_shares_weigh_the_error_of_every_position():
    target, output = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 3.0], [2.0, 5.0]]])
    share = torch.tensor([[[0.25, 0.75]]])
    loss = reconstruction({"a": [output]}, {"a": [target]}, aux_weight=1.0, shares={"a": [share]})
    assert loss.item() == (0.25 * 1 + 0.75 * 9 + 0.25 * 4 + 0.75 * 25) / 2
    errors = channel_errors({"a": [output]}, {"a": [target + 1]}, {"a": ("x", "y")}, {"a": [share]})
    assert errors["mse/a/x"].item() == 0.75 * 4
    assert errors["mean/a/x"].item() == 1
    nothing = {"a": [torch.zeros(1, 1, 2)]}
    assert reconstruction({"a": [output]}, {"a": [target]}, aux_weight=1.0, shares=nothing).item() == 0


def test_channel_errors_stand_beside_those_of_predicting_the_mean():
    target = torch.tensor([1.0, -1.0, 3.0, -3.0]).view(1, 2, 2)
    errors = channel_errors({"a": [torch.zeros(1, 2, 1), target / 2]}, {"a": [target, target]}, {"a": ("x", "y")})
    expected = {"mse/a": 1.25, "mse/a/x": 0.25, "mean/a/x": 1.0, "mse/a/y": 2.25, "mean/a/y": 9.0}
    assert {name: error.item() for name, error in errors.items()} == pytest.approx(expected)


def test_predicting_the_training_mean_costs_one_a_channel_of_the_unpooled_input(data):
    encoder = build_encoder(network_config("slow-fast", "tiny", pool=1))
    inputs, _ = one_batch(data, encoder, size=12)
    for role, x in inputs.items():
        error = channel_errors({role: [torch.zeros_like(x)]}, {role: [x]}, {role: ("0", "1", "2")[: x.shape[1]]})
        assert [round(error[f"mean/{role}/{c}"].item(), 1) for c in range(x.shape[1])] == [1.0] * x.shape[1]


def test_classification_is_cross_entropy():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    loss = classification(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_one_labelled_batch_overfits(data, network):
    torch.manual_seed(0)
    model = Classifier(build_encoder(network_config(network, "tiny")), 3)
    inputs, labels = one_batch(data, model.encoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = classification(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 < losses[0]


def test_one_unlabelled_batch_is_reconstructed_better_than_by_its_mean(data):
    torch.manual_seed(0)
    model = Autoencoder(build_encoder(network_config("slow-fast", "tiny", modality="audio")))
    inputs, _ = one_batch(data, model.encoder, size=3)
    targets = model.targets(inputs)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        outputs = model(inputs)
        loss = reconstruction(outputs, targets, aux_weight=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    errors = channel_errors(outputs, targets, dict.fromkeys(targets, ("log-mel", "phase")))
    for role in targets:
        assert errors[f"mse/{role}/log-mel"] < 0.5 * errors[f"mean/{role}/log-mel"]
