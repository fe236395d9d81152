"""Training from sets in an object store: a real S3 server on loopback, asked by the real client."""

from __future__ import annotations

import json

import pytest
import torch

from trainer import evaluate, finetune, pretrain
from trainer.checkpoint import latest
from trainer.loader import Loader
from trainer.order import Order
from trainer.shards import ShardSet

s3fs = pytest.importorskip("s3fs")

# torch advises against more workers than cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

TINY = ["--preset", "tiny", "--batch-size", "4"]


@pytest.fixture
def remote(bucket, sets):
    """Address of a bucket that holds copies of ``sets``."""
    s3fs.S3FileSystem().put(f"{sets}/", f"{bucket}/", recursive=True)
    return bucket


def batches(address, workers):
    """Two epochs: in the first hashes are compared, in the second readers seek past what is not theirs."""
    data = ShardSet.open(address)
    order = Order(batch_size=4, shuffle_buffer=5, workers=workers)
    loader = Loader(data, data.split("train"), members=("frames", "mel_8k"), order=order, keep_workers=True)
    return [batch for epoch in (0, 1) for batch in loader.batches(epoch)]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_from_a_bucket_are_those_from_a_disk(remote, sets, workers):
    here, there = batches(str(sets / "mved"), workers), batches(f"{remote}/mved", workers)
    assert [batch["keys"] for batch in there] == [batch["keys"] for batch in here]
    assert sum(len(batch["keys"]) for batch in there) == 2 * 12
    for mine, other in zip(here, there, strict=True):
        for name in ("frames", "mel_8k", "label", "group"):
            assert torch.equal(mine[name], other[name])


def told(run):
    """What a run logged, without what a clock says."""
    records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in one.items() if "loss" in name or name in ("kind", "step")} for one in records
    ]


@pytest.mark.slow
def test_runs_from_a_bucket_are_those_from_a_disk_bit_for_bit(remote, runs, tmp_path, capsys):
    """Pretraining, fine-tuning from it, and its scores, with the flags of ``runs``."""
    short = [*TINY, "--runs", str(tmp_path)]
    pretrained = ["--out", str(tmp_path / "pretrained"), "--max-steps", "2", "--pictures-every", "0"]
    pretrain.main(["--shards", f"{remote}/unlabeled", *pretrained, *short])
    finetuned = ["--out", str(tmp_path / "finetuned"), "--max-steps", "9", "--lr", "3e-3"]
    finetune.main(["--shards", f"{remote}/mved", *finetuned, *short])
    for name in ("pretrained", "finetuned"):
        here, there = (latest(root / name) / "model.safetensors" for root in (runs, tmp_path))
        assert there.read_bytes() == here.read_bytes()
        assert told(tmp_path / name) == told(runs / name) != []
    capsys.readouterr()
    evaluate.main(["--run", str(tmp_path / "finetuned"), "--shards", f"{remote}/mved", "--split", "test"])
    assert "accuracy" in capsys.readouterr().out
