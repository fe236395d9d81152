"""Samples that cannot be read: left out, told once, counted; everything else comes as planned."""

import json
import signal
from itertools import chain

import pytest
from safetensors.torch import load_file

from trainer import evaluate, finetune, pretrain, record
from trainer.checkpoint import latest, read_state
from trainer.errors import UserError
from trainer.loader import Loader, Place
from trainer.losses import Losses
from trainer.order import Order
from trainer.shards import ShardSet, group_number
from trainer.tars import Damage, read

BLOCK_BYTES = 512


@pytest.fixture
def root(make_set, tmp_path):
    """Three shards of four samples, sound alone."""
    return make_set(tmp_path / "set", splits={"unlabeled": [None] * 12}, labels=None, modality="audio")


def cut(path, share=0.6):
    """Cut a tar short in the third of its four samples."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def garble(path, key):
    """Make one sample's 8 kHz spectrogram unreadable, and nothing else."""
    raw = bytearray(path.read_bytes())
    start = raw.index(f"{key}.mel_8k.npy".encode()) + BLOCK_BYTES
    raw[start : start + 6] = b"broken"
    path.write_bytes(raw)


def opened(root):
    return ShardSet.open(str(root), damaged="skip")


def what_is_read(data, number, verify=True):
    shard = data.shards[number]
    return dict(read(data.fs, shard, shard.rows, ("mel_8k",), verify=verify, skip=True))


@pytest.mark.parametrize("verify", [True, False])
def test_a_tar_that_is_cut_short_loses_only_its_rest(root, verify):
    cut(root / "unlabeled-000001.tar")
    found = what_is_read(opened(root), 1, verify)
    assert [isinstance(found[row], Damage) for row in range(4)] == [False, False, True, True]
    assert "unlabeled-000001.tar is damaged" in found[3].why


@pytest.mark.parametrize("verify", [True, False])
def test_a_sample_that_cannot_be_decoded_is_lost_alone(root, verify, capsys):
    data = opened(root)
    garble(root / "unlabeled-000000.tar", data.shards[0].keys[1])
    found = what_is_read(data, 0, verify)
    assert [isinstance(found[row], Damage) for row in range(4)] == [False, True, False, False]
    assert found[1].key == data.shards[0].keys[1]
    assert "mel_8k.npy cannot be read" in found[1].why
    assert capsys.readouterr().err == ""


def test_a_tar_that_is_gone_loses_all_its_samples(root):
    (root / "unlabeled-000002.tar").unlink()
    assert all(isinstance(sample, Damage) for sample in what_is_read(opened(root), 2).values())
    with pytest.raises(UserError, match="is missing"):
        ShardSet.open(str(root))


def test_a_tar_of_another_hash_whose_samples_decode_is_warned_of(root, capsys):
    path = root / "unlabeled-000000.tar"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert not any(isinstance(sample, Damage) for sample in what_is_read(opened(root), 0).values())
    assert "another hash than its commit record says" in capsys.readouterr().err


def loader_of(data, losses, **order):
    order = Order(**{"batch_size": 2, "shuffle_buffer": 3, **order})
    return Loader(data, data.shards, members=("mel_8k",), order=order, losses=losses)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_others_come_in_the_planned_batches_and_resuming_is_exact(root, workers, capsys):
    whole = loader_of(ShardSet.open(str(root)), None, workers=workers)
    planned = [batch["keys"] for batch in whole.batches()]
    cut(root / "unlabeled-000001.tar")
    data = opened(root)
    lost = set(data.shards[1].keys[2:])
    losses = Losses(skip=True)
    portions = list(loader_of(data, losses, workers=workers).portions(Place(0, 0), num_steps=6))
    came = [[key for batch in portion.batches for key in batch["keys"]] for portion in portions]
    assert came == [[key for key in keys if key not in lost] for keys in planned]
    assert set(losses.state["damaged"]) == lost
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(any(line.startswith(f"warning: {key} is left out: ") for key in lost) for line in said)
    for done in (1, 3, 5):
        rest = loader_of(data, Losses(skip=True), workers=workers)
        rest = rest.portions(portions[done - 1].next, num_steps=6 - done)
        assert [list(chain(*(batch["keys"] for batch in portion.batches))) for portion in rest] == came[done:]


