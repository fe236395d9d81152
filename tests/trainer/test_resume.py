"""Killed anywhere, a run comes to the same losses as one that was never stopped."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S, wait_until
from trainer import finetune, pretrain, record
from trainer.checkpoint import latest, read_state

ROOT = Path(__file__).parents[2]
SHORT = [
    "--preset",
    "tiny",
    "--modality",
    "audio",
    "--batch-size",
    "3",
    "--shuffle-buffer",
    "4",
    "--checkpoint-every",
    "2",
]

PLAIN = [*SHORT, "--pictures-every", "0"]


def curve(run):
    """Every record but what the clock says."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in record.items() if name != "seconds"} for record in lines]


def test_a_run_killed_in_the_middle_resumes_to_the_unbroken_curve(sets, tmp_path):
    flags = ["--shards", str(sets / "unlabeled"), "--max-steps", "9", *PLAIN]
    pretrain.main([*flags, "--out", str(tmp_path / "unbroken")])

    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOWED, *flags, "--out", str(killed)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    log = killed / "log.jsonl"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 5, runs=process)
    process.kill()
    process.wait()
    assert 5 <= len(curve(killed)) < 9
    assert read_state(latest(killed))["step"] in (4, 6)

    pretrain.main(["--out", str(killed), "--resume"])  # its own flags hold
    assert curve(killed) == curve(tmp_path / "unbroken")


# One thread, as in the tests, and half a second a step, so that the kill comes in the middle.
_SLOWED = """
import sys, time, torch
torch.set_num_threads(1)
from trainer import pretrain, steps
check = steps.check_finite
steps.check_finite = lambda *args: (time.sleep(0.5), check(*args))
pretrain.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_sigterm_to_the_whole_process_group_with_its_readers_leaves_a_checkpoint_to_go_on_from(sets, tmp_path, refused):
    flags = ["--shards", str(sets / "unlabeled"), "--workers", "1", "--max-steps", "5", *PLAIN]
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOWED, *flags, "--out", str(stopped)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = stopped / "log.jsonl"
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), runs=process)
    readers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert readers
    subprocess.run(["kill", "-TERM", "--", f"-{process.pid}"], check=True)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert f"go on with: python -m trainer.pretrain --out {stopped} --resume" in out
    assert not any(Path(f"/proc/{pid}").exists() for pid in readers)
    assert read_state(latest(stopped))["step"] == curve(stopped)[-1]["step"] < 5

    # The kernel's OOM killer takes a reader of the resumed run, which then goes on all the same.
    write = record.RunLog.write

    def write_then_kill(log, *args, **values):
        write(log, *args, **values)
        for reader in multiprocessing.active_children():
            os.kill(reader.pid, signal.SIGKILL)
            reader.join()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(record.RunLog, "write", write_then_kill)
        line = refused(pretrain.main, "--out", stopped, "--resume")
    assert "a reader process was killed" in line
    assert "--workers" in line
    assert "--shuffle-buffer" in line
    pretrain.main(["--out", str(stopped), "--resume"])
    pretrain.main([*flags, "--out", str(tmp_path / "unbroken")])
    assert curve(stopped) == curve(tmp_path / "unbroken")


def test_finetuning_stopped_by_a_signal_says_how_to_go_on_and_does(sets, tmp_path, monkeypatch, capsys):
    flags = ["--shards", str(sets / "mved"), "--init", "scratch", "--epochs", "2", *SHORT]
    finetune.main([*flags, "--out", str(tmp_path / "unbroken")])

    stopped = tmp_path / "stopped"
    write = record.RunLog.write

    def write_then_stop(log, kind, step, **values):
        write(log, kind, step, **values)
        if (kind, step) == ("train", 5):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(record.RunLog, "write", write_then_stop)
        with pytest.raises(SystemExit) as stop:
            finetune.main([*flags, "--out", str(stopped)])
    assert stop.value.code == 128 + signal.SIGTERM
    assert (
        f"stopped at step 5; go on with: python -m trainer.finetune --out {stopped} --resume" in capsys.readouterr().out
    )
    assert read_state(latest(stopped))["step"] == 5

    finetune.main(["--out", str(stopped), "--resume"])
    assert capsys.readouterr().out.startswith(f"resume: {stopped} at step 5")
    assert curve(stopped) == curve(tmp_path / "unbroken")
    assert read_state(latest(stopped))["best"] == read_state(latest(tmp_path / "unbroken"))["best"]


def test_resuming_without_a_checkpoint_starts_at_the_beginning(sets, tmp_path):
    run = tmp_path / "run"
    pretrain.main(["--shards", str(sets / "unlabeled"), "--out", str(run), "--resume", "--max-steps", "1", *PLAIN])
    first = curve(run)
    for path in sorted((run / "checkpoints").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    pretrain.main(["--out", str(run), "--resume"])
    assert curve(run) == first


def test_without_a_checkpoint_only_the_weights_it_began_with_will_do(sets, tmp_path, refused):
    source, run = tmp_path / "pretrained", tmp_path / "run"
    pretrain.main(["--shards", str(sets / "unlabeled"), "--out", str(source), "--max-steps", "1", *PLAIN])
    begun = [*SHORT[:6], "--init", str(source), "--max-steps", "1"]
    finetune.main(["--shards", str(sets / "mved"), "--out", str(run), *begun])
    first = curve(run)
    shutil.rmtree(run / "checkpoints")
    finetune.main(["--out", str(run), "--resume"])
    assert curve(run) == first
    shutil.rmtree(run / "checkpoints")
    pretrain.main(["--out", str(source), "--resume", "--max-steps", "2"])
    line = refused(finetune.main, "--out", run, "--resume")
    assert f"{source} no longer holds the weights this run began with, of step 1; begin another" in line


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(sets, tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--shards", str(sets / "unlabeled"), *PLAIN]
    pretrain.main([*flags, "--out", str(run), "--max-steps", "2"])
    pretrain.main(["--out", str(run), "--resume"])
    assert "nothing left to do" in capsys.readouterr().out
    pretrain.main(["--out", str(run), "--resume", "--max-steps", "5"])
    pretrain.main([*flags, "--out", str(tmp_path / "unbroken"), "--max-steps", "5"])
    assert curve(run) == curve(tmp_path / "unbroken")
