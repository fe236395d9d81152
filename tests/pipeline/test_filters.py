"""The filters together: through a build, and tried anew from its index."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import shards
from pipeline.build import Build
from pipeline.filters.judge import CODES_OF_FILTERS, Filters, judge
from pipeline.filters.text import DEFAULT_RULES, read_rules
from pipeline.filters.thresholds import Thresholds
from pipeline.prepare import Recipe
from pipeline.schema import CODES, MEMBERS, SCORES, Manifest, decode
from pipeline.sources import list_sources
from tests.conftest import run_ffmpeg
from tests.pipeline import standing
from tests.songs import write_song

MOVING = "life=size=128x72:rate=15:mold=10:ratio=0.3:random_seed=5:life_color=#40ff80:death_color=#802020"
STILL = "smptebars=size=128x72:rate=15"
EXPECTED = {
    "song.mp4": None,
    "another song.mp4": None,
    "still.mp4": "static",
    "black.mp4": "static",
    "tone.mp4": "tone",
    "silence.mp4": "silent",
    "noise.mp4": "not-music",
    "Interview with the band.mp4": "text",
}


def _video(target: Path, *, picture: str, sound: tuple[str, ...]) -> None:
    run_ffmpeg(
        *("-f", "lavfi", "-i", picture, *sound, "-t", "31", "-c:v", "mpeg4", "-q:v", "3", "-c:a", "aac", str(target))
    )


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Two music videos, and what is none: each for one reason."""
    folder, scratch = (tmp_path_factory.mktemp(name) for name in ("media", "scratch"))
    songs = [("-i", str(write_song(scratch / f"{seed}.wav", 31, seed=seed))) for seed in range(5)]
    wave = ("-f", "lavfi", "-i")
    other = MOVING.replace("random_seed=5", "random_seed=9")
    _video(folder / "song.mp4", picture=MOVING, sound=songs[0])
    _video(folder / "another song.mp4", picture="mandelbrot=size=128x72:rate=15", sound=songs[1])
    _video(folder / "still.mp4", picture=STILL, sound=songs[2])
    _video(folder / "black.mp4", picture="color=black:size=128x72:rate=15", sound=songs[3])
    _video(folder / "tone.mp4", picture=other, sound=(*wave, "sine=frequency=440:sample_rate=32000"))
    _video(folder / "silence.mp4", picture=other, sound=(*wave, "anullsrc=sample_rate=32000:channel_layout=mono"))
    _video(folder / "noise.mp4", picture=other, sound=(*wave, "anoisesrc=sample_rate=32000:amplitude=0.3:seed=3"))
    _video(folder / "Interview with the band.mp4", picture="testsrc2=size=128x72:rate=15", sound=songs[4])
    return folder


def _build(out: Path, media: Path, filters: Filters) -> Manifest:
    sources = list_sources(str(media))
    build = Build.request(
        out=out,
        sources=sources,
        recipe=Recipe(),
        seed=0,
        labelled=None,
        split_rule=None,
        samples_per_shard=4,
        filters=filters,
    )
    build.begin()
    standing.prepare(build, build.pending())
    build.make_plan()
    standing.pack(build)
    return build.finish()


FILTERS = Filters(rules=read_rules(DEFAULT_RULES))


