"""The page of a run: whole, safe against what names hold, fetching nothing, right in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pages import Page, chromium, contrast, visited
from trainer import evaluate, report
from trainer.page import html
from trainer.page.charts import Line, Point, draw
from trainer.page.curves import MAX_POINTS, error_charts, probe_charts, read_log, thinned, training_charts

HOSTILE = "<script>document.title='broken'</script>\"' onload=x {{ 7*7 }} & \u202e$\\frac$"


def flags(run, sets, out, *more):
    words = ["--run", run, "--shards", sets / "mved", "--out", out, "--bootstrap", "100", "--split", "train", *more]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def scored(runs, sets, tmp_path_factory) -> Path:
    """Results with a comparison, leaks and mistakes."""
    root = tmp_path_factory.mktemp("pages")
    evaluate.main(flags(runs / "finetuned", sets, root / "rival"))
    evaluate.main(flags(runs / "finetuned", sets, root / "this", "--against", root / "rival"))
    path = root / "this" / "predictions.csv"
    text = path.read_text().splitlines()
    for i in (1, 5):  # two mistakes, for the list of them
        key, group, label, _, *p = text[i].split(",")
        text[i] = ",".join([key, group, label, "", *(p[-1:] + p[:-1])])
    path.write_text("\n".join(text) + "\n")
    report.main([str(runs / "finetuned"), "--scores", str(root / "this")])
    return root / "this"


@pytest.fixture(scope="module")
def hostile(scored, runs, tmp_path_factory) -> Path:
    """The same with names that try to break out of the page."""
    folder = tmp_path_factory.mktemp("hostile")
    run = folder / "run"
    shutil.copytree(runs / "finetuned", run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    told = json.loads((run / "config.json").read_text())
    told["labels"][1] = HOSTILE
    told["train"][HOSTILE] = HOSTILE
    (run / "config.json").write_text(json.dumps(told))
    text = (scored / "metrics.json").read_text().replace('"Loud"', json.dumps(HOSTILE))
    scores = json.loads(text)
    scores["against"][0]["run"] = scores["shards"] = scores["warnings"][0] = HOSTILE
    (run / "metrics.json").write_text(json.dumps(scores))
    quoted = '"' + HOSTILE.replace('"', '""') + '"'
    head, *rows = (scored / "predictions.csv").read_text().replace("Loud", quoted).splitlines()
    rows[0] = quoted + rows[0][rows[0].index(",") :]
    (run / "predictions.csv").write_text("\n".join([head, *rows]) + "\n")
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 9, "kind": HOSTILE, HOSTILE: 1.5}) + "\n")
    report.main([str(run)])
    return run


@pytest.fixture(scope="module")
def pretrained(runs, tmp_path_factory) -> Path:
    """A pretraining run with pictures and probes."""
    run = tmp_path_factory.mktemp("pretrained") / "run"
    shutil.copytree(runs / "pretrained", run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    (run / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 20, 3), np.uint8)).save(run / "pictures" / "step-00000002.png")
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 2, "kind": "probe", "knn_accuracy": 0.625, "note": "words"}) + "\n")
        log.write('{"step": 3, "kind": "tra')  # a kill in mid-line
    report.main([str(run)])
    return run


def test_the_page_of_a_scored_run_has_every_section_and_the_numbers_of_metrics_json(scored):
    page = Page(scored)
    scores = json.loads((scored / "metrics.json").read_text())
    assert page.sections == [
        *("scores", "paper", "compared", "classes", "confusion", "roc", "calibration", "modalities", "leaks"),
        *("training", "settings"),
    ]
    linked = [value.removeprefix("#") for value in page.values("href") if value.startswith("#")]
    assert linked == page.sections
    rows = {row[0]: row[1:] for row in page.tables["Scores"]}
    assert rows["Accuracy"][0] == f"{scores['accuracy']:.3f}"
    assert rows["Accuracy"][1] == "{:.3f} to {:.3f}".format(*scores["accuracy_interval"])
    assert rows["Accuracy"][2] == "{:.3f} to {:.3f}".format(*scores["cluster_bootstrap"]["accuracy"])
    assert rows["Brier score"][0] == f"{scores['brier']:.3f}"
    paper = [row for row in page.tables["Beside the paper"] if "Table 2" in row]
    assert [row[3] for row in paper] == ["0.703", "0.770"]
    assert "Another test set" in page.text
    assert len(page.tables["Classes"]) == 1 + 3
    assert len(page.tables["Confusion"]) == 1 + 3
    assert len(page.tables["Leaks"]) == 1 + 2
    assert page.tables["Leaks"][1][1:5] == ["finetune", "12", "12", "12"]
    assert "never had to do without one of the two" in page.text
    assert "12 of the 12 source groups" in page.text
    against = next(name for name in page.tables if name.startswith("Against "))
    assert page.tables[against][1][:4] == ["Accuracy", rows["Accuracy"][0], rows["Accuracy"][0], "+0.000"]
    settings = {row[0]: row[1] for row in page.tables["Flags"]}
    assert settings["max_steps"] == "9"


def test_the_worst_confusions_are_named_with_their_samples(scored):
    page = Page(scored)
    keys = [row.split(",")[0] for row in (scored / "predictions.csv").read_text().splitlines()]
    shown = " ".join(row[-1] for row in page.tables["Worst confusions"][1:])
    assert keys[1] in shown
    assert keys[5] in shown


def test_the_page_of_a_pretraining_has_channels_pictures_probes_and_curves(pretrained):
    page = Page(pretrained)
    assert page.sections == ["channels", "pictures", "training", "settings"]
    records = [record for record in read_log(pretrained) if record["kind"] == "train"]
    (row,) = [row for row in page.tables["Channels"] if row[:2] == ["audio_slow", "phase"]]
    error = np.mean([record["mse/audio_slow/phase"] for record in records])
    mean = np.mean([record["mean/audio_slow/phase"] for record in records])
    assert row[2:5] == [f"{error:.3f}", f"{mean:.3f}", f"{error / mean:.3f}"]
    assert "step-00000002" in page.text
    assert ["knn_accuracy", "0.625"] in page.tables["Last probe"]
    titles = " ".join(page.words)
    for title in ("loss", "gradient's norm", "video slow", "audio fast", "probe: knn accuracy"):
        assert title in titles


@pytest.mark.parametrize("name", ["pretrained", "finetuned"])
def test_training_itself_leaves_the_page_that_the_command_draws(runs, name):
    left = (runs / name / "report.html").read_bytes()
    report.main([str(runs / name)])
    assert (runs / name / "report.html").read_bytes() == left


def test_a_run_that_logged_nothing_or_was_not_scored_still_has_a_page(runs, tmp_path, capsys):
    for name in ("pretrained", "finetuned"):
        run = tmp_path / name
        run.mkdir()
        shutil.copy(runs / name / "config.json", run)
        report.main([str(run)])
        page = Page(run)
        assert "no step was logged" in page.text
        assert page.sections == ["training", "settings"]
    assert "python -m trainer.evaluate --run" in page.text


@pytest.mark.parametrize("name", ["scored", "hostile", "pretrained"])
def test_the_page_refers_to_nothing_outside_and_runs_no_script(request, name):
    page = Page(request.getfixturevalue(name))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "embed", "form", "base"})
    assert not [attribute for _, told in page.tags for attribute in told if attribute.startswith("on")]
    assert not page.values("style")
    for value in page.values("href") + page.values("src"):
        assert value.startswith(("#", "data:"))
    assert "49" not in [word.strip() for word in page.words]
    (policy,) = [told["content"] for _, told in page.tags if told.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_what_cannot_be_drawn_is_refused_in_one_line(scored, runs, tmp_path, refused):
    (tmp_path / "scores").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(scored, broken)
    for content in ("{", "[]", '{"labels": ["Calm", "Loud", "Sad"]}'):
        (broken / "metrics.json").write_text(content)
        assert "cannot be shown" in refused(report.main, runs / "finetuned", "--scores", broken)
    assert "no metrics.json there" in refused(report.main, runs / "finetuned", "--scores", tmp_path / "scores")
    assert "there is no such run folder" in refused(report.main, tmp_path / "nothing")
    assert "--help" in refused(report.main)


def test_charts_keep_what_is_a_number_within_their_frame():
    nan = float("nan")
    lines = [Line(name="a", points=[Point(1, 2.0), Point(2, nan), Point(3, 4.0)]), Line(name="b", points=[])]
    chart = draw("t", lines, x_label="x", y_label="y")
    (path,) = chart.paths
    numbers = [float(number) for number in re.findall(r"[\d.]+", path.d)]
    assert len(numbers) == 4
    assert all(chart.left <= x <= chart.right for x in numbers[::2])
    assert all(chart.top <= y <= chart.floor for y in numbers[1::2])
    assert "a from 2 to 4" in chart.words
    flat = draw("t", [Line(name="a", points=[Point(1, 5.0)])], x_label="x", y_label="y")
    assert len(flat.paths[0].dots) == 1
    small = draw("t", [Line(name="a", points=[Point(1, 0.0), Point(2, 1e-4)])], x_label="x", y_label="y")
    assert [mark.text for mark in small.y_marks] == [
        "0",
        *(f"{n}e\N{MINUS SIGN}5" for n in ("2.5", "5", "7.5")),
        "1e\N{MINUS SIGN}4",
    ]


def test_a_long_log_is_thinned_to_means_of_neighbours():
    points = [Point(i, float(i % 2)) for i in range(10_001)]
    few = thinned(points)
    assert len(few) == MAX_POINTS
    assert all(abs(point.y - 0.5) < 0.02 for point in few)
    assert thinned(points[:5]) == points[:5]


def test_every_number_of_a_log_is_in_one_chart(tmp_path):
    lines = [
        {"step": 1, "kind": "train", "loss": 2.0, "lr": 0.1, "mse/v": 1, "mse/v/red": 1.0, "mean/v/red": 2.0},
        {"step": 1, "kind": "val", "loss": 1.0, "accuracy": None},
        {"step": 1, "kind": "probe", "accuracy": 0.5, "loss": True},
        ["no record"],
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    records = read_log(tmp_path)
    assert [chart.title for chart in training_charts(records)] == ["loss", "learning rate"]
    assert [chart.title for chart in error_charts(records)] == ["v"]
    assert [chart.title for chart in probe_charts(records)] == ["probe: accuracy"]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_has_a_contrast_of_4_5_and_lines_of_3_in_both_schemes(scheme):
    css = (html.TEMPLATES / "report.css").read_text()
    color = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]))
    for text in ("text", "quiet", "link"):
        for ground in ("ground", "panel"):
            assert contrast(color[text], color[ground]) >= 4.5, (text, ground)
    assert contrast(color["warn"], color["warn-ground"]) >= 4.5
    assert contrast(color["chip-text"], color["chip"]) >= 4.5
    for i in range(8):
        assert contrast(color[f"c{i}"], color["ground"]) >= 3, i
    for share in map(int, re.findall(r"var\(--shade\) (\d+)%", css)):
        pairs = [[int(color[name][k : k + 2], 16) for name in ("shade", "ground")] for k in (1, 3, 5)]
        mixed = "#" + "".join(f"{round((a * share + b * (100 - share)) / 100):02x}" for a, b in pairs)
        assert contrast(color["text"], mixed) >= 4.5, share


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("scored", 1400, "light"), ("scored", 390, "dark"), ("hostile", 390, "light"), ("pretrained", 800, "dark")],
)
def test_in_a_browser_nothing_is_fetched_nothing_complains_and_nothing_sticks_out(
    request, browser, name, width, scheme
):
    with visited(browser, request.getfixturevalue(name), width=width, scheme=scheme):
        pass
