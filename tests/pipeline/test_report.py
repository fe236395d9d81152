from __future__ import annotations

import base64
import errno
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pipeline import report, shards
from pipeline.filters.judge import Filters, judge
from pipeline.filters.thresholds import Thresholds
from pipeline.page import clips
from pipeline.page.charts import LEFT, RIGHT, draw
from pipeline.page.outcome import NO_CODE, STAGES, count_stages, short_detail
from pipeline.page.pictures import TOP, mel_picture, stored_thumbnail
from pipeline.page.scores import AXES, Axis, axes, histogram
from pipeline.prepare import Recipe
from pipeline.schema import CLIP_S, CODES, NUM_MELS, SAMPLE_RATES_HZ, SCORES, num_columns, sample_key
from pipeline.spectrogram import mel_and_phase
from pipeline.thumbnail import thumbnail
from tests.pages import Page, chromium, contrast, visited
from tests.pipeline.sets import SCORED, kept, left_out, make_set, picture

HOSTILE = [
    "<script>document.title='broken'</script>",
    '"><img src=x onerror="document.title=\'broken\'">',
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "' onmouseover='document.title=\"broken\"",
    "\u202eright to left\u202c and \x07 bells \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "a" * 5000,
]
HOSTILE_LINKS = [
    "javascript:document.title='broken'",
    "data:text/html,<script>1</script>",
    "file:///etc/passwd",
    "//evil",
]


def number(cell: str) -> int:
    return int(cell.split(" ")[0].replace(",", "") or 0)


