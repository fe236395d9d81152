"""What trainer.evaluate leaves: scores that can be computed again, comparisons, leaks; all of it or nothing."""

import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainer import evaluate, finetune
from trainer.evaluate import RESULTS
from trainer.metrics import score
from trainer.predictions import read_predictions
from trainer.runs import group_hashes, read_config
from trainer.shards import ShardSet, groups_of


def flags(runs, sets, out, *more):
    words = ["--run", runs / "finetuned", "--shards", sets / "mved", "--out", out, "--bootstrap", "100", *more]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def scored(runs, sets, tmp_path_factory):
    """Results of the run on the training split, whose scores are not perfect, and compared with a rival's."""
    root = tmp_path_factory.mktemp("scored")
    evaluate.main(flags(runs, sets, root / "rival", "--split", "train"))
    spoil(root / "rival")
    evaluate.main(flags(runs, sets, root / "this", "--split", "train", "--against", root / "rival"))
    return root


def spoil(folder):
    """Have a rival take the first three samples for the next class."""
    path = folder / "predictions.csv"
    head, *rows = path.read_text().splitlines()
    for i in range(3):
        key, group, label, _, *p = rows[i].split(",")
        rows[i] = ",".join([key, group, label, "", *(p[-1:] + p[:-1])])
    path.write_text("\n".join([head, *rows]) + "\n")


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_everything_is_written_and_the_scores_follow_from_the_predictions(scored):
    out = scored / "this"
    assert {path.name for path in out.iterdir()} == set(RESULTS)
    told = metrics(out)
    said = read_predictions(out / "predictions.csv", told["labels"])
    again = score(said.truth, said.probabilities, told["labels"])
    assert {name: told[name] for name in again} == again
    one_hot = np.eye(3, dtype=int)[said.truth]
    assert told["roc_auc"] == pytest.approx(roc_auc_score(one_hot, said.probabilities, average="macro"))
    assert told["cluster_bootstrap"]["groups"] == told["source_groups"] == 12
    assert told["cluster_bootstrap"]["resamples"] == 100


def test_predictions_stand_in_the_order_of_the_tars_with_their_source_groups(scored, sets):
    data = ShardSet.open(str(sets / "mved"))
    shards = data.split("train")
    said = read_predictions(scored / "this" / "predictions.csv", data.class_names)
    assert said.keys == [key for shard in shards for key in shard.keys]
    assert sorted(said.groups) == group_hashes(groups_of(shards))


def test_a_rival_is_compared_on_the_same_samples(scored):
    (told,) = metrics(scored / "this")["against"]
    mcnemar = told["mcnemar"]
    assert mcnemar["only_this"] + mcnemar["only_other"] + mcnemar["both"] + mcnemar["neither"] == 12
    assert mcnemar["only_this"] == 3
    assert told["difference"]["accuracy"]["value"] == pytest.approx(3 / 12)
    low, high = told["difference"]["accuracy"]["interval"]
    assert low <= 3 / 12 <= high
    assert told["run"].endswith("finetuned")


def test_groups_seen_in_pretraining_are_named_and_the_rest_is_scored_without_them(
    runs, sets, tmp_path, capsys, monkeypatch
):
    shutil.copytree(runs, tmp_path / "runs")
    init = read_config(runs / "finetuned").init["run"]
    config = tmp_path / "runs" / "finetuned" / "config.json"
    config.write_text(config.read_text().replace(init, str(tmp_path / "runs" / "pretrained")))
    groups = groups_of(ShardSet.open(str(sets / "mved")).split("test"))
    (tmp_path / "runs" / "pretrained" / "groups.json").write_text(json.dumps(group_hashes(groups[:2])))
    evaluate.main(flags(tmp_path / "runs", sets, tmp_path / "out"))
    told = metrics(tmp_path / "out")
    assert [(one["phase"], one["groups"], one["samples"]) for one in told["leaks"]] == [
        ("finetune", 0, 0),
        ("pretrain", 2, 2),
    ]
    assert told["leaked_groups"] == 2
    assert (told["without_leaked"]["n"], told["without_leaked"]["source_groups"]) == (4, 4)
    assert "2 of the 6 source groups of split test were trained on by the run it starts from" in capsys.readouterr().err


def test_groups_drawn_from_train_to_validate_on_count_as_seen(unsplit, tmp_path, capsys):
    short = ["--preset", "tiny", "--batch-size", "2", "--max-steps", "1", "--init", "scratch", "--val-fraction", "0.25"]
    run = tmp_path / "run"
    finetune.main(["--shards", str(unsplit), "--out", str(run), *short])
    evaluate.main(["--run", str(run), "--shards", str(unsplit), "--split", "train", "--bootstrap", "100"])
    told = metrics(run)
    assert [(one["groups"], one["chosen_by"]) for one in told["leaks"]] == [(3, 1)]
    assert (told["leaked_groups"], told["without_leaked"]) == (4, None)
    words = "1 of the 4 source groups of split train chose the checkpoint by their scores: scores are flattered"
    assert words in told["warnings"]
    assert f"warning: {words}\n" in capsys.readouterr().err
    assert words in (run / "report.html").read_text()


