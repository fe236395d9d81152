"""Several processes take the steps of one: real processes that talk through gloo."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from tests.waiting import PATIENCE_S, wait_until
from trainer import finetune, pretrain
from trainer.augment import augmented
from trainer.batchnorm import reestimate_batchnorm
from trainer.checkpoint import latest, read_state
from trainer.errors import UserError
from trainer.loader import Loader, Place
from trainer.losses import Losses
from trainer.models.presets import build_encoder, network_config
from trainer.order import Order
from trainer.ranks import Ranks
from trainer.shards import ShardSet
from trainer.steps import optimise

ROOT = Path(__file__).parents[2]
TINY = ["--preset", "tiny", "--modality", "audio", "--device", "cpu", "--shuffle-buffer", "3"]


@pytest.fixture
def on_ranks(tmp_path):
    """Call a function with the ``Ranks`` of each of two processes; what it returns, or its UserError, by rank."""

    def call(act, count=2):
        meeting = f"file://{tmp_path}/meeting-{time.monotonic_ns()}"
        pipes, processes = [], []
        context = multiprocessing.get_context("fork")
        for rank in range(count):
            here, there = context.Pipe()
            pipes.append(here)
            processes.append(context.Process(target=_one_rank, args=(act, meeting, rank, count, there)))
            processes[-1].start()
        said = [pickle.loads(pipe.recv_bytes()) for pipe in pipes]
        for process in processes:
            process.join()
        return said

    return call


def _one_rank(act, meeting, rank, count, pipe):
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    try:
        said = act(Ranks(rank=rank, count=count))
    except UserError as error:
        said = error
    pipe.send_bytes(pickle.dumps(said))  # by value: what torch makes of send() is gone with this process
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_set):
    """Shards of 4, 4, 4, 1: two ranks have 7 and 6 samples, or 9 and 4, as they are dealt."""
    root = tmp_path_factory.mktemp("ranks") / "set"
    return ShardSet.open(str(make_set(root, splits={"train": [0] * 13}, modality="audio")))


def loader_of(data, ranks, losses=None, **order):
    order = Order(batch_size=2, shuffle_buffer=3, rank=ranks.rank, num_ranks=ranks.count, **order)
    return Loader(data, data.shards, members=("mel_8k",), order=order, ranks=ranks, losses=losses)


def test_what_fails_on_one_rank_fails_on_all(on_ranks):
    def act(ranks):
        assert ranks.gather(ranks.rank * 10) == [0, 10]
        assert ranks.first("late" if ranks.rank else None) == "late"
        assert ranks.mean({"loss": float(ranks.rank)}) == {"loss": 0.5}
        assert ranks.lead(lambda: ranks.rank + 7) == 7
        with ranks.together():
            if ranks.rank:
                raise UserError("rank 1 has no disk")

    assert [str(error) for error in on_ranks(act)] == ["rank 1 has no disk"] * 2


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_all_ranks_take_as_many_steps_and_every_sample_counts_once_an_epoch(on_ranks, data, accumulate):
    def act(ranks):
        loader = loader_of(data, ranks)
        num_steps = sum(loader.num_steps(epoch, accumulate=accumulate) for epoch in (0, 1))
        portions = loader.portions(Place(0, 0), num_steps=num_steps, accumulate=accumulate)
        return [
            (p.epoch, p.next, [(b["keys"], w) for b, w in zip(p.batches, p.weights, strict=True)]) for p in portions
        ]

    first, second = on_ranks(act)
    assert [place for _, place, _ in first] == [place for _, place, _ in second]
    assert first[-1][1] == Place(2, 0)
    for epoch in (0, 1):
        seen = []
        for (number, _, mine), (_, _, theirs) in zip(first, second, strict=True):
            if number == epoch:
                assert len(mine) == len(theirs) >= 1
                counted = [(keys, weight) for keys, weight in mine + theirs if weight]
                total = sum(len(keys) for keys, _ in counted)
                assert [weight / 2 for _, weight in counted] == pytest.approx(
                    [len(keys) / total for keys, _ in counted]
                )
                seen += chain(*(keys for keys, _ in counted))
        assert sorted(seen) == sorted(
            data.shards[0].keys + data.shards[1].keys + data.shards[2].keys + data.shards[3].keys
        )


def test_shares_together_are_the_split_and_a_limit_ends_all_ranks_at_once(on_ranks, data):
    def act(ranks):
        share = [batch["keys"] for batch in loader_of(data, ranks, shuffle=False).shared()]
        some = [batch["keys"] for batch in loader_of(data, ranks).shared(limit=6)]
        many = [batch["keys"] for batch in loader_of(data, ranks).shared(limit=100)]
        return share, some, many

    (share_a, some_a, many_a), (share_b, some_b, many_b) = on_ranks(act)
    assert sorted(chain(*share_a, *share_b)) == sorted(chain(*(shard.keys for shard in data.shards)))
    assert len(some_a) == len(some_b) == 3
    assert len(many_a) == len(many_b) >= 3


def test_a_shard_that_one_rank_finds_damaged_ends_all_with_its_name(on_ranks, make_set, tmp_path):
    root = make_set(tmp_path / "set", splits={"train": [0] * 8}, modality="audio")
    raw = bytearray((root / "train-000001.tar").read_bytes())
    raw[2000] ^= 1
    (root / "train-000001.tar").write_bytes(raw)
    damaged = ShardSet.open(str(root))

    def act(ranks):
        list(loader_of(damaged, ranks).portions(Place(0, 0), num_steps=4))

    told = {str(error) for error in on_ranks(act)}
    assert len(told) == 1
    assert "train-000001.tar" in told.pop()


def test_ranks_stay_in_step_where_samples_are_lost(on_ranks, make_set, tmp_path):
    root = make_set(tmp_path / "set", splits={"train": [0] * 8}, modality="audio")
    tar = root / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 8])  # nothing of it can be read
    data = ShardSet.open(str(root), damaged="skip")

    def act(ranks):
        losses = Losses(skip=True)
        portions = list(loader_of(data, ranks, losses=losses).portions(Place(0, 0), num_steps=2))
        return losses.state, [(p.next, [b["keys"] for b in p.batches], p.weights) for p in portions]

    (lost, mine), (lost_too, theirs) = on_ranks(act)
    assert lost == lost_too == {"damaged": sorted(data.shards[1].keys)}
    for (place, keys, weights), (place_too, keys_too, weights_too) in zip(mine, theirs, strict=True):
        assert place == place_too
        assert len(keys) == len(keys_too) == 1
        assert sorted([*weights, *weights_too]) == [0.0, 2.0]
    counted = [keys for each in (mine, theirs) for _, keys, weights in each if weights[0]]
    assert sorted(chain(*chain(*counted))) == sorted(data.shards[0].keys)


def test_a_batch_that_one_rank_cannot_read_is_left_out_on_all_and_the_next_ones_are_taken(on_ranks, make_set, tmp_path):
    root = make_set(tmp_path / "set", splits={"train": [0] * 16}, modality="audio")
    sound = ShardSet.open(str(root))
    order = Order(batch_size=2, shuffle_buffer=3, num_ranks=2)
    (root / sound.shards[order.rows(sound.shards, 0, 0)[0].shard].name).unlink()
    data = ShardSet.open(str(root), damaged="skip")

    def act(ranks):
        loader = loader_of(data, ranks, losses=Losses(skip=True))
        planned = [batch["keys"] for batch in loader.batches()]
        return planned, [[batch["keys"] for batch in loader.shared(limit=limit)] for limit in (2, 100)]

    (mine, ours), (theirs, others) = on_ranks(act)
    rounds = [both for both in zip(mine, theirs, strict=True) if all(both)]
    assert 2 <= len(rounds) < 4
    for limit, a, b in zip((1, 4), ours, others, strict=True):
        assert list(zip(a, b, strict=True)) == rounds[:limit]


def test_batch_norms_statistics_are_pooled_over_ranks(on_ranks):
    batches = [torch.randn(size, 3, 4, generator=torch.Generator().manual_seed(size)) + size for size in (4, 2, 5)]

    def act(ranks):
        model = nn.Sequential(nn.BatchNorm1d(3))
        reestimate_batchnorm(model, batches[ranks.rank :: ranks.count], ranks)
        return model[0].running_mean, model[0].running_var

    alone = act(Ranks())
    for statistics in on_ranks(act):
        torch.testing.assert_close(statistics, alone, rtol=1e-6, atol=0)


class Roles:
    """Inputs without numbers: only the roles matter."""

    device = torch.device("cpu")
    specs = build_encoder(network_config("slow-fast", "tiny")).inputs

    def __call__(self, batch):
        return dict.fromkeys(self.specs, torch.zeros(len(batch["keys"]), 1))


def test_all_ranks_lose_the_same_modality_though_their_samples_differ(on_ranks, data):
    flags = finetune.Config(shards="set", modality_dropout=0.5)

    def act(ranks):
        torch.set_num_threads(1)
        fabric = Fabric(accelerator="cpu", devices=1)
        model, optimizer = fabric.setup(net := nn.Linear(1, 1), torch.optim.SGD(net.parameters(), lr=0.1))
        seen = []
        for step, portion in enumerate(loader_of(data, ranks).portions(Place(0, 0), num_steps=12, accumulate=2)):

            def loss_of(batch, step=step):
                inputs, _ = augmented(batch, Roles(), flags, step=step, num_classes=3)
                seen.append((batch["keys"], sorted(inputs)))
                return model(torch.ones(1, 1)).sum(), {}

            optimise(fabric, model, optimizer, portion, loss_of, clip_norm=None, ranks=ranks)
        return seen

    mine, theirs = on_ranks(act)
    assert all(keys != others for (keys, _), (others, _) in zip(mine, theirs, strict=True))
    assert [roles for _, roles in mine] == [roles for _, roles in theirs]
    assert {len(roles) for _, roles in mine} == {2, 4}  # some batches lose one, of those of a step not always the same
    assert any(one != other for (_, one), (_, other) in zip(mine[::2], mine[1::2], strict=False))


def start(entry, *flags, launcher=()):
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", f"trainer.{entry}", *map(str, flags), *TINY],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def curve(run):
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in record.items() if name != "seconds"} for record in lines]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_that_accumulates_two_readers_batches(sets, tmp_path):
    flags = ["--shards", sets / "unlabeled", "--batch-size", 2, "--pictures-every", 0]
    pretrain.main(list(map(str, [*flags, "--out", tmp_path / "init", "--max-steps", 1, *TINY])))
    flags += ["--init", tmp_path / "init", "--freeze-batchnorm", "--max-steps", 4]
    two = start("pretrain", *flags, "--out", tmp_path / "two", "--devices", 2, "--lr", 1e-3)
    out, err = two.communicate(timeout=PATIENCE_S)
    assert (two.returncode, err) == (0, "")
    assert out.count("done: ") == 1
    assert "2 x cpu" in out
    one = [*flags, "--out", tmp_path / "one", "--workers", 2, "--accumulate", 2, "--lr", 1e-3, *TINY]
    pretrain.main(list(map(str, one)))
    for ours, theirs in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (load_file(latest(tmp_path / name) / "model.safetensors") for name in ("two", "one"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)


# Every process waits at each step, so that the signal comes in the middle.
SLOWED = """
import time, torch
torch.set_num_threads(1)
from trainer import finetune, steps
check = steps.check_finite
steps.check_finite = lambda *args: (time.sleep(0.3), check(*args))
finetune.main()
"""


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_ends_both_with_a_checkpoint_to_go_on_from(sets, tmp_path, refused):
    flags = ["--shards", sets / "mved", "--init", "scratch", "--batch-size", 2, "--epochs", 3, "--devices", 2]
    whole = start("finetune", *flags, "--out", tmp_path / "whole")
    out, err = whole.communicate(timeout=PATIENCE_S)
    assert whole.returncode == 0, err
    assert out.count(": validation accuracy") == 3

    (tmp_path / "slowed.py").write_text(SLOWED)
    run = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, tmp_path / "slowed.py", *map(str, flags), "--out", str(run), *TINY],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: (run / "log.jsonl").exists() and len(curve(run)) >= 4, runs=process)
    (child,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(child, signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"go on with: python -m trainer.finetune --out {run} --resume" in said
    step = read_state(latest(run))["step"]
    assert step == curve(run)[-1]["step"] < 12

    line = refused(finetune.main, "--out", run, "--resume", "--devices", 1)
    assert "--devices 1, but" in line
    assert "was begun with 2" in line
    rest = start("finetune", "--out", run, "--resume")
    _, err = rest.communicate(timeout=PATIENCE_S)
    assert (rest.returncode, err) == (0, "")
    assert curve(run) == curve(tmp_path / "whole")
    ours, theirs = (load_file(latest(path) / "model.safetensors") for path in (run, tmp_path / "whole"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.slow
def test_torchrun_starts_processes_too_and_only_one_speaks_and_writes(sets, tmp_path):
    flags = ["--shards", sets / "unlabeled", "--batch-size", 2, "--max-steps", 2, "--out", tmp_path / "run"]
    run = start("pretrain", *flags, launcher=["-m", "torch.distributed.run", "--nproc-per-node", "2"])
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert out.count("done: ") == 1
    assert [record["step"] for record in curve(tmp_path / "run")] == [1, 2]
    wrong = start("pretrain", *flags, "--devices", 3, launcher=["-m", "torch.distributed.run", "--nproc-per-node", "2"])
    _, err = wrong.communicate(timeout=PATIENCE_S)
    assert err.count("error: --devices 3, but 2 processes were started; leave the flag out") == 1