@pytest.fixture(scope="module")
def dropped(media, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "dropped"
    _build(out, media, FILTERS)
    return out


@pytest.fixture(scope="module")
def scored(media, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "scored"
    _build(out, media, dataclasses.replace(FILTERS, mode="score"))
    return out


def _rows(folder: Path) -> dict[str, dict]:
    return {row["source_id"]: row for row in pq.read_table(folder / "index.parquet").to_pylist()}


def test_each_clip_that_is_no_music_video_is_dropped_for_its_own_reason(dropped):
    rows = _rows(dropped)
    assert {name: row["code"] for name, row in rows.items()} == EXPECTED
    for name, code in EXPECTED.items():
        assert rows[name]["status"] == ("kept" if code is None else "rejected")
        assert (code is None) == (rows[name]["detail"] is None)
        assert rows[name]["flagged"][:1] == ([] if code is None else [code])


def test_scores_are_recorded_for_kept_and_dropped_alike_and_scoring_alone_drops_nothing(dropped, scored):
    all_scored = _rows(scored)
    assert {row["status"] for row in all_scored.values()} == {"kept"}
    for name, row in _rows(dropped).items():
        # What its words give away is not decoded; everything else is scored to the end, whatever spoke first.
        known = ["text_rules"] if row["code"] == "text" else SCORES
        assert {score: row[score] for score in known} == {score: all_scored[name][score] for score in known}
        assert row["code"] == "text" or None not in [row[score] for score in SCORES]
        assert all_scored[name]["flagged"][:1] == row["flagged"][:1]


def test_a_picture_of_what_was_decoded_and_dropped_stands_in_the_index(dropped):
    rows = _rows(dropped)
    with_picture = {name for name, row in rows.items() if row["thumbnail"]}
    assert with_picture == {name for name, code in EXPECTED.items() if code not in (None, "text")}
    assert rows["still.mp4"]["thumbnail"][:2] == b"\xff\xd8"


def test_the_sample_tells_its_scores(scored):
    (tar,) = sorted(scored.glob("unlabeled-*.tar"))[:1]
    row = shards.read_rows(shards.record_of(tar))[0]
    sample = next(_samples(tar))
    assert {name: sample.meta[name] for name in SCORES} == {name: row[name] for name in SCORES}
    assert sample.meta["flagged"] == row["flagged"]
    assert set(sample.arrays) == set(MEMBERS)


def _samples(tar: Path):
    import webdataset.tariterators as tariterators

    with tar.open("rb") as stream:
        files = [{**file, "__url__": tar.name} for file in tariterators.tar_file_iterator(stream)]
        yield from (decode(record) for record in tariterators.group_by_keys(files))


def _command(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.filters", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


CHANGES = ({"motion": 0.0, "moved": 0.0, "black": 1.0, "music": 0.0}, {"tone": 1.0, "music": 1.0})


@pytest.mark.parametrize("changes", CHANGES)
def test_the_command_foretells_what_a_build_with_other_thresholds_keeps(dropped, scored, media, changes, tmp_path):
    build = _build(tmp_path / "set", media, dataclasses.replace(FILTERS, thresholds=Thresholds.of(changes)))
    flags = [word for name, value in changes.items() for word in (f"--{name}", value)]
    for folder, decoded in ((dropped, 7), (scored, 8)):
        done = _command(folder, *flags)
        assert done.returncode == 0, done.stderr
        kept = next(line for line in done.stdout.splitlines() if line.startswith("  kept")).split()
        now = _rows(folder)
        assert kept == ["kept", str(sum(row["status"] == "kept" for row in now.values())), str(build.counts["kept"])]
        assert f"{decoded + (folder == dropped)} clips scored" in done.stdout


def test_a_set_is_judged_by_its_own_thresholds_where_none_is_given(media, tmp_path):
    own = Thresholds.of({"motion": 0.0, "moved": 0.0, "black": 1.0})
    manifest = _build(tmp_path / "set", media, dataclasses.replace(FILTERS, thresholds=own))
    done = _command(tmp_path / "set")
    assert "with its own thresholds" in done.stdout
    assert "0 would come in\n0 would go\n" in done.stdout
    assert manifest.settings["filters"]["thresholds"]["motion"] == 0.0


def test_clips_that_would_come_in_or_go_are_named_with_the_reason(dropped):
    done = _command(dropped, "--motion", 0, "--moved", 0, "--black", 1, "--loudness", 0)
    assert "2 would go" in done.stdout
    assert any("song.mp4" in line and "loudness" in line for line in done.stdout.splitlines())
    done = _command(dropped, "--motion", 0, "--moved", 0, "--black", 1, "--show", 1)
    assert "2 would come in" in done.stdout
    assert "and 1 more (--show)" in done.stdout


def test_a_folder_that_is_no_data_set_gets_one_line(tmp_path, dropped):
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = _command(folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert "holds no data set" in done.stderr
        assert done.stderr.count("\n") == 1
    copy = shutil.copytree(dropped, tmp_path / "copy")
    (copy / "index.parquet").write_text("no parquet")
    done = _command(copy)
    assert done.returncode == 2
    assert done.stderr.startswith("filters: ")
    assert "Traceback" not in done.stderr


def test_a_set_that_was_built_without_filters_is_told_apart(media, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(media / "song.mp4", few)
    manifest = _build(tmp_path / "set", few, Filters(mode="off"))
    assert manifest.settings["filters"] == {"mode": "off"}
    done = _command(tmp_path / "set")
    assert done.returncode == 2
    assert "holds no score" in done.stderr


def test_another_threshold_is_another_set(media, tmp_path):
    from pipeline.errors import UserError

    _build(tmp_path / "set", media, FILTERS)
    with pytest.raises(UserError, match="begun with filters"):
        _build(tmp_path / "set", media, dataclasses.replace(FILTERS, thresholds=Thresholds.of({"speech": 0.5})))


def test_an_unknown_threshold_is_named_with_those_that_there_are():
    from pipeline.errors import UserError

    with pytest.raises(UserError, match="--thresholds talk: no such threshold; known are speech"):
        Thresholds.of({"talk": 0.5})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 40.0, -0.1])
def test_a_threshold_that_is_no_share_is_refused(value):
    from pipeline.errors import UserError

    with pytest.raises(UserError, match=r"--thresholds speech .*: give a"):
        Thresholds.of({"speech": value})


def test_every_code_of_a_filter_is_known_and_what_is_not_scored_is_held_against_nobody():
    assert set(CODES_OF_FILTERS) <= set(CODES)
    assert list(judge({}, Thresholds())) == []
    assert list(judge(dict.fromkeys(SCORES), Thresholds())) == []


def test_scores_are_finite_and_of_the_type_of_their_column(scored):
    table = pq.read_table(scored / "index.parquet")
    assert json.dumps(table.select([*SCORES]).to_pylist(), allow_nan=False)
    for name, kind in SCORES.items():
        assert table.schema.field(name).type == kind
    shares = [name for name in SCORES if name.endswith("_share")]
    for name in shares:
        values = np.array(table.column(name).to_pylist())
        assert ((values >= 0) & (values <= 1)).all(), name
