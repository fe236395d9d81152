from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import mlcroissant
import pyarrow.parquet as pq
import pytest
import tyro
import yaml
from markdown_it import MarkdownIt

from flows.build_shards import as_command
from pipeline.card import command, dataset_card
from pipeline.filters.judge import Filters
from pipeline.filters.text import DEFAULT_RULES, read_rules
from pipeline.filters.thresholds import Thresholds
from pipeline.page.licences import HUB_LICENCES, card_licences, hub_licence
from pipeline.page.scores import AXES
from pipeline.prepare import Recipe
from pipeline.schema import CODES, INDEX, SCORES, Manifest
from tests.pipeline.sets import kept, left_out, make_set

YOUTUBE = "Creative Commons Attribution license (reuse allowed)"

HUB_KEYS = {"pretty_name", "tags", "task_categories", "size_categories", "license", "license_name", "configs"}
HUB_TASKS = {"video-classification", "audio-classification"}  # of huggingface.js' list of pipelines
HUB_SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"}

# mlcroissant's own use of rdflib and of pandas is out of date.
quiet_mlcroissant = pytest.mark.filterwarnings("ignore:.*is deprecated")


def front_matter(card: str) -> dict:
    _, header, _ = card.split("---\n", 2)
    return yaml.safe_load(header)