def bytes_of(uri: str) -> bytes:
    return base64.b64decode(uri.split(",", 1)[1])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A labelled set with something of everything."""
    folder = tmp_path_factory.mktemp("sets") / "mixed"
    first = sample_key(title="one", source_id="one.mp4", start_ms=0)
    candidates = [
        kept("one.mp4", title="one", label="Sad", source_group="g", uploader="Ann", motion=3.0),
        kept("two.mp4", split="test", label="Sad", source_group="g", uploader="Ann", flagged=["speech"], motion=9.0),
        kept("three.mp4", split="val", label="Fear", link="https://example.org/3?a=1&b=2", duplicate_of=first),
        left_out(
            "four.mp4", "speech", "talk for 90% of the time", seen=True, uploader="Ben", **SCORED | {"motion": 1.0}
        ),
        left_out("five.mp4", "static", seen=True, uploader="Ben", **SCORED | {"motion": 0.1}),
        left_out("six.mp4", "text", text_rules=["interview"]),
        left_out("seven.mp4", "network"),
        left_out("eight.mp4", "duplicate", **SCORED),
        left_out("nine.mp4", "internal", 'Traceback:\n  File "/home/me/x.py"\nOSError: no /home/me/x.mp4'),
    ]
    make_set(folder, candidates, labels=["Fear", "Sad"], filters=Filters(thresholds=Thresholds(motion=0.3)))
    return folder


# --- the numbers -------------------------------------------------------------------------------------------------


def test_what_the_words_tell_is_asked_before_anything_is_decoded():
    at = {code: place for place, stage in enumerate(STAGES) for code in stage.codes}
    assert at["licence"] < at["text"] < at["unavailable"] < at["undecodable"]


def test_pictures_are_there_without_scrolling(mixed):
    assert not [told for tag, told in Page(mixed).tags if "loading" in told]


def test_every_code_of_the_schema_stands_at_exactly_one_stage():
    assert sorted(code for stage in STAGES for code in stage.codes) == sorted(CODES)


@given(st.dictionaries(st.sampled_from([*CODES, "future-code", NO_CODE]), st.integers(1, 10**6)), st.integers(0, 10**6))
def test_stages_hand_on_what_they_do_not_drop_and_add_up_to_the_candidates(by_code, kept_clips):
    candidates = kept_clips + sum(by_code.values())
    stages = count_stages(candidates, by_code, {})
    entered = candidates
    for stage in stages:
        assert stage.entered == entered
        entered = stage.left
    assert entered == kept_clips
    assert sum(stage.dropped for stage in stages) + kept_clips == candidates


def test_the_numbers_on_the_page_add_up(mixed):
    page = Page(mixed)
    rows = pq.read_table(mixed / "index.parquet").to_pylist()
    text = " ".join(page.text.split())
    assert "9 candidates = 3 kept + 4 rejected + 2 failed" in text
    _, listed, *stages, last = page.tables["Candidates by stage"]
    assert number(listed[3]) == len(rows) == 9
    for before, stage in zip([listed, *stages], stages, strict=False):
        assert number(stage[1]) == number(before[3])
        assert number(stage[3]) == number(stage[1]) - number(stage[2])
    assert [number(cell) for cell in last[1:4]] == [9, 6, 3]
    assert sum(number(stage[2]) for stage in stages) == 6
    _, *codes, every = page.tables["Candidates by code"]
    told = {code[0]: number(code[1]) for code in codes if number(code[1])}
    assert told == Counter(row["code"] for row in rows if row["code"])
    assert number(every[1]) == sum(told.values())
    _, *classes, whole = page.tables["Clips by split"]
    assert classes == [["Fear", "0", "1", "0", "1", "33.3 %", ""], ["Sad", "1", "0", "1", "2", "66.7 %", ""]]
    assert whole[:5] == ["all", "1", "1", "1", "3"]
    for ranking in ("Uploaders", "Height of the picture, px"):
        _, *lines = page.tables[ranking]
        assert sum(number(line[1]) + number(line[2]) for line in lines) == 9
    assert page.tables["Uploaders"][1:] == [["Ann", "2", "0", ""], ["Ben", "0", "2", ""], ["not told", "1", "4", ""]]


def test_what_straddles_splits_is_said(mixed):
    page = Page(mixed)
    assert "1 group does, with 2 clips: scores on such splits are too good" in " ".join(page.text.split())
    assert page.tables["Near-duplicates"][1] == ["three.mp4", "val", "one", "train"]
    assert "1 of them in different splits" in page.text


def test_of_a_traceback_only_the_last_line_is_shown_and_no_path():
    assert short_detail('Traceback:\n  File "/home/me/x.py"\nOSError: no /home/me/x.mp4') == "OSError: no …"
    assert short_detail("see https://example.org/a/b for more") == "see https://example.org/a/b for more"
    assert short_detail(None) == ""
    assert short_detail("x" * 400) == "x" * 239 + "…"


# --- scores ------------------------------------------------------------------------------------------------------


def test_every_score_of_the_schema_is_drawn_and_every_threshold_stands_at_one():
    assert {axis.column for axis in axes()} == {*SCORES, "snr_db"} - {"text_rules"}
    assert {axis.threshold for axis in AXES if axis.threshold} == {field.name for field in fields(Thresholds)}
    assert all(axis.code in CODES for axis in AXES if axis.threshold)


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis.threshold], ids=lambda axis: axis.column)
def test_the_filters_drop_on_the_side_of_the_threshold_that_is_tinted(axis):
    limits = Thresholds()
    limit = getattr(limits, axis.threshold)
    beyond, within = (limit + 0.01, limit - 0.01) if axis.drops == "above" else (limit - 0.01, limit + 0.01)
    assert [verdict.code for verdict in judge(SCORED | {axis.column: within}, limits)] == []
    assert [verdict.code for verdict in judge(SCORED | {axis.column: beyond}, limits)] == [axis.code]


@given(
    st.lists(st.one_of(st.floats(-1e3, 1e3), st.floats(1.1, 9.9), st.just(float("nan"))), min_size=1, max_size=60),
    st.one_of(st.none(), st.floats(-100, 100)),
    st.sampled_from([None, (0.0, 1.0)]),
    st.sampled_from([None, 0.01]),
    st.randoms(use_true_random=False),
)
@example([1.1], 1.1000000000000003, None, None, random.Random(0))
def test_a_histogram_counts_each_scored_clip_once_as_a_loop_does(values, threshold, span, log_from, random):
    axis = Axis(title="x", unit="", column="x", span=None if log_from else span, log_from=log_from)
    is_kept = np.array([random.random() < 0.5 for _ in values])
    found = histogram(axis, np.array(values), is_kept, threshold)
    scored = [(float(v), bool(k)) for v, k in zip(values, is_kept, strict=True) if v == v]
    if not scored:
        assert found is None
        return
    slow = {True: [0] * 40, False: [0] * 40}
    for value, side in scored:
        place = float(np.log10(max(value, log_from))) if log_from else value
        inside = min(max(place, found.edges[0]), found.edges[-1])
        slow[side][min(int(np.searchsorted(found.edges, inside, side="right")) - 1, 39)] += 1
    assert (found.kept.tolist(), found.dropped.tolist()) == (slow[True], slow[False])
    assert found.unscored == len(values) - len(scored)
    drawing = draw(found)
    assert len(drawing.bars) == np.count_nonzero(found.kept) + np.count_nonzero(found.dropped)
    for bar in drawing.bars:
        assert LEFT <= bar.x < bar.x + bar.width <= RIGHT + 0.5
        assert bar.height > 0
        assert bar.y + bar.height <= drawing.bottom + 1.5
    assert (drawing.threshold is None) == (threshold is None)
    assert len(drawing.ticks) >= 2
    if log_from:
        assert [tick.text.startswith("≤") for tick in drawing.ticks] == [
            float(tick.text.strip("≤ ")) == log_from for tick in drawing.ticks
        ]
        assert float(drawing.ticks[0].text.strip("≤ ")) >= log_from


def test_kept_and_dropped_stand_on_their_sides_of_a_score(mixed):
    page = Page(mixed)
    told = next(label for label in page.values("aria-label") if label.startswith("Motion:"))
    assert (
        told == "Motion: 3 kept, 3 to 9, median 6; 3 dropped, 0.1 to 6, median 1; the threshold drops what is below 0.3"
    )
    assert page.tables["Rules that were hit"][1] == ["interview", "0", "1"]


# --- clips -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(0, 30))
def test_clips_are_spread_over_their_groups_as_evenly_as_there_are_any(sizes, count):
    groups = [[1000 * g + i for i in range(size)] for g, size in enumerate(sizes)]
    chosen = clips.spread(groups, count)
    assert len(chosen) == len(set(chosen)) == min(count, sum(sizes))
    taken = [sum(position // 1000 == g for position in chosen) for g in range(len(sizes))]
    for g, size in enumerate(sizes):
        assert set(chosen) & set(groups[g]) <= set(groups[g])
        assert taken[g] == size or taken[g] >= max(taken, default=0) - 1


def test_kept_clips_are_shown_by_frames_of_their_tars_and_rejected_ones_by_the_index(mixed):
    page = Page(mixed)
    shown = {told["alt"]: bytes_of(told["src"]) for tag, told in page.tags if tag == "img" and "Four" in told["alt"]}
    rows = {row["title"]: row for row in pq.read_table(mixed / "index.parquet").to_pylist()}
    assert set(shown) == {f"Four frames of {n}" for n in ("one", "two.mp4", "three.mp4", "four.mp4", "five.mp4")}
    for title in ("one", "two.mp4", "three.mp4"):
        samples = clips.read_samples(mixed, [rows[title]], members=["frames"])
        frames = samples[rows[title]["key"]].arrays["frames"]
        assert shown[f"Four frames of {title}"] == thumbnail(frames, aspect=640 / 360)
    for title in ("four.mp4", "five.mp4"):
        assert shown[f"Four frames of {title}"] == rows[title]["thumbnail"]


@pytest.mark.parametrize("name", SAMPLE_RATES_HZ)
def test_a_tone_of_1_khz_is_bright_where_the_axis_says_1_khz(name):
    rate_hz = SAMPLE_RATES_HZ[name]
    tone = np.sin(2 * np.pi * 1000 * np.arange(CLIP_S * rate_hz) / rate_hz).astype(np.float32)
    drawn = mel_picture(name, mel_and_phase(tone, sample_rate_hz=rate_hz))
    levels = np.asarray(Image.open(io.BytesIO(bytes_of(drawn.picture.uri))))
    brightest = int(levels.astype(float).mean(axis=1).argmax())
    assert levels.shape == (NUM_MELS, num_columns(rate_hz))
    assert abs(TOP + brightest + 0.5 - {words: y for y, words in drawn.hertz}["1k"]) <= 1.5  # of 128 rows
    assert (drawn.times[0].text, drawn.times[-1].text) == ("0 s", "30 s")


def test_the_page_shows_all_that_a_sample_holds(tmp_path):
    make_set(tmp_path / "set", [kept("a.mp4", split=None)])
    page = Page(tmp_path / "set")
    drawn = [Image.open(io.BytesIO(bytes_of(told["href"]))).size for tag, told in page.tags if tag == "image"]
    columns = [1876, 313, 1292, 215, 469, 78]  # 30 s of log-mel and 5 s of phase at 32, 22.05 and 8 kHz
    assert drawn == [(wide, 128) for wide in columns]
    frames = [told for tag, told in page.tags if tag == "img" and told["alt"].startswith("Frame at")]
    assert [float(told["alt"].split()[2]) for told in frames] == [3.75 * i for i in range(8)]


def test_a_clip_whose_tar_is_gone_or_damaged_has_no_picture_and_the_page_stands(mixed, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(mixed, folder)
    (folder / "train-000000.tar").unlink()
    whole = (folder / "test-000000.tar").read_bytes()
    (folder / "test-000000.tar").write_bytes(whole[:1000])
    report.rebuild(folder)
    page = Page(folder)
    assert page.text.count("its tar cannot be read") == 3  # one, and two: kept and flagged
    assert "Four frames of three.mp4" in page.values("alt")


def test_nothing_is_opened_outside_the_set_and_no_member_beyond_its_size(mixed, tmp_path):
    row = next(r for r in pq.read_table(mixed / "index.parquet").to_pylist() if r["shard"] == "train-000000.tar")
    assert list(clips.read_samples(mixed, [row], members=["frames"])) == [row["key"]]
    inner = tmp_path / "inner"
    inner.mkdir()
    shutil.copy(mixed / "train-000000.tar", tmp_path)
    assert clips.read_samples(inner, [row | {"shard": "../train-000000.tar"}], members=["frames"]) == {}
    assert clips.read_samples(inner, [row | {"shard": str(mixed / "train-000000.tar")}], members=["frames"]) == {}


def test_a_thumbnail_that_is_no_small_jpeg_is_not_shown():
    good = thumbnail(picture(np.random.default_rng(0)))
    shown = stored_thumbnail(good)
    assert shown is not None
    assert (shown.width_px, shown.height_px) == (256, 144)
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    for bad in (None, b"", svg, good[:20], b"\xff\xd8\xff" + bytes(100), good + bytes(200_000)):
        assert stored_thumbnail(bad) is None


# --- words of others ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "hostile"
    words = {"uploader": HOSTILE[0], "licence": HOSTILE[1], "query": HOSTILE[3]}
    candidates = [
        kept("kept", split=None, title=HOSTILE[0], link=HOSTILE_LINKS[0], text_rules=[HOSTILE[1]], **words),
        kept("good", split=None, title=HOSTILE[2], link="https://example.org/?a=1&b='\"<>"),
    ]
    for n, (title, link) in enumerate(zip(HOSTILE, [*HOSTILE_LINKS, HOSTILE[1], None], strict=True)):
        candidates.append(left_out(f"x{n}", "speech", title, title=title, link=link or f"x{n}", seen=True, **words))
    make_set(folder, candidates, filters=Filters())
    return folder


def test_hostile_words_are_text_and_hostile_links_are_none(hostile):
    page = Page(hostile)
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "base"} == set()
    assert not [name for _, told in page.tags for name in told if name.startswith("on") or name == "style"]
    links = [told for tag, told in page.tags if tag == "a" and not told["href"].startswith("#")]
    assert [told["href"] for told in links] == ["https://example.org/?a=1&b='\"<>"]
    assert all("noopener" in told["rel"] for told in links)
    assert "{{ 7 * 7 }}" in page.text
    assert "\u202e" not in page.text
    assert "\x07" not in page.text
    assert "a" * 600 not in page.text
    assert all(uri.startswith("data:image/") for uri in page.values("src"))


def test_only_web_links_may_be_followed():
    assert clips.web_link("https://example.org/x") == "https://example.org/x"
    for link in [
        *HOSTILE_LINKS,
        None,
        "",
        "https://",
        "http:///x",
        " https://a.b",
        "https://a\nb",
        "http://[::1",
        "a/b.mp4",
    ]:
        assert clips.web_link(link) is None


# --- any set -----------------------------------------------------------------------------------------------------


LEFT_OUT = [left_out("b.mp4", "no-audio"), left_out("c.mp4", "static", seen=True, **SCORED)]


@pytest.mark.parametrize(
    ("candidates", "settings", "sections"),
    [
        ([kept("a.mp4", split=None), *LEFT_OUT], {"filters": Filters()}, "scores kept rejected signals"),
        (
            [kept("a.mp4", split=None)],
            {"recipe": Recipe(modality="audio"), "filters": Filters()},
            "scores kept signals",
        ),
        (
            [kept("a.mp4", split=None)],
            {"recipe": Recipe(modality="video"), "filters": Filters()},
            "scores kept signals",
        ),
        ([kept("a.mp4", split=None)], {"recipe": Recipe(modality="audio", phase="angle")}, "scores kept signals"),
        ([kept("a.mp4", split=None, **dict.fromkeys(SCORED))], {"filters": Filters(mode="off")}, "kept signals"),
        (
            [kept("a.mp4", label="Sad", flagged=["speech"])],
            {"labels": ["Sad"], "filters": Filters(mode="score")},
            "kept",
        ),
        (LEFT_OUT, {"filters": Filters()}, "scores rejected"),
        (LEFT_OUT, {"labels": ["Sad"], "filters": Filters()}, "scores rejected"),
        ([left_out("a.mp4", "private")], {}, ""),
        ([], {}, ""),
    ],
    ids=["mixed", "audio", "video", "angle", "off", "score", "none kept", "none kept, labelled", "none had", "empty"],
)
def test_every_kind_of_set_has_a_page(tmp_path, candidates, settings, sections):
    make_set(tmp_path / "set", candidates, **settings)
    page = Page(tmp_path / "set")
    ids = set(page.values("id"))
    assert set(sections.split()) | {"candidates", "balance", "provenance"} <= ids
    assert {href[1:] for href in page.values("href") if href.startswith("#")} == ids
    assert all(told.get("alt") for tag, told in page.tags if tag == "img")


def test_an_index_with_hardly_a_column_has_a_page(mixed, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(mixed, folder)
    pq.write_table(
        pq.read_table(mixed / "index.parquet", columns=["source_id", "status", "code"]), folder / "index.parquet"
    )
    report.rebuild(folder)
    page = Page(folder)
    assert number(page.tables["Candidates by stage"][1][3]) == 9
    assert "scores" not in page.values("id")


def test_codes_and_states_that_nobody_knows_are_counted(mixed, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(mixed, folder)
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    rows[-1] |= {"status": "lost", "code": "abducted"}
    rows[-2] |= {"code": None}
    shards.write_rows(folder / "index.parquet", rows, pq.read_schema(folder / "index.parquet"))
    report.rebuild(folder)
    table = Page(folder).tables["Candidates by stage"]
    assert table[-2][0] == "Other reasons"
    assert number(table[-2][2]) == 2
    assert number(table[-1][3]) == 3


# --- the same bytes ----------------------------------------------------------------------------------------------

WRITTEN = ("README.md", "croissant.json", "report.html")


def test_rebuilt_in_another_process_under_another_name_the_files_are_the_same(mixed, tmp_path):
    folder = tmp_path / "of another name"
    shutil.copytree(mixed, folder)
    for name in WRITTEN:
        (folder / name).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.report", folder],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"report: {folder}/report.html, beside README.md and croissant.json\n"
    for name in WRITTEN:
        assert (folder / name).read_bytes() == (mixed / name).read_bytes(), name
        assert str(mixed).encode() not in (mixed / name).read_bytes()
        assert b"mixed" not in (mixed / name).read_bytes()
    assert not list(folder.glob(".*"))


def test_a_page_that_cannot_be_drawn_does_not_fail_the_build_but_a_full_disk_does(tmp_path, monkeypatch):
    candidates = [left_out("a.mp4", "private")]
    make_set(tmp_path / "set", candidates)
    monkeypatch.setattr(report, "page", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match=r"set is whole, but its page cannot be drawn \(ZeroDivisionError"):
        make_set(tmp_path / "set", candidates)
    assert not (tmp_path / "set/report.html").exists()  # the one that stood told of another set
    assert (tmp_path / "set/README.md").exists()
    monkeypatch.setattr(report, "publish_text", _no_room)
    with pytest.raises(OSError, match="No space left"):
        make_set(tmp_path / "set", candidates)


def _no_room(target: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- the command -------------------------------------------------------------------------------------------------


def _no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def _no_manifest(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def _broken_manifest(folder: Path) -> None:
    (folder / "dataset.json").write_bytes(b"\xff{")


def _odd_manifest(folder: Path) -> None:
    raw = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(raw | {"normalization": 5, "counts": [], "splits": 1}))


def _other_schema(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"schema_version": 99}')


def _no_index(folder: Path) -> None:
    (folder / "index.parquet").unlink()


def _broken_index(folder: Path) -> None:
    (folder / "index.parquet").write_bytes(b"PAR1 and so on")


def _damaged_index(folder: Path) -> None:
    whole = bytearray((folder / "index.parquet").read_bytes())
    whole[4:2000] = bytes(1996)
    (folder / "index.parquet").write_bytes(whole)


def _broken_record(folder: Path) -> None:
    (folder / "train-000000.tar").touch()
    (folder / "train-000000.parquet").write_bytes(b"PAR1")


def _other_table(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / "index.parquet", columns=["link"]), folder / "index.parquet")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_folder, "holds no dataset.json; name the folder"),
        (_no_manifest, "holds no dataset.json; name the folder"),
        (_broken_manifest, "dataset.json"),
        (_odd_manifest, "a table or dataset.json is damaged ("),
        (_other_schema, "is of schema version 99"),
        (_no_index, "index.parquet cannot be read as an index"),
        (_broken_index, "index.parquet cannot be read as an index"),
        (_damaged_index, "index.parquet is damaged"),
        (_broken_record, "train-000000.parquet is no commit record"),
        (_other_table, "it has no column source_id, status"),
    ],
)
def test_a_folder_that_is_no_set_is_told_in_one_line_with_code_2(mixed, tmp_path, capsys, damage, words):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("dataset.json", "index.parquet"):
        shutil.copy(mixed / name, folder)
    damage(folder)
    assert report.main([str(folder)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("report: ")
    assert words in told.err
    assert told.err.count("\n") == 1


# --- how it looks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_a_contrast_of_4_5_and_bars_of_3_in_both_schemes(scheme):
    css = (report.TEMPLATES / "report.css").read_text()
    color = dict(
        re.findall(r"--([a-z-]+): (#[0-9a-f]{6})[0-9a-f]{0,2};", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme])
    )
    for text in ("text", "quiet", "link", "limit", "good", "warn"):
        for ground in ("ground", "panel"):
            assert contrast(color[text], color[ground]) >= 4.5, (text, ground)
    for text, ground, least in (
        ("code-text", "code", 4.5),
        ("chip-text", "chip", 4.5),
        ("kept", "panel", 3),
        ("dropped", "panel", 3),
    ):
        assert contrast(color[text], color[ground]) >= least, (text, ground)


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("mixed", 1400, "light"),
        ("mixed", 800, "dark"),
        ("mixed", 390, "light"),
        ("mixed", 390, "dark"),
        ("mixed", 320, "light"),
        ("hostile", 1400, "dark"),
        ("hostile", 390, "light"),
    ],
)
def test_in_a_browser_nothing_is_fetched_nothing_complains_and_nothing_sticks_out(
    request, browser, name, width, scheme
):
    folder: Path = request.getfixturevalue(name)
    broken = "[...document.images].filter(i => { i.loading = 'eager'; return i.complete && !i.naturalWidth }).length"
    with visited(browser, folder, width=width, scheme=scheme) as page:
        assert page.evaluate(broken) == 0
        assert (
            page.evaluate("getComputedStyle(document.body).maxWidth") == "none"
        )  # the style sheet's hash is the page's