def records(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_goes_on_without_them_counts_them_and_resumes_with_the_count(root, tmp_path, monkeypatch, capsys):
    cut(root / "unlabeled-000001.tar")
    flags = ["--preset", "tiny", "--modality", "audio", "--batch-size", "1", "--bn-batches", "2", "--epochs", "2"]
    flags += ["--damaged", "skip", "--shards", str(root)]
    pretrain.main([*flags, "--out", str(tmp_path / "unbroken")])
    said = capsys.readouterr()
    assert said.err.count("is left out: ") == 2
    assert "; 2 samples could not be read and were left out" in said.out
    unbroken = records(tmp_path / "unbroken")
    assert [step["damaged"] for step in unbroken if "damaged" in step] == [2, 2]
    # Batches of one: a lost sample leaves a step with nothing in it.
    assert [step["loss"] is None for step in unbroken].count(True) == 4
    assert all(step["skipped"] == 1 for step in unbroken if step["loss"] is None)

    write = record.RunLog.write

    def write_then_stop(log, kind, step, **values):
        write(log, kind, step, **values)
        if step == 13:
            signal.raise_signal(signal.SIGTERM)

    run = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(record.RunLog, "write", write_then_stop)
        with pytest.raises(SystemExit):
            pretrain.main([*flags, "--out", str(run)])
    assert len(read_state(latest(run))["damaged"]) == 2
    capsys.readouterr()
    pretrain.main(["--out", str(run), "--resume"])
    said = capsys.readouterr()
    assert said.err == ""
    assert "; 2 samples could not be read and were left out" in said.out
    kept = [{name: value for name, value in step.items() if name != "seconds"} for step in records(run)]
    assert kept == [{name: value for name, value in step.items() if name != "seconds"} for step in unbroken]


@pytest.mark.parametrize("batch_size", [2, 4])
def test_sound_is_told_from_sound_by_the_groups_of_those_that_could_be_read(make_set, tmp_path, batch_size):
    root = make_set(tmp_path / "set", splits={"unlabeled": [None] * 8}, labels=None)
    data = opened(root)
    group_of = {key: group for shard in data.shards for key, group in zip(shard.keys, shard.groups, strict=True)}
    garble(root / "unlabeled-000000.tar", data.shards[0].keys[1])
    loader = Loader(
        data, data.shards, members=("mel_8k",), order=Order(batch_size=batch_size), losses=Losses(skip=True)
    )
    batches = [batch for portion in loader.once() for batch in portion.batches]
    assert [len(batch["keys"]) for batch in batches].count(batch_size - 1) == 1
    for batch in batches:
        assert batch["group"].tolist() == [group_number(group_of[key]) for key in batch["keys"]]
    flags = ["--preset", "tiny", "--objective", "masked", "--damaged", "skip", "--batch-size", str(batch_size)]
    flags += ["--shards", str(root), "--out", str(tmp_path / "run"), "--epochs", "1", "--val-fraction", "0"]
    pretrain.main([*flags, "--pictures-every", "0", "--bn-batches", "1"])
    steps = [record for record in records(tmp_path / "run") if record["kind"] == "train"]
    assert len(steps) == 8 // batch_size
    assert steps[-1]["damaged"] == 1


def test_a_damaged_sample_stops_by_default_with_its_name(root, tmp_path, refused):
    data = ShardSet.open(str(root))
    garble(root / "unlabeled-000000.tar", data.shards[0].keys[1])
    flags = ["--preset", "tiny", "--modality", "audio", "--shards", root, "--out", tmp_path / "run"]
    line = refused(pretrain.main, *flags)
    assert data.shards[0].keys[1] in line
    assert "unlabeled-000000.tar" in line


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_batch_norms_statistics_have_their_batches_whichever_tar_is_gone(root, gone):
    (root / f"unlabeled-00000{gone}.tar").unlink()
    loader = loader_of(opened(root), Losses(skip=True), shuffle_buffer=1)
    kept = [batch["keys"] for batch in loader.batches() if batch["keys"]]
    assert len(kept) == 4
    for limit in (0, 1, 3, 4, 9):
        assert [batch["keys"] for batch in loader.shared(limit=limit)] == kept[:limit]


AUDIO = ["--preset", "tiny", "--modality", "audio", "--batch-size", "3", "--max-steps", "2"]


@pytest.mark.parametrize(("bn_batches", "reestimated"), [(1, True), (0, False)])
def test_a_checkpoint_tells_whether_statistics_were_computed_though_the_first_tar_is_gone(
    make_set, tmp_path, bn_batches, reestimated, capsys
):
    data = ShardSet.open(
        str(make_set(tmp_path / "set", splits={"train": [0, 1, 2] * 4, "val": [0, 1, 2]}, modality="audio"))
    )
    train = data.split("train")
    first = Order(batch_size=3, shuffle_buffer=1).rows(train, 0, 0)[0].shard
    (tmp_path / "set" / train[first].name).unlink()
    flags = ["--shards", data.address, "--damaged", "skip", "--shuffle-buffer", "1", "--bn-batches", str(bn_batches)]
    run = tmp_path / "run"
    finetune.main([*flags, *AUDIO, "--out", str(run), "--init", "scratch"])
    for series in ("step", "best"):
        assert read_state(latest(run, series))["batchnorm_reestimated"] is reestimated
        assert load_file(latest(run, series) / "model.safetensors")["mean_embedding"].any() == reestimated
    capsys.readouterr()
    evaluate.main(["--run", str(run), "--shards", f"{data.address}/val-*.tar", "--split", "val"])
    assert ("batch-norm statistics that lag behind" in capsys.readouterr().err) != reestimated

    pretrain.main([*flags, *AUDIO, "--out", str(tmp_path / "pretrained"), "--pictures-every", "0"])
    assert read_state(latest(tmp_path / "pretrained"))["batchnorm_reestimated"] is reestimated


def test_a_validation_split_that_cannot_be_read_is_one_line_with_the_mend(make_set, tmp_path, refused):
    root = make_set(tmp_path / "set", splits={"train": [0, 1, 2], "val": [0, 1, 2]}, modality="audio")
    (root / "val-000000.tar").unlink()
    flags = ["--shards", root, "--damaged", "skip", "--init", "scratch", "--out", tmp_path / "run", *AUDIO]
    line = refused(finetune.main, *flags)
    assert "no validation sample can be read: 3 samples of the set's own split val are damaged" in line
    assert f"build their shards again, then go on with: python -m trainer.finetune --out {tmp_path / 'run'}" in line
