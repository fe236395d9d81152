"""Batch norm re-estimation, flags, the log, signals, and errors as one line."""

import json
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from trainer.errors import UserError
from trainer.runtime import RunLog, check_finite, entry, parse, reestimate_batchnorm, require, stop_on_signal


class Named(nn.Module):
    """Takes inputs by name, as our networks do."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs):
        return self.layers(inputs["x"])


def test_reestimated_statistics_are_the_mean_and_variance_over_all_batches():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=0.01)
    model = Named(norm).eval()
    batches = [torch.randn(size, 3, 4, 5) * torch.tensor([1, 5, 0.1]).view(3, 1, 1) + size for size in (4, 4, 1)]
    reestimate_batchnorm(model, ({"x": x} for x in batches))
    everything = torch.cat(batches).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(norm.running_mean.double(), everything.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), everything.var(1), rtol=1e-5, atol=1e-5)
    assert norm.momentum == 0.01
    assert not model.training


def test_reestimation_normalises_each_batch_by_its_own_statistics_on_the_way():
    torch.manual_seed(0)
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    batches = [torch.randn(8, 2) + shift for shift in (0, 100)]
    reestimate_batchnorm(Named(first, second), [{"x": x} for x in batches])
    torch.testing.assert_close(second.running_mean, torch.zeros(2), rtol=0, atol=1e-5)
    assert (second.running_var < 1.1).all()
    assert (first.running_var > 1000).all()


def test_reestimation_leaves_weights_and_gradients_alone_and_nothing_changes_without_a_batch():
    model = Named(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reestimate_batchnorm(model, [])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    reestimate_batchnorm(model, [{"x": torch.randn(4, 2)}])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())
    assert not model.layers[1]._forward_pre_hooks


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


def test_the_log_of_a_resumed_run_holds_every_step_once(tmp_path):
    with RunLog(tmp_path, step=0, num_steps=5) as log:
        for step in (1, 2, 3):
            log.write("train", step, loss=1.0 / step, note="text")
        log.write("val", 3, loss=float("nan"))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "ki')  # cut by a kill
    with RunLog(tmp_path, step=2, num_steps=5) as log:
        log.write("train", 3, loss=0.5)
        log.write("val", 3, loss=float("nan"))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(r["step"], r["kind"], r["loss"]) for r in records] == [
        (1, "train", 1.0),
        (2, "train", 0.5),
        (3, "train", 0.5),
        (3, "val", None),
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_loss_that_is_not_finite_names_the_batch():
    check_finite(1.0, ["a"])
    with pytest.raises(UserError, match=r"the loss is nan on the batch a, b"):
        check_finite(float("nan"), ["a", "b"])


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
