"""Flags, signals, checks, and errors as one line."""

import signal
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from trainer.errors import UserError
from trainer.runtime import check_finite, entry, gradient_norm, parse, require, stop_on_signal


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Flags of a test."""

    shards: str
    """The set."""
    out: str | None = None
    """The run."""
    steps: int = 5
    """How many."""
    resume: bool = False
    """Go on."""

    def __post_init__(self):
        require(
            self.steps >= 1, f"--steps {self.steps}: give 1 or more, for a run in some-rather-long/folder-name/of-runs"
        )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["--shards", "x", "--steps", "0"],
            "--steps 0: give 1 or more, for a run in some-rather-long/folder-name/of-runs",
        ),
        (["--shards", "x", "--steps", "many"], "--steps"),
        (["--shards", "x", "--stpes", "3"], "--stpes"),
        ([], "--shards"),
    ],
)
def test_a_wrong_flag_is_one_line(argv, words):
    with pytest.raises(UserError) as caught:
        parse(Flags, argv, prog="python -m trainer.x")
    assert words in str(caught.value)
    assert not set("│╭─\n") & set(str(caught.value))


def test_help_tells_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Flags, ["--help"], prog="python -m trainer.x")
    assert not stop.value.code
    assert "How many." in capsys.readouterr().out


def test_resuming_takes_the_runs_own_flags_and_those_given_over_them(tmp_path):
    stored = {"shards": "a", "steps": 9, "resume": False, "flag_of_another_release": 1}
    flags = parse(Flags, ["--out", "r", "--resume"], prog="x", stored=lambda run: stored)
    assert (flags.shards, flags.steps, flags.resume, flags.out) == ("a", 9, True, "r")
    flags = parse(Flags, ["--out=r", "--resume", "--steps", "7"], prog="x", stored=lambda run: stored)
    assert flags.steps == 7
    assert parse(Flags, ["--shards", "b", "--out", "r"], prog="x", stored=lambda run: stored).steps == 5


def test_an_entry_turns_what_the_reader_can_mend_into_one_line(capsys):
    @entry
    def main(argv=None):
        raise argv

    for error, words, status in [
        (UserError("broken\nthing"), "error: broken thing\n", 2),
        (torch.OutOfMemoryError("CUDA out of memory"), "--batch-size", 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "--batch-size", 2),
        (
            RuntimeError("DataLoader worker is killed. It is possible that workers are out of shared memory."),
            "--workers",
            2,
        ),
        (KeyboardInterrupt(), "interrupted", 130),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(error)
        assert stop.value.code == status
        assert words in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(RuntimeError("a mistake of ours"))


def test_a_loss_or_a_gradient_that_is_not_finite_names_the_batch():
    check_finite(1.0, 2.0, ["a"])
    with pytest.raises(UserError, match=r"the loss is nan on the batch a, b"):
        check_finite(float("nan"), 1.0, ["a", "b"])
    with pytest.raises(UserError, match=r"the gradient's norm is inf on the batch a, b"):
        check_finite(1.0, float("inf"), ["a", "b"])


def test_the_gradients_norm_is_over_all_parameters_that_have_one():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    model["used"].weight.grad = torch.full((2, 2), 2.0)
    model["used"].bias.grad = torch.tensor([3.0, 0.0])
    assert gradient_norm(model).item() == 5.0
    model["used"].bias.grad[1] = float("nan")
    assert gradient_norm(model).isnan()


def test_a_signal_is_noted_once_and_interrupts_the_second_time():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as left:
            stop.leave("stopped")
        assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
