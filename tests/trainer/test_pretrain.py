"""Pretraining as a whole: what it hides, derives, judges, draws and hands on."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer import evaluate, finetune, pretrain, record
from trainer.checkpoint import latest, read_state
from trainer.runs import group_hashes, read_config, read_groups

ROOT = Path(__file__).parents[2]
TINY = ["--preset", "tiny", "--batch-size", "2", "--lr", "1e-3"]
PLAIN = [*TINY, "--pictures-every", "0", "--bn-batches", "1"]


def records(run, kind=None):
    """Every record but what the clock says."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    shown = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    return [line for line in shown if kind in (None, line["kind"])]


@pytest.fixture(scope="module")
def masked(sets, make_set, tmp_path_factory):
    """Flags of a masked run of three steps, probed by a small set after two and at the end."""
    probe = make_set(tmp_path_factory.mktemp("probe") / "set", splits={"train": [0, 1, 2], "val": [0, 1, 2]}, seed=2)
    flags = ["--objective", "masked", "--max-steps", "3", "--probe", str(probe), "--probe-every", "2"]
    return ["--shards", str(sets / "unlabeled"), *flags, *PLAIN]


@pytest.fixture(scope="module")
def judged(masked, tmp_path_factory):
    """Such a run, not changed by any test."""
    run = tmp_path_factory.mktemp("pretrain") / "judged"
    torch.set_num_threads(1)
    pretrain.main([*masked, "--out", str(run)])
    return run


def test_masked_pretraining_logs_both_objectives_and_what_the_probe_says(judged):
    steps = records(judged, "train")
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step in steps:
        roles = ("video_slow", "video_fast", "audio_slow", "audio_fast")
        assert step["loss"] == pytest.approx(sum(step[f"mse/{role}"] for role in roles) + 0.01 * step["contrast"], 1e-4)
        assert step["contrast/temperature"] == pytest.approx(0.07, rel=0.01)
        assert 0 <= step["contrast/found"] <= 1
    assert steps[0]["contrast/temperature"] != steps[-1]["contrast/temperature"]  # it is learnt
    untrained, *later = records(judged, "probe")
    assert [untrained["step"], *(line["step"] for line in later)] == [0, 2, 3]
    assert read_groups(judged)[1] == set(group_hashes(f"val-{i}" for i in range(3)))  # the probe's choose the best
    best = max(later, key=lambda line: (line["linear_accuracy"], line["knn_accuracy"], -line["step"]))
    state = read_state(latest(judged, "best"))
    assert state["step"] == best["step"]
    assert state["batchnorm_reestimated"]
    assert best == state["probe"] | {"kind": "probe"}


def test_masked_pretraining_stopped_and_resumed_comes_to_the_unbroken_curve_bit_for_bit(
    judged, masked, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "stopped"
    write = record.RunLog.write

    def write_then_stop(log, kind, step, **values):
        write(log, kind, step, **values)
        if (kind, step) == ("train", 2):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(record.RunLog, "write", write_then_stop)
        with pytest.raises(SystemExit):
            pretrain.main([*masked, "--out", str(run)])
    pretrain.main(["--out", str(run), "--resume"])
    assert f"resume: {run} at step 2" in capsys.readouterr().out
    assert records(run) == records(judged)
    assert read_state(latest(run))["best"] == read_state(latest(judged))["best"]


def test_finetuning_starts_from_what_the_probe_found_best_and_says_so(judged, sets, tmp_path, capsys):
    best = read_state(latest(judged, "best"))["step"]
    flags = ["--shards", str(sets / "mved"), "--max-steps", "1", "--preset", "tiny", "--out", str(tmp_path / "run")]
    finetune.main([*flags, "--init", str(judged)])
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"init: {judged} at step {best}, the best by its probe, 216 tensors")
    assert read_config(tmp_path / "run").init == {"run": str(judged), "step": best, **read_config(judged).identity}


def test_a_reconstruction_goes_on_from_a_masked_run_and_the_other_way_round(judged, sets, runs, tmp_path, capsys):
    flags = ["--shards", str(sets / "unlabeled"), "--max-steps", "1", *PLAIN]
    pretrain.main([*flags, "--init", str(judged), "--out", str(tmp_path / "reconstruction")])
    pretrain.main([*flags, "--init", str(runs / "pretrained"), "--objective", "masked", "--out", str(tmp_path / "m")])
    firsts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("init: ")]
    assert "the best by its probe" in firsts[0]
    assert f"{runs / 'pretrained'} at step 2, " in firsts[1]


def test_source_groups_that_are_pretrained_on_and_scored_are_counted(make_set, sets, tmp_path, capsys):
    root = make_set(
        tmp_path / "set",
        splits={"unlabeled": [None] * 6},
        labels=None,
        groups=lambda split, i: f"val-{i}" if i < 4 else f"other-{i}",
    )
    flags = ["--shards", str(root), "--modality", "audio", "--max-steps", "1", "--out", str(tmp_path / "run"), *PLAIN]
    pretrain.main([*flags, "--probe", str(sets / "mved")])
    assert "warning: 4 source groups that the probe scores are pretrained on" in capsys.readouterr().err


