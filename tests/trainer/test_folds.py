"""Cross-validation: what is held out, what a fold is standardised by, and what comes out of all folds together."""

import csv
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pages import Page
from trainer import evaluate, finetune, report
from trainer.errors import UserError
from trainer.folds import divide, summarise
from trainer.loader import Loader
from trainer.metrics import score
from trainer.normalization import normalization_of
from trainer.order import Order
from trainer.runs import read_config
from trainer.shards import ShardSet, groups_of, num_samples, select
from trainer.splits import draw_folds

MEMBERS = ("mel_32k", "mel_22k", "mel_8k")


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_set):
    """Three clips a source, of three classes, over train and val; a test split that no fold may touch."""
    return make_set(
        tmp_path_factory.mktemp("grouped") / "set",
        splits={"train": [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2, "val": [0, 1, 2] * 3, "test": [0, 1, 2]},
        groups=lambda split, i: f"{split}-{i // 3}",
        modality="audio",
        shard_size=5,
    )


@pytest.fixture(scope="module")
def crossed(root, tmp_path_factory):
    """A finished cross-validation."""
    run = tmp_path_factory.mktemp("crossed") / "run"
    finetune.main(["--shards", str(root), "--out", str(run), "--folds", "3", *SHORT])
    return run


SHORT = ["--preset", "tiny", "--batch-size", "6", "--max-steps", "2", "--bn-batches", "1", "--init", "scratch"]


@settings(deadline=None, max_examples=50)
@given(
    samples=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=60),
    num_folds=st.integers(2, 5),
)
def test_every_group_is_held_out_once(samples, num_folds):
    labels, groups = [label for label, _ in samples], [f"g{group}" for _, group in samples]
    largest_class = max(Counter(labels).values())
    try:
        folds = draw_folds(labels, groups, num_folds=num_folds, seed=0)
    except UserError:  # too few groups, or too uneven ones
        assert num_folds > min(len(set(groups)), largest_class) or len(set(groups)) < len(groups)
        return
    assert len(folds) == num_folds
    assert all(folds)
    assert Counter(group for fold in folds for group in fold) == dict.fromkeys(groups, 1)


def test_folds_have_the_classes_in_proportion_and_depend_on_the_seed():
    labels = np.tile(np.arange(6), 100).tolist()
    groups = [f"g{i // 12}" for i in range(600)]
    folds = draw_folds(labels, groups, num_folds=5, seed=3)
    assert folds == draw_folds(labels, groups, num_folds=5, seed=3)
    assert folds != draw_folds(labels, groups, num_folds=5, seed=4)
    for fold in folds:
        held_out = [label for label, group in zip(labels, groups, strict=True) if group in fold]
        assert np.bincount(held_out).tolist() == [20] * 6


def test_no_group_is_on_both_sides_and_a_fold_is_standardised_by_its_training_part(root, tmp_path):
    data = ShardSet.open(str(root))
    held_out = Counter()
    for part in divide(tmp_path, data, num_folds=3, fold="all", seed=0):
        assert not set(groups_of(part.train)) & set(groups_of(part.val))
        assert num_samples(part.train) + num_samples(part.val) == 27
        held_out.update(shard.keys[row] for shard in part.val for row in shard.rows)
        order = Order(batch_size=100, shuffle=False)
        (batch,) = Loader(data, part.train, members=MEMBERS, order=order).batches()
        for name in MEMBERS:
            arrays = batch[name].numpy().astype(np.float64)
            np.testing.assert_allclose(part.normalization[name]["mean"], arrays.mean((0, 2, 3)))
            np.testing.assert_allclose(part.normalization[name]["std"], arrays.std((0, 2, 3)))
    keys = [key for shard in data.shards if shard.split != "test" for key in shard.keys]
    assert held_out == dict.fromkeys(keys, 1)
    (second,) = divide(tmp_path, data, num_folds=3, fold=1, seed=0)
    assert second.run == tmp_path / "fold-1"


def test_the_normalization_of_the_training_split_is_the_manifests(root):
    data = ShardSet.open(str(root))
    ours = normalization_of(data, data.split("train"))
    assert set(ours) == set(MEMBERS)
    for name, moments in ours.items():
        for moment, values in moments.items():
            np.testing.assert_allclose(values, data.manifest.normalization[name][moment])


