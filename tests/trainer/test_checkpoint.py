"""Checkpoints are whole or absent."""

import os
import pickle

import pytest
import torch
from torch import nn

from trainer import checkpoint
from trainer.errors import UserError

STATE = {"epoch": 1, "batch": 2, "best": None, "batchnorm_reestimated": True}


def test_a_checkpoint_brings_back_weights_optimiser_and_random_state(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    path = checkpoint.save(tmp_path, model, step=7, state=STATE, resumable={"optimizer": optimizer})
    expected = torch.randn(3)

    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    other_optimizer = torch.optim.Adam(other.parameters())
    assert checkpoint.load_weights(path, other) == (7, 17)
    checkpoint.load_states(path, {"optimizer": other_optimizer})
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))
    assert str(other_optimizer.state_dict()) == str(optimizer.state_dict())
    state = checkpoint.read_state(path)
    assert (state["step"], state["epoch"], state["batch"]) == (7, 1, 2)


def test_a_checkpoints_files_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        model = nn.Linear(2, 2)
        optimizer = torch.optim.Adam(model.parameters())
        path = checkpoint.save(tmp_path, model, step=1, state=STATE, resumable={"optimizer": optimizer})
    finally:
        os.umask(before)
    assert {each.name: each.stat().st_mode & 0o777 for each in path.iterdir()} == dict.fromkeys(
        ["model.safetensors", "optimizer.pt", "state.json"], 0o640
    )


def test_the_previous_checkpoint_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    checkpoint.save(tmp_path, model, step=1, state=STATE)
    checkpoint.save(tmp_path, model, step=2, state=STATE, series="best")
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "write_text", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoint.save(tmp_path, model, step=3, state=STATE)
    assert checkpoint.latest(tmp_path).name == "step-00000001"
    checkpoint.save(tmp_path, model, step=3, state=STATE)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best-00000002", "step-00000003"]


def test_the_best_of_a_branch_that_was_given_up_goes_whatever_its_step(tmp_path):
    for step in (300, 280):
        model = nn.Linear(2, 2)
        path = checkpoint.save(tmp_path, model, step=step, state=STATE, series="best")
    assert checkpoint.latest(tmp_path, "best") == path
    assert [each.name for each in path.parent.iterdir()] == ["best-00000280"]
    again = nn.Linear(2, 2)
    checkpoint.save(tmp_path, again, step=280, state=STATE | {"validation": 1}, series="best")
    assert [each.name for each in path.parent.iterdir()] == ["best-00000280"]
    checkpoint.load_weights(path, model)
    assert torch.equal(model.weight, again.weight)
    assert checkpoint.read_state(path)["validation"] == 1


def test_an_encoder_is_taken_out_of_a_larger_network_name_by_name(tmp_path):
    whole = nn.ModuleDict({"encoder": nn.Linear(2, 3), "decoders": nn.Linear(3, 2)})
    path = checkpoint.save(tmp_path, whole, step=1, state=STATE)
    encoder = nn.Linear(2, 3)
    assert checkpoint.load_weights(path, encoder, prefix="encoder.") == (2, 9)
    assert torch.equal(encoder.weight, whole["encoder"].weight)
    for wrong in (nn.Linear(2, 4), nn.Sequential(nn.Linear(2, 3)), nn.Linear(2, 3, bias=False)):
        with pytest.raises(UserError, match="does not fit the network"):
            checkpoint.load_weights(path, wrong, prefix="encoder.")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_pickle_in_place_of_the_optimiser_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    path = checkpoint.save(tmp_path, model, step=1, state=STATE, resumable={"optimizer": optimizer})
    torch.save({"optimizer": Bomb()}, path / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer\.pt cannot be read"):
        checkpoint.load_states(path, {"optimizer": optimizer})
    (path / "optimizer.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"optimizer\.pt cannot be read"):
        checkpoint.load_states(path, {"optimizer": optimizer})


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = checkpoint.save(tmp_path, nn.Linear(2, 2), step=1, state=STATE)
    for name in ("model.safetensors", "state.json"):
        (path / name).write_bytes(b"{")
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        checkpoint.load_weights(path, nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"state\.json cannot be read"):
        checkpoint.read_state(path)
