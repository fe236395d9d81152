"""The commands from end to end, on small sets and the tiny preset."""

import json
import math

import pytest

from trainer import evaluate, finetune, pretrain
from trainer.checkpoint import latest, read_state
from trainer.runs import group_hashes, read_config, read_groups
from trainer.splits import hash_groups

TINY = ["--preset", "tiny", "--batch-size", "4"]


def records(run, kind="train"):
    lines = (run / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_pretraining_leaves_a_whole_run(runs):
    run = runs / "pretrained"
    config = read_config(run)
    assert (config.kind, config.name, config.labels) == ("pretrain", "slow-fast tiny", None)
    logged = records(run)
    assert [record["step"] for record in logged] == [1, 2]
    parts = [logged[0][f"mse/{role}"] for role in ("video_slow", "video_fast", "audio_slow", "audio_fast")]
    assert logged[0]["loss"] == pytest.approx(math.fsum(parts), rel=1e-5)
    assert {"mse/audio_slow/log-mel", "mean/audio_slow/phase", "mse/video_fast/red"} <= set(logged[0])
    assert read_state(latest(run))["batchnorm_reestimated"]
    assert list((run / "tensorboard").iterdir())


def test_pretraining_reads_no_more_of_a_labelled_set_than_its_training_samples(tmp_path, sets, capsys):
    short = ["--runs", str(tmp_path), "--max-steps", "1", "--pictures-every", "0", *TINY]
    pretrain.main(["--shards", str(sets / "mved"), *short])
    said = capsys.readouterr().out
    assert "12 samples" in said
    (run,) = tmp_path.glob("pretrain-slow-fast-tiny-*")
    assert said.endswith(f"page: {run}/report.html\n")
    assert read_config(run).labels is None


def test_finetuning_learns_validates_and_keeps_the_best(runs):
    run = runs / "finetuned"
    assert [record["step"] for record in records(run)] == list(range(1, 10))
    validations = records(run, "val")
    assert [record["step"] for record in validations] == [3, 6, 9]
    best = max(validations, key=lambda record: (record["accuracy"], -record["loss"], -record["step"]))
    state = read_state(latest(run, "best"))
    assert (state["step"], state["batchnorm_reestimated"]) == (best["step"], True)
    assert read_config(run).init == {
        "run": str(runs / "pretrained"),
        "step": 2,
        **read_config(runs / "pretrained").identity,
    }


def test_auto_takes_the_newest_fitting_run_and_says_so_on_the_first_line(runs, sets, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--runs", str(runs), "--max-steps", "1"]
    finetune.main(["--shards", str(sets / "mved"), *out, *TINY])
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"init: {runs}/pretrained at step 2, ")
    assert "tensors" in first


def test_auto_warns_and_starts_from_scratch_where_nothing_fits(runs, sets, tmp_path, capsys):
    flags = ["--network", "music-video", "--modality", "audio", "--max-steps", "1"]
    finetune.main(["--shards", str(sets / "mved"), "--out", str(tmp_path / "run"), "--runs", str(runs), *flags, *TINY])
    said = capsys.readouterr()
    assert said.out.splitlines()[0].startswith(f"init: scratch (no pretrained run in {runs} fits; for one, ")
    assert said.err.startswith("warning: training starts from scratch")
    assert read_config(tmp_path / "run").init is None


def test_without_a_val_split_whole_source_groups_are_drawn_and_said(unsplit, tmp_path, capsys):
    flags = ["--modality", "audio", "--max-steps", "1", "--init", "scratch", "--val-fraction", "0.25"]
    finetune.main(["--shards", str(unsplit), "--out", str(tmp_path / "run"), *flags, *TINY])
    out = capsys.readouterr().out
    assert "data: 6 training samples" in out
    assert "validation: 2 samples of 1 source groups drawn from train" in out
    assert "next: " not in out  # there is no test split to score
    trained, chosen_by = read_groups(tmp_path / "run")
    assert (len(trained), len(chosen_by)) == (3, 1)
    assert trained | chosen_by == set(group_hashes(f"g{i}" for i in range(4)))


def test_evaluation_writes_scores_predictions_and_pictures(runs, sets, tmp_path, capsys):
    out = tmp_path / "scores"
    evaluate.main(
        ["--run", str(runs / "finetuned"), "--shards", str(sets / "mved"), "--split", "test", "--out", str(out)]
    )
    scores = json.loads((out / "metrics.json").read_text())
    assert scores["n"] == 6
    assert scores["labels"] == ["Calm", "Loud", "Sad"]
    assert scores["accuracy"] == 1.0  # the classes differ in colour and in sound
    low, high = scores["accuracy_interval"]
    assert (round(low, 3), high) == (0.610, 1.0)
    assert sum(map(sum, scores["confusion"])) == 6
    assert {"macro_f1", "macro_f1_rounded", "roc_auc", "confusion"} <= set(scores)
    assert scores["leaked_groups"] == 0
    rows = (out / "predictions.csv").read_text().splitlines()
    assert rows[0] == "key,group,label,predicted,Calm,Loud,Sad"
    assert len(rows) == 7
    assert "accuracy 1.000 (95% 0.610 to 1.000)" in capsys.readouterr().out


def test_evaluation_on_groups_that_were_trained_on_warns_with_their_number(runs, sets, tmp_path, capsys):
    evaluate.main(
        ["--run", str(runs / "finetuned"), "--shards", str(sets / "mved"), "--split", "train", "--out", str(tmp_path)]
    )
    assert "warning: 12 of the 12 source groups of split train were trained on" in capsys.readouterr().err
    assert json.loads((tmp_path / "metrics.json").read_text())["leaked_groups"] == 12


def test_evaluation_does_not_depend_on_batch_size_nor_workers(runs, sets, tmp_path):
    said = []
    for name, flags in [
        ("a", ["--batch-size", "1"]),
        ("b", ["--batch-size", "4", "--workers", "2", "--device", "cpu"]),
    ]:
        out = tmp_path / name
        evaluate.main(["--run", str(runs / "finetuned"), "--shards", str(sets / "mved"), "--out", str(out), *flags])
        said.append(sorted((out / "predictions.csv").read_text().splitlines()))
    assert [row.rsplit(",", 3)[0] for row in said[0]] == [row.rsplit(",", 3)[0] for row in said[1]]


def test_pretraining_validates_on_source_groups_that_it_never_trains_on(make_set, tmp_path, capsys):
    root = make_set(tmp_path / "set", splits={"unlabeled": [None] * 12}, labels=None, modality="audio")
    run = tmp_path / "run"
    flags = ["--shards", str(root), "--out", str(run), "--val-fraction", "0.3", "--epochs", "2", "--bn-batches", "2"]
    pretrain.main([*flags, *TINY])
    out = capsys.readouterr().out
    names = {f"unlabeled-{i}" for i in range(12)}
    held_out = hash_groups(names, fraction=0.3)
    assert f"validation: {len(held_out)} samples of {len(held_out)} source groups set aside" in out
    assert read_groups(run) == (set(group_hashes(names - held_out)), set())  # without a probe nothing is chosen
    told = records(run, "val")
    assert [record["step"] for record in told] == [2, 4]
    assert all(record["loss"] > 0 and record["mse/audio_slow/log-mel"] > 0 for record in told)
    assert out.count("validation loss") == 2
