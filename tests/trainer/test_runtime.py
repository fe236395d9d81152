"""Flags, signals, checks, and errors as one line."""

import io
import os
import signal
import sys
from dataclasses import dataclass

import pytest
import torch

from trainer.errors import UserError
from trainer.runtime import entry, leave, parse, require, say
from trainer.signals import interrupted_by_signals, stop_on_signal


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
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left"), "--workers", 2),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "--shuffle-buffer", 2),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "--workers", 2),
        (KeyboardInterrupt(), "interrupted", 130),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(error)
        assert stop.value.code == status
        assert words in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(RuntimeError("a mistake of ours"))


@pytest.mark.parametrize("lines", [1, 100_000])
def test_who_stops_reading_standard_output_ends_the_command_quietly(lines, monkeypatch, capsys):
    @entry
    def main(argv=None):
        print("word\n" * lines)

    before = os.dup(1)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    try:
        with os.fdopen(1, "w", closefd=False) as output, monkeypatch.context() as patched:
            patched.setattr("sys.stdout", output)
            with pytest.raises(SystemExit) as stop:
                main()
            output.write("more")  # at exit
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(writer)
    assert stop.value.code == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


def test_a_pipe_that_breaks_elsewhere_is_no_quiet_end():
    @entry
    def main(argv=None):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        main()


def test_the_second_sigterm_exits_as_the_first_would():
    @entry
    def main(argv=None):
        with stop_on_signal():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 128 + signal.SIGTERM


@pytest.fixture
def default_signals():
    """Signals as a terminal's commands have them, though the tests themselves may run under nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_by_a_signal_puts_away_what_it_began_whatever_comes_after(number, capsys):
    put_away = []

    @entry
    @interrupted_by_signals()
    def main(argv=None):
        try:
            signal.raise_signal(number)
            put_away.append("it went on")
        finally:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            put_away.append("all")

    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code, put_away) == (128 + number, ["all"])
    assert capsys.readouterr().err == "error: interrupted\n"
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_command_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupted_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_terminal_cannot_show_is_told_all_the_same(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    say("café \u6f22 \udce9")
    assert terminal.buffer.getvalue() == b"caf\xe9 \\u6f22 \\udce9\n"


def test_a_signal_is_noted_once_and_interrupts_the_second_time():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as left:
            leave(stop.signal, "stopped")
        assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