def test_records_without_means_are_named(root, tmp_path, make_set, rewrite_record):
    import pyarrow.parquet as pq

    bare = make_set(tmp_path / "bare", splits={"train": [0, 1]}, modality="audio")
    record = bare / "train-000000.parquet"
    table = pq.read_table(record)
    pq.write_table(table.set_column(table.schema.get_field_index("mean_mel_8k"), "mean_mel_8k", [[None, None]]), record)
    data = ShardSet.open(str(bare))
    assert set(normalization_of(data, data.shards)) == {"mel_32k", "mel_22k"}
    pq.write_table(table.drop_columns(["mean_mel_8k"]), record)
    with pytest.raises(UserError, match=r"train-000000\.parquet cannot be read"):
        normalization_of(data, data.shards)


def test_all_folds_together_say_something_of_every_sample_once(crossed, root):
    data = ShardSet.open(str(root))
    with (crossed / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = [key for shard in data.shards if shard.split != "test" for key in shard.keys]
    assert Counter(row["key"] for row in rows) == dict.fromkeys(keys, 1)
    scores = json.loads((crossed / "metrics.json").read_text())
    assert (scores["n"], scores["source_groups"], scores["network"]) == (27, 9, "slow-fast tiny")
    assert len({row["group"] for row in rows}) == 9
    truth = np.array([data.class_names.index(row["label"]) for row in rows])
    probabilities = np.array([[float(row[label]) for label in data.class_names] for row in rows])
    expected = score(truth, probabilities, data.class_names)
    for name in ("accuracy", "accuracy_interval", "macro_f1", "confusion"):
        assert scores[name] == expected[name]
    each = scores["folds"]["accuracy"]["each"]
    assert scores["folds"]["accuracy"]["mean"] == pytest.approx(np.mean(each))
    assert scores["folds"]["accuracy"]["sd"] == pytest.approx(np.std(each, ddof=1))
    assert sum(scores["folds"]["n"]) == 27
    for number in range(3):
        config = read_config(crossed / f"fold-{number}")
        (part,) = divide(crossed, data, num_folds=3, fold=number, seed=0)
        assert config.normalization == {name: part.normalization[name] for name in ("mel_32k", "mel_8k")}


def test_the_page_of_all_folds_has_each_fold_mean_and_spread_and_the_pooled_confusion(crossed):
    page = Page(crossed)
    scores = json.loads((crossed / "metrics.json").read_text())
    assert page.sections == ["scores", "folds", "classes", "confusion", "roc", "calibration", "training", "settings"]
    assert [value.removeprefix("#") for value in page.values("href") if value.startswith("#")] == page.sections
    _, *folds, mean, spread = page.tables["Folds"]
    each = scores["folds"]["accuracy"]
    assert [row[:3] for row in folds] == [
        [str(i), str(n), f"{accuracy:.3f}"]
        for i, (n, accuracy) in enumerate(zip(scores["folds"]["n"], each["each"], strict=True))
    ]
    assert (mean[0], mean[2], spread[2]) == ("mean", f"{each['mean']:.3f}", f"{each['sd']:.3f}")
    samples = [sum(row) for row in scores["confusion"]]
    shares = [[f"{n}{n / total:.0%}" for n in row] for row, total in zip(scores["confusion"], samples, strict=True)]
    assert [row[1:] for row in page.tables["Confusion"][1:]] == shares
    for number in range(3):
        assert Page(crossed / f"fold-{number}").sections == ["training", "settings"]
    left = (crossed / "report.html").read_bytes()
    report.main([str(crossed)])
    assert (crossed / "report.html").read_bytes() == left


def test_a_cross_validation_is_not_scored_as_a_run_and_has_no_page_before_its_last_fold(
    crossed, root, tmp_path, refused
):
    line = refused(evaluate.main, "--run", crossed, "--shards", root)
    assert f"{crossed} is a cross-validation" in line
    assert f"{crossed}/fold-0" in line
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(crossed / "folds.json", half)
    assert "has no scores yet" in refused(report.main, half)
    for text in ("{", "[]", "{}", '{"train": 3, "data": ""}'):
        (half / "folds.json").write_text(text)
        assert "folds.json cannot be read" in refused(finetune.main, "--out", half, "--resume")
    line = refused(finetune.main, "--shards", root, "--out", half, "--folds", "3", "--fold", "1", *SHORT)
    assert "folds.json cannot be read" in line


def test_folds_trained_one_by_one_come_to_the_same(crossed, root, tmp_path, capsys, refused):
    run = tmp_path / "run"
    flags = ["--shards", str(root), "--out", str(run), "--folds", "3", *SHORT]
    for fold in ("2", "0"):
        finetune.main([*flags, "--fold", fold])
    assert "other folds are to be trained yet" in capsys.readouterr().out
    assert "--lr 0.5, but" in refused(finetune.main, *flags, "--fold", "1", "--lr", "0.5")
    assert "add --resume" in refused(finetune.main, *flags, "--fold", "2")
    assert "give the folder above" in refused(finetune.main, "--out", run / "fold-2", "--resume")
    finetune.main(["--out", str(run), "--resume"])  # all of them: the two are done, the third is begun
    assert capsys.readouterr().out.count("nothing left to do") == 2
    for name in ("predictions.csv", "fold-1/held_out.csv"):
        assert (run / name).read_text() == (crossed / name).read_text()
    assert summarise(run, ["Calm", "Loud", "Sad"], num_folds=4) is None


@pytest.fixture(scope="module")
def other(root, tmp_path_factory):
    """Another cross-validation of the same samples, of another seed: they are divided otherwise."""
    run = tmp_path_factory.mktemp("other") / "run"
    finetune.main(["--shards", str(root), "--out", str(run), "--folds", "2", "--seed", "1", *SHORT])
    return run


def test_two_cross_validations_are_compared_sample_by_sample(crossed, other, tmp_path, capsys):
    run = shutil.copytree(crossed, tmp_path / "run")
    left = {name: (run / name).read_bytes() for name in ("predictions.csv", "fold-0/held_out.csv")}
    capsys.readouterr()
    finetune.main(["--out", str(run), "--resume", "--against", str(other)])
    out = capsys.readouterr().out
    assert out.count("nothing left to do") == 3
    assert {name: (run / name).read_bytes() for name in left} == left
    right = {}
    for name, folder in (("this", run), ("other", other)):
        with (folder / "predictions.csv").open() as file:
            right[name] = {row["key"]: row["label"] == row["predicted"] for row in csv.DictReader(file)}
    (found,) = json.loads((run / "metrics.json").read_text())["against"]
    only_this = sum(right["this"][key] and not right["other"][key] for key in right["this"])
    only_other = sum(right["other"][key] and not right["this"][key] for key in right["this"])
    assert (found["mcnemar"]["only_this"], found["mcnemar"]["only_other"]) == (only_this, only_other)
    assert found["difference"]["accuracy"]["value"] == pytest.approx((only_this - only_other) / 27)
    assert found["run"] == str(other)
    assert f"against {other}: accuracy {(only_this - only_other) / 27:+.3f} (95% " in out
    page = Page(run)
    assert page.sections[:3] == ["scores", "folds", "compared"]
    assert [value.removeprefix("#") for value in page.values("href") if value.startswith("#")] == page.sections
    theirs = json.loads((other / "metrics.json").read_text())
    accuracy = next(row for row in page.tables[f"Against {other}"] if row[0] == "Accuracy")
    assert accuracy[2] == f"{theirs['accuracy']:.3f}"


def test_what_cannot_be_compared_with_is_refused_before_anything_is_trained(
    crossed, other, root, make_set, tmp_path, refused
):
    flags = ["--shards", root, "--out", tmp_path / "run", *SHORT]
    assert "trainer.evaluate has --against" in refused(finetune.main, *flags, "--against", other)
    flags += ["--folds", 3]
    assert "no metrics.json there" in refused(finetune.main, *flags, "--against", tmp_path)
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(crossed / "folds.json", half)
    assert "train the other folds" in refused(finetune.main, *flags, "--against", half)
    line = refused(finetune.main, "--out", crossed, "--resume", "--against", crossed)
    assert "these are the results to be written" in line
    less = make_set(tmp_path / "less", splits={"train": [0, 1, 2] * 2}, modality="audio")
    line = refused(finetune.main, "--shards", less, *flags[2:-1], 2, "--against", other)
    assert "is of other samples" in line
    assert not (tmp_path / "run").exists()


def test_more_folds_than_there_are_sources_are_refused(root, tmp_path, refused):
    line = refused(finetune.main, "--shards", root, "--out", tmp_path / "run", "--folds", "10", *SHORT)
    assert "--folds 10: 27 samples of 9 source groups, at most 9 of a class, are too few; give at most 9" in line
    assert not (tmp_path / "run").exists()
    flags = ["--val-fraction", "0.3", *SHORT]
    line = refused(finetune.main, "--shards", root, "--out", tmp_path / "run", "--folds", "3", *flags)
    assert "--val-fraction 0.3: --folds hold out parts; leave it out" in line
    for flags in (["--folds", "1"], ["--fold", "1"], ["--folds", "3", "--fold", "3"]):
        assert "--fold" in refused(finetune.main, "--shards", root, *flags)


def test_the_parts_of_a_set_are_those_of_its_groups(root):
    data = ShardSet.open(str(root))
    assert num_samples(select(data.split("train"), lambda group: group == "train-0")) == 3
