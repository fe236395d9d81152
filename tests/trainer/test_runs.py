"""Runs are told apart, resumed only as what they were, and found by what fits."""

import json

import pytest
import torch
from torch import nn

from trainer import checkpoint
from trainer.errors import UserError
from trainer.opening import begin, choose_init
from trainer.runs import RunConfig, group_hashes, read_config, read_groups, require_resumable, require_same

STATE = {"epoch": 1, "batch": 2, "best": None, "batchnorm_reestimated": True}


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
        "train": {"batch_size": 4, "epochs": 1, "normalization": "channel"},
        "init": None,
    }
    return RunConfig(**(fields | changes))


def test_a_run_folder_tells_what_made_it(tmp_path):
    run = tmp_path / "run"
    begin(run, config_of(), groups=["a", "b", "a"], chosen_by=["c"])
    assert read_config(run).network["blocks"] == [1, 2]
    assert read_config(run).versions["torch"] == torch.__version__.split("+")[0]
    trained, chosen_by = read_groups(run)
    assert trained == set(group_hashes(["a", "b"]))
    assert len(trained) == 2
    assert chosen_by == set(group_hashes(["c"]))
    with pytest.raises(UserError, match="exists already; add --resume"):
        begin(run, config_of(), groups=[])


def test_a_run_that_was_killed_while_it_began_begins_again(tmp_path):
    (tmp_path / "groups.json").write_text("[]")
    (tmp_path / ".config.json").write_text("{")
    begin(tmp_path, config_of(), groups=["a"])
    assert read_groups(tmp_path) == (set(group_hashes(["a"])), set())
    assert read_config(tmp_path).kind == "pretrain"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "finetune"}, "is a pretrain run; a finetune run is needed"),
        ({"network": {"network": "music-video"}}, "holds another network .*its network is slow-fast, here music-video"),
        ({"network": {"network": "slow-fast", "pool": 1, "blocks": [1, 2]}}, "its pool is 8, here 1"),
        ({"recipe": {"phase": "angle-mel"}}, "another recipe: its phase is mel-angle, here angle-mel"),
        (
            {"train": {"batch_size": 8, "epochs": 1, "normalization": "channel"}},
            "--batch-size 8, but .* was begun with 4",
        ),
        ({"data": "e"}, "was begun on other samples"),
    ],
)
def test_a_run_is_resumed_only_as_what_it_was(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        require_resumable(tmp_path, config_of(), config_of(**changes))


def test_epochs_may_change_and_the_modality_of_a_set_does_not_matter(tmp_path):
    changed = config_of(train=config_of().train | {"epochs": 9}, recipe={"phase": "mel-angle", "modality": "audio"})
    require_resumable(tmp_path, config_of(), changed)
    tuples = config_of(network={"network": "slow-fast", "pool": 8, "blocks": (1, 2)})
    require_resumable(tmp_path, config_of(), tuples)


def test_the_form_in_which_frames_are_stored_does_not_matter_to_the_weights(tmp_path):
    jpeg = config_of().recipe | {"frames": "jpeg", "jpeg_quality": 90}
    require_same(tmp_path, config_of(), recipe=jpeg)
    with pytest.raises(UserError, match="was begun on other samples"):  # to a run it does: its losses are others
        require_resumable(tmp_path, config_of(), config_of(recipe=jpeg, data="of other tars"))


def test_labels_must_agree(tmp_path):
    with pytest.raises(UserError, match="on the labels a, b; the set has b, a"):
        require_same(tmp_path, config_of(labels=["a", "b"]), labels=["b", "a"])


def test_auto_takes_the_newest_run_that_fits(tmp_path):
    wanted = {"network": config_of().network, "recipe": config_of().recipe, "normalization": "channel"}
    assert choose_init("auto", root=tmp_path / "none", **wanted)[0] is None
    for name, created, changes in [
        ("old", "2026-01-01", {}),
        ("new", "2026-01-03", {}),
        ("other", "2026-01-04", {"network": {"network": "music-video"}}),
        ("tuned", "2026-01-05", {"kind": "finetune"}),
        ("empty", "2026-01-06", {}),
    ]:
        begin(tmp_path / name, config_of(created=created, **changes), groups=[])
        if name != "empty":
            checkpoint.save(tmp_path / name, nn.Linear(2, 2), step=3, state=STATE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    run, why = choose_init("auto", root=tmp_path, **wanted)
    assert run == tmp_path / "new"
    assert why == f"the newest of 2 that fit in {tmp_path}"
    run, why = choose_init("auto", root=tmp_path, **(wanted | {"recipe": {"phase": "other"}}))
    assert run is None
    assert "fits; for one" in why
    assert choose_init("auto", root=tmp_path, **(wanted | {"normalization": "joint"}))[0] is None
    assert choose_init("scratch", root=tmp_path, **wanted)[0] is None
    with pytest.raises(UserError, match="has no checkpoint yet"):
        choose_init(str(tmp_path / "empty"), root=tmp_path, **wanted)


def test_a_config_of_another_release_is_refused(tmp_path):
    begin(tmp_path / "run", config_of(), groups=[])
    path = tmp_path / "run" / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"run_version": 9}))
    with pytest.raises(UserError, match="run version 9, this software reads 2"):
        read_config(tmp_path / "run")
