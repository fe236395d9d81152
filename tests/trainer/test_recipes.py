"""Recipes and their parts, by the real command: what they set, what they train, and that they resume bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.waiting import wait_until
from trainer import finetune, record
from trainer.checkpoint import latest, read_state
from trainer.recipes import RECIPES
from trainer.runs import read_config

ROOT = Path(__file__).parents[2]
AUDIO = ["--preset", "tiny", "--modality", "audio", "--batch-size", "4", "--init", "scratch", "--bn-batches", "2"]


def curve(run):
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in record.items() if name != "seconds"} for record in lines]


def weights(run, series="step", file="model"):
    return load_file(latest(run, series) / f"{file}.safetensors")


def test_a_recipe_sets_defaults_and_a_flag_given_wins_whatever_its_value(sets, tmp_path):
    flags = ["--shards", str(sets / "mved"), "--max-steps", "1", *AUDIO]
    finetune.main([*flags, "--out", str(tmp_path / "plain")])
    plain = read_config(tmp_path / "plain").train
    assert (plain["recipe"], plain["lr"], plain["mixup"], plain["balanced"]) == ("paper", 1e-4, 0.0, False)

    given = ["--mixup", "0.0", "--no-balanced", "--lr", "1e-4"]  # the class's own defaults
    finetune.main([*flags, "--out", str(tmp_path / "strong"), "--recipe", "strong", *given])
    strong = read_config(tmp_path / "strong").train
    assert (strong["recipe"], strong["lr"], strong["mixup"], strong["balanced"]) == ("strong", 1e-4, 0.0, False)
    kept = set(RECIPES["strong"]) - {"mixup", "balanced", "lr", "augment_video", "modality_dropout"}
    assert {name: strong[name] for name in kept} == {name: RECIPES["strong"][name] for name in kept}


def test_the_help_of_a_recipe_shows_its_values(capsys):
    with pytest.raises(SystemExit):
        finetune.main(["--recipe", "strong", "--help"])
    assert "(default: 0.75)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recipe", "best"], "best"),
        (["--layer-decay", "0"], "--layer-decay 0.0: give more than 0, at most 1"),
        (["--ema", "1"], "--ema 1.0: give 0 or more, less than 1"),
        (["--mixup", "-1"], "--mixup -1.0: give 0 or more"),
        (["--recipe", "strong", "--epochs", "2"], "--probe-epochs 2 leaves none of --epochs 2 for the encoder"),
    ],
)
def test_what_cannot_work_is_refused(refused, flags, said):
    assert said in refused(finetune.main, "--shards", "nowhere", *flags)


def test_probing_moves_the_head_alone_and_then_all_moves(sets, tmp_path, capsys):
    flags = ["--shards", str(sets / "mved"), *AUDIO, "--checkpoint-every", "1", "--lr", "1e-2"]
    states = {}
    for name, more in {
        "start": ["--probe-epochs", "1", "--max-steps", "1"],
        "probed": ["--probe-epochs", "1", "--max-steps", "3"],
        "tuned": ["--probe-epochs", "1", "--max-steps", "4"],
        "frozen": ["--freeze", "--epochs", "2"],
    }.items():
        finetune.main([*flags, "--out", str(tmp_path / name), *more])
        states[name] = weights(tmp_path / name)
    out = capsys.readouterr().out
    assert "probe: the first 3 steps train the head alone" in out
    assert "probe: all steps train the head alone" in out

    rates = [record["lr"] for record in curve(tmp_path / "tuned") if record["kind"] == "train"]
    assert rates == [1e-3] * 3 + [1e-2]

    def moved(one, other):
        return {name.split(".")[0] for name in states[one] if not torch.equal(states[one][name], states[other][name])}

    assert moved("start", "probed") == moved("probed", "frozen") == {"head"}  # batch norm's statistics included
    assert moved("probed", "tuned") == {"head", "encoder", "mean_embedding"}
    assert states["start"]["encoder.stages.0.blocks.audio_slow.norm_out.running_mean"].abs().min() > 0


def test_probing_lasts_its_epochs_whatever_epochs_says(sets, tmp_path, capsys):
    flags = ["--shards", str(sets / "mved"), "--out", str(tmp_path / "run"), *AUDIO, "--max-steps", "8"]
    finetune.main([*flags, "--epochs", "1", "--probe-epochs", "2", "--eval-every", "8"])
    assert "probe: the first 6 steps train the head alone" in capsys.readouterr().out


def test_the_average_of_the_weights_is_what_is_judged_and_kept_as_best(sets, tmp_path):
    run = tmp_path / "run"
    flags = ["--shards", str(sets / "mved"), "--out", str(run), *AUDIO, "--lr", "1e-2", "--ema", "0.9"]
    finetune.main([*flags, "--max-steps", "3"])
    best, raw, ema = weights(run, "best"), weights(run), weights(run, file="ema")
    assert all(torch.equal(best[name], ema[f"module.{name}"]) for name in best)
    assert not torch.equal(best["head.weight"], raw["head.weight"])
    assert torch.equal(best["mean_embedding"], raw["mean_embedding"])
    assert read_state(latest(run, "best"))["batchnorm_reestimated"]
    assert not read_state(latest(run))["batchnorm_reestimated"]


def test_the_length_of_a_run_whose_rate_is_planned_cannot_be_changed(sets, tmp_path, refused):
    run = tmp_path / "run"
    flags = ["--shards", str(sets / "mved"), "--out", str(run), *AUDIO]
    finetune.main([*flags, "--max-steps", "2", "--cosine"])
    rates = [record["lr"] for record in curve(run) if record["kind"] == "train"]
    assert rates == pytest.approx([1e-4, 0.5e-4])
    line = refused(finetune.main, "--out", run, "--resume", "--max-steps", "4")
    assert f"--max-steps 4, but {run} was begun with 2" in line


STRONG = ["--preset", "tiny", "--batch-size", "4", "--init", "scratch", "--recipe", "strong", "--probe-epochs", "1"]
STRONG += ["--epochs", "2", "--checkpoint-every", "2", "--bn-batches", "2", "--modality-dropout", "0.4"]


def test_the_strong_recipe_stopped_and_resumed_is_the_unbroken_run_bit_for_bit(make_set, tmp_path, monkeypatch):
    uneven = make_set(tmp_path / "set", splits={"train": [0, 0, 0, 1, 2], "val": [0, 1, 2]}, shard_size=2)
    flags = ["--shards", str(uneven), *STRONG]
    finetune.main([*flags, "--out", str(tmp_path / "unbroken")])

    stopped = tmp_path / "stopped"
    write = record.RunLog.write

    def write_then_stop(log, kind, step, **values):
        write(log, kind, step, **values)
        if kind == "train" and step in stops:
            stops.remove(step)
            signal.raise_signal(signal.SIGTERM)

    stops = {2, 4}  # while probing, and after it
    monkeypatch.setattr(record.RunLog, "write", write_then_stop)
    more = [*flags, "--out", str(stopped)]
    while stops:
        with pytest.raises(SystemExit):
            finetune.main(more)
        more = ["--out", str(stopped), "--resume"]
    finetune.main(more)
    assert curve(stopped) == curve(tmp_path / "unbroken")
    for series, file in (("step", "model"), ("step", "ema"), ("best", "model")):
        mine, theirs = weights(stopped, series, file), weights(tmp_path / "unbroken", series, file)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_the_strong_recipe_killed_resumes_to_the_unbroken_run(sets, tmp_path):
    flags = ["--shards", str(sets / "mved"), *STRONG]
    finetune.main([*flags, "--out", str(tmp_path / "unbroken")])
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOWED, *flags, "--out", str(killed)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    log = killed / "log.jsonl"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 6, runs=process)
    process.kill()
    process.wait()
    finetune.main(["--out", str(killed), "--resume"])
    assert curve(killed) == curve(tmp_path / "unbroken")


_SLOWED = """
import sys, time, torch
torch.set_num_threads(1)
from trainer import finetune
optimise = finetune.optimise
finetune.optimise = lambda *args, **named: (time.sleep(0.5), optimise(*args, **named))[1]
finetune.main(sys.argv[1:])
"""


def test_the_strong_recipe_still_learns_one_batch_by_heart(make_set, tmp_path):
    few = make_set(tmp_path / "set", splits={"train": [0, 1, 2] * 2, "val": [0, 1, 2] * 2}, seed=3, modality="audio")
    run = tmp_path / "run"
    learning = ["--recipe", "strong", "--lr", "1e-2", "--batch-size", "6", "--epochs", "40", "--eval-every", "10"]
    finetune.main(["--shards", str(few), "--out", str(run), *AUDIO, *learning])
    assert read_state(latest(run, "best"))["validation"]["accuracy"] == 1.0
