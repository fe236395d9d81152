"""Killed again and again, a run comes to the weights of one that was never stopped, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import wait_until
from trainer.checkpoint import latest, read_state

ROOT = Path(__file__).parents[2]
KILLS = 10
STEPS = 30
LAST_KILLED = 24  # what comes to its end before the signal was not killed
STEP_S = 0.3  # about what one takes; a kill comes up to so long after the step it was drawn for


class Command:
    """A command in a process of its own, which the server below made of itself."""

    def __init__(self, server: subprocess.Popen[str], *words: str) -> None:
        self._server = server
        self._ask(words)
        self.pid = int(self._answer())

    def _ask(self, words: tuple[str, ...]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(words) + "\n")
        self._server.stdin.flush()

    def _answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # an error if it ended by itself

    def finish(self) -> int:
        """Wait for its end; the signal that killed it is a negative number."""
        return int(self._answer())


# Starting costs seconds of imports, and a fork of what has imported everything costs none.
_SERVER = """
import json, multiprocessing, os, sys
from trainer import finetune, pretrain
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
for line in sys.stdin:
    entry, *flags = json.loads(line)
    main = {"pretrain": pretrain, "finetune": finetune}[entry].main
    child = multiprocessing.get_context("fork").Process(target=main, args=(flags,))
    child.start()
    print(child.pid, file=answers)
    child.join()
    print(child.exitcode, file=answers)
"""


@pytest.fixture(scope="module")
def start():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _SERVER], cwd=ROOT, env=environment, **pipes) as server:
        yield lambda *words: Command(server, *map(str, words))


def curve(run):
    """Every record but what the clock says."""
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def inode(log: Path) -> int | None:
    return log.stat().st_ino if log.exists() else None


def wait_for_step(step: int, run: Path, before: int | None, command: Command) -> None:
    """Wait until this process has logged a step; ``before`` is the inode of the log that it found, and replaces."""
    log = run / "log.jsonl"

    def logged() -> bool:
        command.signal(0)
        return inode(log) not in (None, before) and any(one["step"] >= step for one in curve(run))

    wait_until(logged, every_s=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "shards", "more", "seed"),
    [
        ("pretrain", "unlabeled", ["--pictures-every", "7"], 1),
        ("finetune", "mved", ["--init", "scratch", "--eval-every", "4"], 2),
    ],
    ids=["pretrain", "finetune"],
)
def test_killed_at_ten_random_steps_a_run_comes_to_the_unbroken_curve_and_weights(
    start, sets, tmp_path, entry, shards, more, seed
):
    flags = [
        "--preset",
        "tiny",
        "--batch-size",
        "2",
        "--max-steps",
        STEPS,
        "--checkpoint-every",
        "2",
        "--bn-batches",
        "2",
    ]
    flags += more
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert start(entry, "--shards", sets / shards, "--out", unbroken, *flags).finish() == 0

    rng = random.Random(seed)
    words = [entry, "--shards", sets / shards, "--out", killed, *flags]
    for step in sorted(rng.sample(range(1, LAST_KILLED + 1), KILLS)):
        before = inode(killed / "log.jsonl")
        command = start(*words)
        wait_for_step(step, killed, before, command)
        delay_s = rng.uniform(0, STEP_S)
        time.sleep(delay_s)
        command.signal(signal.SIGKILL)
        assert command.finish() == -signal.SIGKILL
        last = latest(killed)
        found = "none" if last is None else last.name
        print(f"killed {delay_s:.3f} s after step {step}: {curve(killed)[-1]['step']} logged, last checkpoint {found}")
        words = [entry, "--out", killed, "--resume"]  # its own flags hold
    assert start(*words).finish() == 0

    assert curve(killed) == curve(unbroken)
    names = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert sorted(path.name for path in (killed / "checkpoints").glob("[!.]*")) == names
    for name in names:
        ours, theirs = (run / "checkpoints" / name / "model.safetensors" for run in (killed, unbroken))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert read_state(latest(killed))["best"] == read_state(latest(unbroken))["best"]