def tables(card: str) -> list[list[list[str]]]:
    """Tables of a card as a renderer of GitHub's Markdown sees them: rows of cells of text."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(card.split("---\n", 2)[2]):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            found[-1][-1].append(token.content)
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "mixed"
    candidates = [
        kept("a.mp4", split="train", label="Sad", licence=YOUTUBE),
        kept("b.mp4", split="test", label="Joy|ful <b>", licence=YOUTUBE),
        left_out("c.mp4", "speech", seen=True, speech_share=0.9),
        left_out("d.mp4", "network"),
    ]
    make_set(folder, candidates, labels=["Sad", "Joy|ful <b>"], filters=Filters())
    return folder


def manifest_of(folder: Path) -> Manifest:
    return Manifest.from_json((folder / "dataset.json").read_text())


def test_the_header_is_what_the_hub_reads(built):
    header = front_matter((built / "README.md").read_text())
    assert set(header) <= HUB_KEYS
    assert set(header["task_categories"]) <= HUB_TASKS
    assert set(header["size_categories"]) <= HUB_SIZES
    assert header["license"] in HUB_LICENCES
    [config] = header["configs"]
    listed = {entry["split"]: [f.name for f in built.glob(entry["path"])] for entry in config["data_files"]}
    assert listed == {"train": ["train-000000.tar"], "test": ["test-000000.tar"]}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (YOUTUBE, "cc-by-3.0"),
        ("Creative Commons Attribution licence (reuse allowed)", "cc-by-3.0"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0"),
        ("https://creativecommons.org/licenses/by-sa/3.0/de/", "cc-by-sa-3.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("CC0 1.0 Universal", "cc0-1.0"),
        ("Creative Commons", None),
        ("CC BY 9.0", None),
        ("All rights reserved", None),
        ("Standard YouTube licence 4.0", None),
    ],
)
def test_a_licence_has_the_hubs_name_only_where_kind_and_version_are_told(words, name):
    assert hub_licence(words) == name


def test_a_card_names_a_licence_only_if_every_kept_clip_came_with_one():
    assert card_licences([YOUTUBE, "CC BY 4.0"]) == ["cc-by-3.0", "cc-by-4.0"]
    assert card_licences([YOUTUBE, None]) == []
    assert card_licences([YOUTUBE, "mine"]) == ["other"]
    assert card_licences([]) == []


@pytest.mark.parametrize("licences", [[YOUTUBE], [YOUTUBE, "CC0"], ["mine"], [None], []])
def test_the_header_is_yaml_whatever_the_licences(built, licences):
    header = front_matter(dataset_card(manifest_of(built), licences=licences))
    assert ("license" in header) == bool(licences and None not in licences)
    assert ("license_name" in header) == (header.get("license") == "other")


def test_tables_keep_their_shape_whatever_a_class_is_called(built):
    card = (built / "README.md").read_text()
    for rows in tables(card):
        assert len({len(row) for row in rows}) == 1, rows
    assert "<b>" not in MarkdownIt("gfm-like", {"linkify": False}).render(card.split("---\n", 2)[2])


def test_what_became_of_the_candidates_adds_up_in_the_card(built):
    [rows] = [rows for rows in tables((built / "README.md").read_text()) if rows[0][0] == "outcome"]
    numbers = {row[0].strip("`"): int(row[1]) for row in rows[1:]}
    assert numbers.pop("all") == sum(numbers.values()) == 4
    assert numbers == {"kept": 2, "network": 1, "speech": 1}


def test_thresholds_stand_in_the_card_with_their_scores_and_codes(built):
    [rows] = [rows for rows in tables((built / "README.md").read_text()) if rows[0][0] == "threshold"]
    assert {row[0] for row in rows[1:]} == {field.name for field in fields(Thresholds)}
    assert ["speech", "`speech_share`", f"above {Thresholds().speech:g}", "`speech`"] in rows
    for _, column, _, code in rows[1:]:
        assert column.strip("`") in SCORES
        assert code.strip("`") in CODES


def test_every_threshold_belongs_to_one_score():
    assert sorted(axis.threshold for axis in AXES if axis.threshold) == sorted(f.name for f in fields(Thresholds))


@pytest.mark.parametrize(("rules", "denoise", "named"), [(False, True, "RULES.csv"), (True, False, None)])
def test_the_command_of_a_card_is_one_that_the_flow_takes(rules, denoise, named):
    usual = read_rules(DEFAULT_RULES)
    thresholds = Thresholds.of({"speech": 0.4, "loudness": -55.0})
    filters = Filters(mode="score", thresholds=thresholds, rules=usual if rules else usual[1:])
    manifest = Manifest(
        labels=["Sad", "Glad"],
        recipe=Recipe(modality="audio", denoise=denoise).to_dict(),
        recipe_hash="0",
        splits={},
        counts={},
        normalization={},
        settings={"seed": 7, "split_rule": "grouped", "filters": filters.to_dict()},
    )
    words = " ".join(command(manifest)).split()
    assert words[:3] == ["python", "-m", "flows.build_shards"]
    asked = {}
    tyro.cli(as_command(lambda **parameters: asked.update(parameters) or 0), args=words[3:])
    assert asked["thresholds"] == asdict(filters.thresholds)
    assert asked["labels"] == "LABELS.csv"
    assert asked["rules"] == named
    assert {name: asked[name] for name in ("seed", "split", "modality", "denoise", "filters")} == {
        "seed": 7,
        "split": "grouped",
        "modality": "audio",
        "denoise": denoise,
        "filters": "score",
    }


def test_the_card_loads_its_set_as_it_says(built):
    [code] = re.findall(r"```python\n(.*?)```", (built / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=built, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].endswith("a.mp4 (64, 128, 128, 3)")
    assert done.stdout.splitlines()[1] == "4 candidates"


def test_the_card_of_a_set_of_jpeg_loads_its_frames_too(tmp_path):
    folder = tmp_path / "set"
    make_set(folder, [kept("a.mp4", split=None)], recipe=Recipe(frames="jpeg", jpeg_quality=80))
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].endswith("a.mp4 (64, 128, 128, 3)")


def test_an_older_set_without_filters_and_one_with_nothing_kept_have_a_card(tmp_path):
    make_set(tmp_path / "old", [kept("a.mp4", split=None)], recipe=Recipe(modality="audio"))
    old = (tmp_path / "old/README.md").read_text()
    assert "threshold" not in old
    assert "--filters off" in old
    assert 'samples["mel_32k.npy"]' in old or '"mel_32k.npy"' in old
    make_set(tmp_path / "none", [left_out("a.mp4", "no-audio")], filters=Filters(mode="off"))
    none = (tmp_path / "none/README.md").read_text()
    assert "Nothing was kept." in none
    assert "configs" not in front_matter(none)
    assert "No filter was asked." in none


# --- Croissant ---------------------------------------------------------------------------------------------------


@quiet_mlcroissant
def test_croissant_is_read_by_mlcroissant_row_by_row(built):
    described = mlcroissant.Dataset(jsonld=str(built / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = list(described.records("candidates"))
    index = pq.read_table(built / "index.parquet").to_pylist()
    for ours, theirs in zip(index, rows, strict=True):
        assert theirs["candidates/source_id"].decode() == ours["source_id"]
        assert theirs["candidates/duration_s"] == ours["duration_s"]
        assert theirs["candidates/width_px"] == ours["width_px"]
        assert (theirs["candidates/code"] or b"").decode() == (ours["code"] or "")
    assert [row["splits/name"] for row in described.records("splits")] == ["train", "test"]
    assert [row["labels/name"] for row in described.records("labels")] == ["Sad", "Joy|ful <b>"]


def test_croissant_names_every_file_with_its_hash_and_every_column_that_is_no_picture(built):
    described = json.loads((built / "croissant.json").read_text())
    files = {item["@id"]: item for item in described["distribution"] if item["@type"] == "cr:FileObject"}
    assert set(files) == {"index.parquet", "train-000000.tar", "test-000000.tar"}
    for name, item in files.items():
        data = (built / name).read_bytes()
        assert (item["sha256"], item["contentSize"]) == (hashlib.sha256(data).hexdigest(), f"{len(data)} B")
    [candidates] = [one for one in described["recordSet"] if one["@id"] == "candidates"]
    told = {field["name"] for field in candidates["field"]}
    assert set(INDEX.names) - told == {"thumbnail", "sound_print", "picture_print"}
    assert described["license"] == ["https://spdx.org/licenses/CC-BY-3.0"]


@quiet_mlcroissant
@pytest.mark.parametrize("candidates", [[kept("a.mp4", split=None)], [left_out("a.mp4", "private")]])
def test_croissant_of_an_unlabelled_set_and_of_one_with_nothing_kept_is_valid(tmp_path, candidates):
    make_set(tmp_path / "set", candidates, recipe=Recipe(modality="audio"))
    described = mlcroissant.Dataset(jsonld=str(tmp_path / "set/croissant.json"))
    assert not described.metadata.ctx.issues.errors
    assert len(list(described.records("candidates"))) == 1
