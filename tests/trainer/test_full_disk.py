"""On a disk that is really full a run ends with one line, loses no checkpoint, and goes on once there is room."""

import json
import shutil
import subprocess

import pytest

from trainer import finetune, pretrain, record
from trainer.checkpoint import latest

SHORT = ["--preset", "tiny", "--modality", "audio", "--batch-size", "3", "--bn-batches", "1"]
ROOM = 300_000  # bytes: for logs and a picture, not for a checkpoint


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def resize(disk, num_bytes):
    subprocess.run(["mount", "-o", f"remount,size={num_bytes}", str(disk)], check=True)


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