def test_pictures_of_two_clips_are_drawn_every_so_many_steps_and_at_the_end(sets, tmp_path):
    run = tmp_path / "run"
    flags = ["--shards", str(sets / "unlabeled"), "--modality", "audio", "--objective", "masked", "--phase", "none"]
    pretrain.main([*flags, "--max-steps", "3", "--pictures-every", "2", "--out", str(run), *TINY])
    names = sorted(path.name for path in (run / "pictures").iterdir())
    assert names == [f"step-{step:08d}-{clip}.png" for step in (2, 3) for clip in (0, 1)]
    pixels = imread(run / "pictures" / names[0])
    assert pixels.shape[1] == 1200
    assert pixels.std() > 0.1
    assert not np.array_equal(pixels, imread(run / "pictures" / names[1]))
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert {tag: [image.step for image in board.Images(tag)] for tag in board.Tags()["images"]} == {
        "clip/0": [2, 3],
        "clip/1": [2, 3],
    }


@pytest.mark.parametrize(
    "phase", ["cos-sin", *(pytest.param(phase, marks=pytest.mark.slow) for phase in ("angle", "inst-freq", "none"))]
)
def test_a_phase_goes_with_the_run_through_finetuning_and_evaluation(make_set, tmp_path, phase):
    splits = {"train": [0, 1, 2] * 2, "val": [0, 1, 2], "test": [0, 1, 2]}
    root = str(make_set(tmp_path / "set", splits=splits, modality="audio", recipe={"phase": "angle", "denoise": 0.2}))
    flags = ["--shards", root, "--modality", "audio", "--max-steps", "1", "--preset", "tiny", "--phase", phase]
    joint = ["--normalization", "joint"] if phase == "cos-sin" else []
    pretrain.main([*flags, *joint, "--pictures-every", "0", "--out", str(tmp_path / "pretrained")])
    finetune.main([*flags, *joint, "--init", str(tmp_path / "pretrained"), "--out", str(tmp_path / "tuned")])
    evaluate.main(["--run", str(tmp_path / "tuned"), "--shards", root])
    channels = {"angle": 2, "cos-sin": 3, "inst-freq": 2, "none": 1}[phase]
    for run in (tmp_path / "pretrained", tmp_path / "tuned"):
        config = read_config(run)
        assert config.network["phase"] == phase
        for moments in config.normalization.values():
            assert len(moments["mean"]) == len(moments["std"]) == channels
            assert (len(set(moments["std"])) == 1) == (bool(joint) or channels == 1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--output-weights", "video_slow=x"], "--output-weights video_slow=x: give role=weight"),
        (["--output-weights", "video=1"], "--output-weights video: the network has no such pathway; it has video_slow"),
        (["--mask-video", "1"], "--mask-video 1.0: give 0 or more, less than 1"),
        (["--objective", "masked", "--mask-video", "0", "--mask-audio", "0"], "with nothing hidden"),
        (["--objective", "masked", "--modality", "audio", "--mask-audio", "0"], "with nothing hidden"),
        (["--objective", "masked", "--mask-video", "0.005", "--mask-audio", "0.001"], "with nothing hidden"),
        (["--contrastive-weight", "0.1"], "is for --objective masked --modality both"),
        (
            ["--objective", "masked", "--modality", "video", "--contrastive-weight", "0.1"],
            "is for --objective masked --modality both",
        ),
        (["--probe-every", "0"], "--probe-every 0: give 1 or more"),
        (["--probe-every", "7"], "--probe-every 7 is for --probe DIR; give that, or leave it out"),
        (["--mask-video", "0.3"], "--mask-video 0.3 is for --objective masked; give that, or leave it out"),
        (["--aux-weight", "9"], "--aux-weight 9.0: slow-fast has no auxiliary outputs; leave it out"),
        (["--pictures-every", "-1"], "--pictures-every -1: give 0 or more"),
    ],
)
def test_flags_that_cannot_work_are_refused_with_the_mend(refused, sets, flags, words):
    assert words in refused(pretrain.main, "--shards", sets / "unlabeled", *TINY, *flags)


def test_contrast_without_another_clip_in_the_batch_is_warned_of(capsys):
    masked = pretrain.Config(shards="x", objective="masked", modality="both", batch_size=1, devices=1)
    for cfg in (masked, replace(masked, devices=2), replace(masked, batch_size=2), replace(masked, modality="audio")):
        pretrain.check_objective(cfg)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: --batch-size 1 leaves ")


def test_weights_of_outputs_are_remembered_by_a_resumed_run(sets, tmp_path, refused):
    run = tmp_path / "run"
    flags = ["--shards", str(sets / "unlabeled"), "--modality", "audio", "--max-steps", "1", "--out", str(run), *PLAIN]
    pretrain.main([*flags, "--output-weights", "audio_slow=0", "audio_fast=2"])
    (first,) = records(run, "train")
    assert first["loss"] == pytest.approx(2 * first["mse/audio_fast"])
    pretrain.main(["--out", str(run), "--resume", "--max-steps", "2"])
    second = records(run, "train")[1]
    assert second["loss"] == pytest.approx(2 * second["mse/audio_fast"])
    changed = ["--resume", "--output-weights", "audio_slow=1"]
    assert "begun with ['audio_slow=0', 'audio_fast=2']" in refused(pretrain.main, "--out", run, *changed)


@pytest.mark.slow
def test_two_processes_mask_compare_probe_and_draw_together(masked, tmp_path):
    run = tmp_path / "run"
    flags = [*masked, "--device", "cpu", "--devices", "2", "--pictures-every", "2", "--out", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "trainer.pretrain", *flags], cwd=ROOT, env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    assert [(line["kind"], line["step"]) for line in records(run)] == [
        ("probe", 0),
        ("train", 1),
        ("train", 2),
        ("probe", 2),
        ("train", 3),
        ("probe", 3),
    ]
    assert all(0 < line["contrast"] < 6 for line in records(run, "train"))
    assert all(line["n"] == 3 for line in records(run, "probe"))
    assert len(list((run / "pictures").iterdir())) == 4
