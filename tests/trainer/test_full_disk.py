"""On a disk that is really full a run ends with one line, loses no checkpoint, and goes on once there is room."""

import json
import shutil

import pytest

from tests.disks import mounted, resize
from trainer import finetune, pretrain, record
from trainer.checkpoint import latest

SHORT = ["--preset", "tiny", "--modality", "audio", "--batch-size", "3", "--bn-batches", "1"]
ROOM = 300_000  # bytes: for logs and a picture, not for a checkpoint


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk", size="100m") as folder:
        yield folder


def curve(run):
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "flags", "every", "room"),
    [
        (pretrain, ["--pictures-every", "0"], 2, ROOM),
        (finetune, ["--init", "scratch", "--eval-every", "3"], 2, ROOM),
        (pretrain, ["--pictures-every", "0"], 20, 0),
        (pretrain, ["--pictures-every", "21"], 20, 0),
    ],
    ids=["pretrain, checkpoint", "finetune, checkpoint", "log", "picture"],
)
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(
    sets, disk, tmp_path, monkeypatch, refused, entry, flags, every, room
):
    shards = sets / ("unlabeled" if entry is pretrain else "mved")
    flags = ["--shards", shards, *SHORT, *flags, "--checkpoint-every", every, "--max-steps", 2 * every]
    entry.main([*map(str, flags), "--out", str(tmp_path / "unbroken")])

    run = disk / "run"
    before = {}
    write = record.RunLog.write

    def write_and_fill(log, kind, step, **values):
        write(log, kind, step, **values)
        if (kind, step) == ("train", every + 1):
            before.update(contents(latest(run)))
            resize(disk, shutil.disk_usage(disk).used + room)

    with monkeypatch.context() as patched:
        patched.setattr(record.RunLog, "write", write_and_fill)
        line = refused(entry.main, *flags, "--out", run)
    assert "No space left on device" in line
    assert "make room" in line
    assert "--resume" in line
    assert latest(run).name == f"step-{every:08d}"
    assert contents(latest(run)) == before
    assert not list((run / "checkpoints").glob(".*"))

    resize(disk, 100_000_000)
    entry.main(["--out", str(run), "--resume"])
    assert curve(run) == curve(tmp_path / "unbroken")
    assert not list((run / "checkpoints").glob(".*"))
