"""Checkpoints are whole or absent, and runs are told apart."""

import json
import pickle

import pytest
import torch
from torch import nn

from trainer import checkpoint
from trainer.checkpoint import RunConfig
from trainer.errors import UserError

STATE = {"epoch": 1, "batch": 2}


def config_of(**changes):
    fields = {
        "kind": "pretrain",
        "network": {"network": "slow-fast", "pool": 8, "blocks": [1, 2]},
        "preset": "tiny",
        "recipe": {"phase": "mel-angle", "modality": "both"},
        "recipe_hash": "h",
        "labels": None,
        "normalization": {},
        "data": "d",
        "train": {"batch_size": 4, "epochs": 1},
        "init": None,
    }
    return RunConfig(**(fields | changes))


def test_a_checkpoint_brings_back_weights_optimiser_and_random_state(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    path = checkpoint.save(tmp_path, model, step=7, state=STATE, optimizer=optimizer)
    expected = torch.randn(3)

    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    other_optimizer = torch.optim.Adam(other.parameters())
    assert checkpoint.load_weights(path, other) == (7, 17)
    checkpoint.load_optimizer(path, other_optimizer)
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))
    assert str(other_optimizer.state_dict()) == str(optimizer.state_dict())
    state = checkpoint.read_state(path)
    assert (state["step"], state["epoch"], state["batch"]) == (7, 1, 2)


def test_the_previous_checkpoint_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    checkpoint.save(tmp_path, model, step=1, state=STATE)
    checkpoint.save(tmp_path, model, step=2, state=STATE, series="best")
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "_write_text", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoint.save(tmp_path, model, step=3, state=STATE)
    assert checkpoint.latest(tmp_path).name == "step-00000001"
    checkpoint.save(tmp_path, model, step=3, state=STATE)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best-00000002", "step-00000003"]


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
    path = checkpoint.save(tmp_path, model, step=1, state=STATE, optimizer=optimizer)
    torch.save({"optimizer": Bomb()}, path / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer\.pt cannot be read"):
        checkpoint.load_optimizer(path, optimizer)
    (path / "optimizer.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"optimizer\.pt cannot be read"):
        checkpoint.load_optimizer(path, optimizer)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = checkpoint.save(tmp_path, nn.Linear(2, 2), step=1, state=STATE)
    for name in ("model.safetensors", "state.json"):
        (path / name).write_bytes(b"{")
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        checkpoint.load_weights(path, nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"state\.json cannot be read"):
        checkpoint.read_state(path)


def test_a_run_folder_tells_what_made_it(tmp_path):
    run = tmp_path / "run"
    checkpoint.begin(run, config_of(), groups=["a", "b", "a"])
    assert checkpoint.read_config(run).network["blocks"] == [1, 2]
    assert checkpoint.read_config(run).versions["torch"] == torch.__version__.split("+")[0]
    assert checkpoint.trained_groups(run) == set(checkpoint.group_hashes(["a", "b"]))
    assert len(checkpoint.trained_groups(run)) == 2
    with pytest.raises(UserError, match="exists already; add --resume"):
        checkpoint.begin(run, config_of(), groups=[])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "finetune"}, "is a pretrain run; a finetune run is needed"),
        ({"network": {"network": "music-video"}}, "holds another network .*its network is slow-fast, here music-video"),
        ({"network": {"network": "slow-fast", "pool": 1, "blocks": [1, 2]}}, "its pool is 8, here 1"),
        ({"recipe": {"phase": "angle-mel"}}, "another recipe: its phase is mel-angle, here angle-mel"),
        ({"train": {"batch_size": 8, "epochs": 1}}, "--batch-size 8, but .* was begun with 4"),
        ({"data": "e"}, "was begun on other samples"),
    ],
)
def test_a_run_is_resumed_only_as_what_it_was(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        checkpoint.require_resumable(tmp_path, config_of(), config_of(**changes))


def test_epochs_may_change_and_the_modality_of_a_set_does_not_matter(tmp_path):
    changed = config_of(train={"batch_size": 4, "epochs": 9}, recipe={"phase": "mel-angle", "modality": "audio"})
    checkpoint.require_resumable(tmp_path, config_of(), changed)
    tuples = config_of(network={"network": "slow-fast", "pool": 8, "blocks": (1, 2)})
    checkpoint.require_resumable(tmp_path, config_of(), tuples)


def test_labels_must_agree(tmp_path):
    with pytest.raises(UserError, match="on the labels a, b; the set has b, a"):
        checkpoint.require_same(tmp_path, config_of(labels=["a", "b"]), labels=["b", "a"])


def test_auto_takes_the_newest_run_that_fits(tmp_path):
    wanted = {"network": config_of().network, "recipe": config_of().recipe}
    assert checkpoint.choose_init("auto", root=tmp_path / "none", **wanted)[0] is None
    for name, created, changes in [
        ("old", "2026-01-01", {}),
        ("new", "2026-01-03", {}),
        ("other", "2026-01-04", {"network": {"network": "music-video"}}),
        ("tuned", "2026-01-05", {"kind": "finetune"}),
        ("empty", "2026-01-06", {}),
    ]:
        checkpoint.begin(tmp_path / name, config_of(created=created, **changes), groups=[])
        if name != "empty":
            checkpoint.save(tmp_path / name, nn.Linear(2, 2), step=3, state=STATE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    run, why = checkpoint.choose_init("auto", root=tmp_path, **wanted)
    assert run == tmp_path / "new"
    assert why == f"the newest of 2 that fit in {tmp_path}"
    run, why = checkpoint.choose_init("auto", root=tmp_path, **(wanted | {"recipe": {"phase": "other"}}))
    assert run is None
    assert "fits; for one" in why
    assert checkpoint.choose_init("scratch", root=tmp_path, **wanted)[0] is None
    with pytest.raises(UserError, match="has no checkpoint yet"):
        checkpoint.choose_init(str(tmp_path / "empty"), root=tmp_path, **wanted)


def test_a_config_of_another_release_is_refused(tmp_path):
    checkpoint.begin(tmp_path / "run", config_of(), groups=[])
    path = tmp_path / "run" / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"run_version": 9}))
    with pytest.raises(UserError, match="run version 9, this software reads 1"):
        checkpoint.read_config(tmp_path / "run")
