"""Flags that change how a network computes change neither its numbers nor its tensors' names."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer import finetune, pretrain
from trainer.batchnorm import freeze_batchnorm, reestimate_batchnorm
from trainer.checkpoint import latest
from trainer.models.autoencoder import Autoencoder
from trainer.models.presets import build_encoder, network_config
from trainer.objectives import reconstruction
from trainer.prepare import channels_last, recompute_activations

ROOT = Path(__file__).parents[2]


def autoencoder(network):
    torch.manual_seed(0)
    model = Autoencoder(build_encoder(network_config(network, "tiny", pool=16)))
    inputs = {role: torch.randn(2, *spec.shape) for role, spec in model.encoder.inputs.items()}
    return model, inputs


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_a_compiled_network_is_one_graph(network):
    model, inputs = autoencoder(network)
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # raises where it would be cut in two
    for role, outputs in compiled(inputs).items():
        assert outputs[-1].shape[0] == 2, role


def step(model, inputs):
    """Gradients and state after one pass, and the bytes kept for going back."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = reconstruction(model(inputs), model.targets(inputs), aux_weight=1.0)
        num_kept = sum(kept.values())
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    return loss.detach(), gradients, model.state_dict(), num_kept


@pytest.mark.parametrize("network", ["slow-fast", "music-video"])
def test_recomputed_activations_give_the_same_numbers_for_less_memory(network):
    model, inputs = autoencoder(network)
    other = copy.deepcopy(model)
    recompute_activations(other)
    loss, gradients, state, kept = step(model, inputs)
    loss_again, gradients_again, state_again, kept_again = step(other, inputs)
    assert torch.equal(loss, loss_again)
    assert gradients.keys() == gradients_again.keys()
    assert all(torch.equal(value, gradients_again[name]) for name, value in gradients.items())
    assert state.keys() == state_again.keys()
    assert all(torch.equal(value, state_again[name]) for name, value in state.items())
    assert kept_again < 0.6 * kept


def test_channels_innermost_give_the_same_numbers_to_a_rounding():
    model, inputs = autoencoder("slow-fast")
    other = copy.deepcopy(model)
    channels_last(other)
    assert any(value.stride(1) == 1 < value.shape[1] for value in other.parameters() if value.dim() == 5)
    for role, outputs in model.eval()(inputs).items():
        torch.testing.assert_close(other.eval()(inputs)[role], outputs, rtol=1e-3, atol=1e-4)
    assert list(other.state_dict()) == list(model.state_dict())


def test_frozen_batch_norm_normalises_by_what_it_has_whatever_the_mode():
    model, inputs = autoencoder("slow-fast")
    reestimate_batchnorm(model, [inputs])
    expected = model.eval()(inputs)
    freeze_batchnorm(model)
    state = copy.deepcopy(model.state_dict())
    for role, outputs in model.train()(inputs).items():
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected[role], strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("entry", [pretrain, finetune])
def test_batch_norm_is_not_frozen_where_it_has_no_statistics_and_nothing_is_begun(refused, sets, tmp_path, entry):
    flags = ["--shards", sets / "mved", "--preset", "tiny", "--out", tmp_path / "run", "--freeze-batchnorm"]
    line = refused(entry.main, *flags, "--init", "scratch")
    assert "--freeze-batchnorm keeps statistics" in line
    assert "give --init RUN, or leave it out" in line
    assert "no pretrained run in" in refused(entry.main, *flags, "--init", "auto", "--runs", tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_run_has_the_curve_and_the_names_of_a_plain_one(sets, tmp_path):
    flags = ["--shards", str(sets / "unlabeled"), "--preset", "tiny", "--modality", "audio", "--device", "cpu"]
    flags += ["--batch-size", "5", "--max-steps", "3", "--bn-batches", "2"]
    curves, tensors = [], []
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        command = [sys.executable, "-m", "trainer.pretrain", *flags, "--out", str(tmp_path / name), *more]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # torch's compiler warns of itself
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        curves.append([json.loads(line)["loss"] for line in lines])
        tensors.append(load_file(latest(tmp_path / name) / "model.safetensors"))
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert list(tensors[0]) == list(tensors[1])
    for name, value in tensors[0].items():
        torch.testing.assert_close(tensors[1][name], value, rtol=0.05, atol=2e-3, msg=name)


def test_compiling_and_recomputing_are_refused_together(refused):
    line = refused(pretrain.main, "--shards", "x", "--compile", "--checkpoint-activations")
    assert "--compile and --checkpoint-activations do not go together" in line