def test_the_split_that_chose_the_checkpoint_is_warned_of_known_or_not(runs, sets, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    evaluate.main(flags(tmp_path / "runs", sets, tmp_path / "known", "--split", "val"))
    words = "6 of the 6 source groups of split val chose the checkpoint by their scores: scores are flattered"
    assert metrics(tmp_path / "known")["warnings"] == [words]
    groups = tmp_path / "runs" / "finetuned" / "groups.json"
    groups.write_text(json.dumps(json.loads(groups.read_text())["trained"]))  # as an earlier release wrote it
    evaluate.main(flags(tmp_path / "runs", sets, tmp_path / "unknown", "--split", "val"))
    (told,) = metrics(tmp_path / "unknown")["warnings"]
    assert told.startswith("which source groups chose the checkpoint by their scores is not known")


def test_results_are_written_whole_or_not_at_all(runs, sets, tmp_path, refused, monkeypatch):
    out = tmp_path / "out"
    evaluate.main(flags(runs, sets, out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "plot_per_class", full)
    line = refused(evaluate.main, *flags(runs, sets, out, "--split", "val"))
    assert "the results cannot be written" in line
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_picture_of_an_earlier_evaluation_does_not_outlive_it(scored, runs, sets, tmp_path):
    shutil.copytree(scored / "this", tmp_path / "out")
    assert (tmp_path / "out" / "roc-compared.png").exists()
    evaluate.main(flags(runs, sets, tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(RESULTS) - {"roc-compared.png"}


def test_one_sample_and_one_class_are_scored_and_say_what_is_not_defined(runs, make_set, tmp_path, capsys):
    splits = {"train": [0, 1, 2], "val": [1, 1, 1], "test": [2]}
    root = make_set(tmp_path / "set", splits=splits, groups=lambda split, i: f"{split}-other-{i}")
    for split, n in [("test", 1), ("val", 3)]:
        words = ["--run", runs / "finetuned", "--shards", root, "--split", split, "--out", tmp_path / split]
        evaluate.main([str(word) for word in words])
        told = metrics(tmp_path / split)
        assert (told["n"], told["roc_auc"], told["mean_roc"]) == (n, None, None)
        assert "there is no other class to tell it from" in told["roc_auc_reason"]
        assert "ROC-AUC not defined" in capsys.readouterr().out
    assert metrics(tmp_path / "test")["cluster_bootstrap"]["accuracy"] is None
    assert metrics(tmp_path / "val")["cluster_bootstrap"]["accuracy"] is not None


def test_what_cannot_be_scored_or_compared_is_refused_in_one_line(scored, runs, sets, make_set, tmp_path, refused):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "bare"
    shutil.copytree(runs / "finetuned", bare, ignore=shutil.ignore_patterns("checkpoints"))
    other = make_set(tmp_path / "other", splits={"test": [0, 1]}, labels=["x", "y", "z"])
    rival = ["--against", scored / "rival"]
    for changes, words in [
        (["--out", tmp_path / "file"], "file is no folder; name another"),
        (["--out", tmp_path / "file" / "below"], "file is no folder; name another"),
        (["--run", bare], "bare has no checkpoint yet"),
        (["--run", runs / "pretrained"], "is a pretrain run; a finetune run is needed here"),
        (["--run", tmp_path / "empty"], "is no run"),
        (["--shards", other], "was trained on the labels Calm, Loud, Sad; the set has x, y, z"),
        (["--split", "unlabeled"], "has no split 'unlabeled'"),
        (["--against", tmp_path / "empty"], "no metrics.json there; score that run first"),
        (["--against", tmp_path / "file"], "no metrics.json there; score that run first"),
        ([*rival, "--out", scored / "rival"], "these are the results to be written"),
        ([*rival, "--split", "test"], "rival/predictions.csv is of other samples: it lacks"),
        (["--bootstrap", "5"], "--bootstrap 5: give 100 or more"),
    ]:
        assert words in refused(evaluate.main, *flags(runs, sets, tmp_path / "out"), *changes)
    assert not (tmp_path / "out").exists()


def test_sound_and_picture_alone_are_scored_where_the_run_was_trained_for_it(runs, sets, tmp_path):
    config = json.loads((runs / "finetuned" / "config.json").read_text())
    shutil.copytree(runs, tmp_path / "runs")
    config["train"]["modality_dropout"] = 0.2
    (tmp_path / "runs" / "finetuned" / "config.json").write_text(json.dumps(config))
    evaluate.main(flags(tmp_path / "runs", sets, tmp_path / "out"))
    told = metrics(tmp_path / "out")
    assert told["modalities_reason"] is None
    assert {name: one["n"] for name, one in told["modalities"].items()} == {"audio": 6, "video": 6}
