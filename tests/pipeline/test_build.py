from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset.tariterators as tariterators
from hypothesis import given
from hypothesis import strategies as st

from pipeline import shards
from pipeline.build import MAX_BATCH, Build
from pipeline.errors import UserError
from pipeline.exclude import Excluded
from pipeline.filters.judge import Filters
from pipeline.fingerprint import PICTURE, SOUND, to_bytes
from pipeline.locking import single_writer
from pipeline.prepare import Recipe, prepare
from pipeline.schema import EMOTIONS, MEMBERS, Manifest, Sample, SchemaError, decode, sample_key
from pipeline.sources import Source, list_sources
from pipeline.stages import pack_shard, prepare_samples
from pipeline.storage import publishing
from tests.conftest import run_ffmpeg
from tests.pipeline import standing
from tests.pipeline.standing import arrays
from tests.pipeline.test_duplicates import heard
from tests.pipeline.test_fingerprint import RATE_HZ, melody


def request(out: Path, folder: Path, *, labelled: str | None = "mved", **changes) -> Build:
    settings = {"recipe": Recipe(), "seed": 0, "split_rule": None, "samples_per_shard": 3} | changes
    sources = changes.pop("sources", None) or list_sources(str(folder), labels=labelled)
    return Build.request(
        out=out, sources=sources, labelled=labelled, **{k: v for k, v in settings.items() if k != "sources"}
    )


def run(build: Build, *, num_workers: int = 1, backwards: bool = False) -> Manifest:
    """What the flow does, without Prefect and in this process."""
    build.begin()
    batches = build.batches(build.pending(), num_workers)
    for batch in reversed(batches) if backwards else batches:
        standing.prepare(build, batch)
    build.make_plan()
    standing.pack(build)
    return build.finish()


def fingerprint(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.iterdir()) if p.is_file()]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def records(folder: Path) -> list[tuple[str, dict]]:
    """Every record of every tar, by webdataset's own reader."""
    found = []
    for tar in sorted(folder.glob("*.tar")):
        with tar.open("rb") as stream:
            files = [{**file, "__url__": tar.name} for file in tariterators.tar_file_iterator(stream)]
            found += [(tar.name, record) for record in tariterators.group_by_keys(files)]
    return found


@pytest.fixture(scope="module")
def built(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "mved"
    run(request(out, videos))
    return out


def test_index_manifest_and_tars_agree_and_every_candidate_is_counted(built, videos):
    rows = pq.read_table(built / "index.parquet").to_pylist()
    manifest = Manifest.from_json((built / "dataset.json").read_text())
    in_tars = records(built)
    media = [p for p in videos.rglob("*") if p.is_file()]
    assert len(rows) == len(media) == sum(manifest.counts[s] for s in ("kept", "rejected", "failed")) == 12
    assert manifest.counts == {
        "kept": 7,
        "rejected": 5,
        "failed": 0,
        "by_code": {"no-audio": 1, "no-video": 1, "too-short": 1, "undecodable": 2},
    }
    kept = {row["key"]: row for row in rows if row["status"] == "kept"}
    assert len(kept) == len(in_tars) == 7
    for tar, record in in_tars:
        sample = decode(record)
        row = kept[sample.key]
        assert tar == row["shard"]
        assert EMOTIONS[sample.label] == row["label"] == sample.meta["label"]
        assert sample.meta["split"] == row["split"] == tar.rsplit("-", 1)[0]
        assert sample.meta["source_group"] == row["source_group"]
        assert set(sample.arrays) == set(MEMBERS)
    assert {s: d["samples"] for s, d in manifest.splits.items()} == {"train": 4, "val": 1, "test": 2}
    assert sum(sum(d["per_class"].values()) for d in manifest.splits.values()) == 7
    assert manifest.splits["train"]["shards"] == ["train-000000.tar", "train-000001.tar"]


def test_each_tar_has_a_commit_record_with_its_hash_and_rows_in_its_order(built):
    for tar in built.glob("*.tar"):
        table = pq.read_table(shards.record_of(tar))
        assert table.schema.metadata[b"tar_sha256"].decode() == hashlib.sha256(tar.read_bytes()).hexdigest()
        assert int(table.schema.metadata[b"tar_bytes"]) == tar.stat().st_size
        assert table["key"].to_pylist() == [r["__key__"] for name, r in records(built) if name == tar.name]


def test_normalisation_is_that_of_the_stored_training_arrays(built):
    manifest = Manifest.from_json((built / "dataset.json").read_text())
    samples = [decode(record) for tar, record in records(built) if tar.startswith("train")]
    for name, member in MEMBERS.items():
        values = np.moveaxis(np.stack([s.arrays[name] for s in samples]).astype(np.float64), member.channel_axis + 1, 0)
        channels = values.reshape(len(values), -1)
        assert np.allclose(manifest.normalization[name]["mean"], channels.mean(axis=1), rtol=1e-6, atol=1e-9)
        assert np.allclose(manifest.normalization[name]["std"], channels.std(axis=1), rtol=1e-6)


def test_nothing_stored_tells_of_this_machine(built, videos):
    told = (built / "dataset.json").read_text() + (built / "README.md").read_text()
    told += "".join(record["json"].decode() for _, record in records(built))
    told += json.dumps(pq.read_table(built / "index.parquet").to_pylist(), default=repr)  # fingerprints are bytes
    assert str(videos) not in told
    assert str(built) not in told


def test_segments_of_one_video_share_a_group_and_stems_that_repeat_do_not(built):
    groups = {r["source_id"]: r["source_group"] for r in pq.read_table(built / "index.parquet").to_pylist()}
    one, two = (g for name, g in groups.items() if "NEW_EXC(2)" in name)
    assert one == two == "NEW_EXC(2)"
    assert groups["Train/Excited/video/14.mp4"] != groups["Train/Sad/video/14.mp4"]


@pytest.mark.parametrize(("num_workers", "backwards"), [(1, True), (4, False), (4, True)])
def test_the_set_does_not_depend_on_batches_or_on_who_finished_first(built, videos, tmp_path, num_workers, backwards):
    out = tmp_path / "of another name"
    run(request(out, videos), num_workers=num_workers, backwards=backwards)
    assert fingerprint(out) == fingerprint(built)


def test_a_second_build_finds_nothing_to_do(built, videos):
    before = fingerprint(built)
    build = request(built, videos)
    build.begin()
    assert build.pending() == []
    assert fingerprint(built) == before
    assert run(build) == Manifest.from_json((built / "dataset.json").read_text())
    assert fingerprint(built) == before


class Killed(BaseException):
    """Stands for a SIGKILL: nothing but finally clauses of the standard library would run."""


@given(count=st.integers(0, 300), num_workers=st.integers(1, 16))
def test_batches_hold_every_candidate_once_and_the_last_ones_are_small(count, num_workers):
    batches = Build.batches(range(count), num_workers)
    sizes = [len(batch) for batch in batches]
    assert list(itertools.chain(*batches)) == list(range(count))
    assert all(1 <= size <= MAX_BATCH for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2 * num_workers :] == [1] * min(len(sizes), 2 * num_workers)


@pytest.mark.slow
def test_killed_at_any_published_file_and_run_again_it_ends_in_the_same_bytes(built, videos, tmp_path, monkeypatch):
    """Die before the n-th file gets its final name or is removed, for every n that there is."""
    real_replace, real_unlink = Path.replace, Path.unlink
    parts = tmp_path / "prepared"
    first = request(parts, videos)
    first.begin()
    for batch in first.batches(first.pending(), 1):  # preparing is the slow part: done once, the parts are copied
        standing.prepare(first, batch)
    num_kills = 0
    for n in itertools.count():
        out = tmp_path / f"killed-{n}" / "mved"
        shutil.copytree(parts, out)
        left = itertools.count(n, -1)

        def replace(self: Path, target: Path, left=left) -> Path:
            if next(left) == 0:
                raise Killed
            return real_replace(self, target)

        def unlink(self: Path, missing_ok: bool = False, left=left) -> None:
            if self.parent.name == ".build" and self.exists() and next(left) == 0:
                raise Killed
            real_unlink(self, missing_ok)

        try:
            with monkeypatch.context() as dying:
                dying.setattr(Path, "replace", replace)
                dying.setattr(Path, "unlink", unlink)
                run(request(out, videos))
        except Killed:
            num_kills += 1
            run(request(out, videos))
        else:
            break
        assert fingerprint(out) == fingerprint(built), n
        assert not list(out.rglob("part-*"))
        shutil.rmtree(out.parent)
    assert num_kills >= 2 * len(list(built.glob("*.tar"))) + 8


def test_new_videos_append_shards_and_leave_the_old_ones_alone(videos, tmp_path, make_media):
    folder = tmp_path / "media"
    shutil.copytree(videos, folder)
    out = tmp_path / "set"
    run(request(out, folder))
    before = fingerprint(out)
    make_media(folder / "Train/Sad/video/00 new.mp4", sound="sine=frequency=99:sample_rate=44100")
    shutil.copy(folder / "Train/Sad/video/14.mp4", folder / "Train/Sad/video/15 again.mp4")
    manifest = run(request(out, folder))
    after = fingerprint(out)
    old = [name for name in before if name.startswith(("train-", "val-", "test-"))]
    assert all(after[name] == before[name] for name in old)
    assert set(after) - set(before) == {"train-000002.tar", "train-000002.parquet"}
    assert manifest.counts["kept"] == 8
    assert manifest.counts["by_code"]["duplicate"] == 1
    assert len(pq.read_table(out / "index.parquet")) == 14


def test_a_video_of_the_same_bytes_shares_the_group_even_with_another_span(tmp_path, make_media):
    make_media(tmp_path / "media/a.mp4", seconds=60)
    shutil.copy(tmp_path / "media/a.mp4", tmp_path / "media/b.mp4")
    run(request(tmp_path / "set", tmp_path / "media", labelled=None))
    rows = pq.read_table(tmp_path / "set/index.parquet").to_pylist()
    assert [r["status"] for r in rows] == ["kept", "kept"]
    assert rows[0]["start_s"] != rows[1]["start_s"]
    assert {r["source_group"] for r in rows} == {"a.mp4"}


def test_an_unlabelled_set_has_one_split_and_no_classes(videos, tmp_path):
    manifest = run(request(tmp_path / "set", videos, labelled=None, recipe=Recipe(modality="video")))
    assert list(manifest.splits) == ["unlabeled"]
    assert manifest.labels is None
    assert list(manifest.normalization) == ["frames"]
    assert all("cls" not in record for _, record in records(tmp_path / "set"))


def test_what_another_set_holds_is_left_out_and_told_whether_it_is_the_file_or_the_picture(
    built, videos, tmp_path, make_media
):
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(videos / "Train/Sad/video/14.mp4", media / "copy.mp4")
    again = ("-vf", "scale=128:72", "-c:v", "mpeg4", "-q:v", "8", "-an")
    run_ffmpeg("-i", str(videos / "Train/Excited/video/14.mp4"), *again, str(media / "again.mkv"))
    make_media(media / "new.mp4", picture="mandelbrot=size=96x54:rate=15", seconds=27)
    excluded, recipe = Excluded.of([built]), Recipe(modality="video")
    manifest = run(request(tmp_path / "set", media, labelled=None, recipe=recipe, excluded=excluded))
    assert manifest.counts == {"kept": 1, "rejected": 2, "failed": 0, "by_code": {"excluded": 2}}
    rows = {r["source_id"]: r for r in pq.read_table(tmp_path / "set/index.parquet").to_pylist()}
    assert rows["copy.mp4"]["detail"] == "mved holds this file"
    assert rows["again.mkv"]["detail"].startswith("picture as in mved: ")
    assert rows["again.mkv"]["key"] is None
    assert rows["new.mp4"]["status"] == "kept"


def test_a_file_whose_name_is_no_text_becomes_a_clip_as_any_other(tmp_path, make_media):
    media = tmp_path / "media"
    media.mkdir()
    make_media(media / "plain.mp4", seconds=27)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(media / "plain.mp4", os.fsdecode(bytes(alone) + b"/odd \xff.mp4"))
    manifests = [run(request(tmp_path / f"set-{folder.name}", folder, labelled=None)) for folder in (media, alone)]
    assert [manifest.counts["kept"] for manifest in manifests] == [1, 1]
    (row,) = pq.read_table(tmp_path / "set-alone/index.parquet").to_pylist()
    assert row["source_id"] == "odd \\udcff.mp4"


# --- the same song or video again ------------------------------------------------------------------------------------


def song(name: str, sound: str, start_s: float, *, number: int = 0, split: str | None = None) -> tuple[Source, Sample]:
    """A candidate that nobody has to decode, which plays a recording from there on."""
    source = Source(
        source_id=name if number == 0 else f"{name} (clip {number + 1})",
        link=name,
        title=name,
        label="Sad",
        split=split,
        groups=(name,),
        video_id=name,
        number=number,
    )
    known = {"source_id": source.source_id, "link": name, "title": name, "start_s": start_s, "duration_s": 200.0}
    key = sample_key(title=name, source_id=source.source_id, start_ms=round(start_s * 1000))
    prints = {"sound_print": to_bytes(heard(SOUND, sound, start_s)), "picture_print": to_bytes(heard(PICTURE, key, 0))}
    meta = known | {"sha256": hashlib.sha256(key.encode()).hexdigest(), "flagged": ["tone"]}
    return source, Sample(key=key, arrays=arrays(key, "audio"), label=None, meta=meta, index_only=prints)


def songs() -> list[tuple[Source, Sample]]:
    """Seven clips; d is b again, g is f, and e shares ten seconds with f."""
    named = {"b": "one", "c": "two", "d": "one", "e": "three", "f": "three", "g": "three", "h": "four"}
    starts = {"d": 5, "f": 20, "g": 22}
    return [song(f"site:{name}", what, starts.get(name, 0)) for name, what in named.items()]


def requested(out: Path, clips: list[tuple[Source, Sample]], mode: str, split_rule: str | None) -> Build:
    return Build.request(
        out=out,
        sources=[source for source, _ in clips],
        recipe=Recipe(modality="audio"),
        seed=0,
        labelled="labels.csv",
        split_rule=split_rule,
        samples_per_shard=2,
        filters=Filters(mode=mode),
    )


def run_prepared(
    out: Path, clips: list[tuple[Source, Sample]], *, mode: str, split_rule: str = "grouped", batch: int = 3
) -> dict[str, dict]:
    """What the flow does, of clips that are prepared; rows of the index by source."""
    build = requested(out, clips, mode, split_rule)
    build.begin()
    sample_of = {source.source_id: sample for source, sample in clips}
    pending = build.pending()
    for first in range(0, len(pending), batch):
        some = pending[first : first + batch]
        made = [shards.prepared(source, sample_of[source.source_id]) for source in some]
        shards.write_part(build.work, some, made)
    build.make_plan()
    standing.pack(build)
    build.finish()
    return {row["source_id"]: row for row in pq.read_table(out / "index.parquet").to_pylist()}


def test_a_shard_that_stands_is_not_packed_again_though_a_cluster_sends_it_twice(tmp_path):
    run_prepared(tmp_path / "set", songs(), mode="drop")
    before = fingerprint(tmp_path / "set")
    for name in before:
        if name.endswith(".tar"):
            pack_shard(tmp_path / "set", name, ["a"], "another recipe")
    assert fingerprint(tmp_path / "set") == before


def test_what_a_worker_prepared_too_late_is_no_part_and_goes(tmp_path, videos):
    build = request(tmp_path / "set", videos, limit=1)
    build.begin()
    rows = prepare_samples(build.work, build.pending(), build.recipe, 0)
    assert [row["status"] for row in rows] == ["kept"]
    assert list(build.work.glob("part-*.tar"))
    assert not build.parts()
    build.begin()
    assert not list(build.work.glob("part-*"))


def test_two_that_write_one_file_at_once_do_not_write_into_each_other(tmp_path):
    with publishing(tmp_path / "x") as one, publishing(tmp_path / "x") as other:
        one.write_text("one")
        other.write_text("other")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() in ("one", "other")


def test_the_same_song_again_is_dropped_and_the_index_tells_of_which_and_how_much(tmp_path):
    rows = run_prepared(tmp_path / "set", songs(), mode="drop")
    assert {name: row["code"] for name, row in rows.items() if row["status"] != "kept"} == {
        "site:d": "duplicate",
        "site:g": "duplicate",
    }
    assert rows["site:d"]["duplicate_of"] == rows["site:b"]["key"]
    assert rows["site:d"]["detail"] == f"shares 25.0 s of its sound with {rows['site:b']['key']}"
    assert rows["site:g"]["duplicate_of"] == rows["site:f"]["key"]
    assert rows["site:e"]["source_group"] == rows["site:f"]["source_group"] == "site:e"
    assert {rows[f"site:{name}"]["flagged"] == ["tone"] for name in "bcefh"} == {True}
    manifest = Manifest.from_json((tmp_path / "set/dataset.json").read_text())
    assert manifest.counts["by_code"] == {"duplicate": 2}


def test_where_clips_are_scored_the_same_song_again_is_marked_and_stands_in_the_same_split(tmp_path):
    rows = run_prepared(tmp_path / "set", songs(), mode="score")
    assert {row["status"] for row in rows.values()} == {"kept"}
    marked = {name: row["duplicate_of"] for name, row in rows.items() if row["duplicate_of"]}
    assert marked == {"site:d": rows["site:b"]["key"], "site:g": rows["site:f"]["key"]}
    assert [name for name, row in sorted(rows.items()) if "duplicate" in row["flagged"]] == ["site:d", "site:g"]
    assert rows["site:d"]["flagged"] == ["tone", "duplicate"]
    assert len({rows[f"site:{name}"]["split"] for name in "bd"}) == 1
    assert len({rows[f"site:{name}"]["split"] for name in "efg"}) == 1
    assert {row["source_group"] for row in rows.values()} == {"site:b", "site:c", "site:e", "site:h"}


def test_where_nothing_is_asked_the_same_song_again_stands(tmp_path):
    rows = run_prepared(tmp_path / "set", songs(), mode="off")
    assert {(row["status"], row["duplicate_of"]) for row in rows.values()} == {("kept", None)}
    assert len({row["source_group"] for row in rows.values()}) == 7


@pytest.mark.parametrize("mode", ["drop", "score"])
def test_a_pair_across_official_splits_stays_and_can_be_counted(tmp_path, mode):
    clips = [song("site:a", "one", 0, split="train"), song("site:b", "one", 1, split="test")]
    rows = run_prepared(tmp_path / "set", clips, mode=mode, split_rule="official")
    assert [(row["split"], row["duplicate_of"]) for _, row in sorted(rows.items())] == [
        ("train", None),
        ("test", rows["site:a"]["key"]),
    ]


@pytest.mark.parametrize("mode", ["drop", "score"])
def test_songs_that_come_later_are_compared_to_those_that_stand(tmp_path, mode):
    clips = songs()
    whole = run_prepared(tmp_path / "whole", clips, mode=mode)
    run_prepared(tmp_path / "set", clips[:3], mode=mode)
    before = fingerprint(tmp_path / "set")
    rows = run_prepared(tmp_path / "set", clips, mode=mode)
    after = fingerprint(tmp_path / "set")
    assert all(after[name] == digest for name, digest in before.items() if name.startswith(("train-", "val-", "test-")))
    told = ("status", "code", "detail", "duplicate_of", "flagged", "source_group")
    assert {n: [row[k] for k in told] for n, row in rows.items()} == {
        n: [row[k] for k in told] for n, row in whole.items()
    }


def test_a_video_that_was_joined_to_another_keeps_its_name_for_its_later_clips(tmp_path):
    """A commit record holds the group's name alone; the others are told by the clip's identity."""
    clips = [song("site:a", "one", 0), song("site:b", "one", 20), song("site:b", "two", 90, number=1)]
    run_prepared(tmp_path / "set", clips[:2], mode="drop")
    rows = run_prepared(tmp_path / "set", clips, mode="drop")
    assert {row["source_group"] for row in rows.values()} == {"site:a"}
    assert len({row["split"] for row in rows.values()}) == 1


@pytest.mark.slow
def test_a_set_with_the_same_songs_again_does_not_depend_on_batches_and_survives_a_kill_at_any_file(
    tmp_path, monkeypatch
):
    clips = songs()
    run_prepared(tmp_path / "set", clips, mode="score")
    whole = fingerprint(tmp_path / "set")
    run_prepared(tmp_path / "by one", clips, mode="score", batch=1)
    assert fingerprint(tmp_path / "by one") == whole
    real_replace = Path.replace
    num_kills = 0
    for n in itertools.count():
        out = tmp_path / f"killed-{n}"
        left = itertools.count(n, -1)

        def replace(self: Path, target: Path, left=left) -> Path:
            if next(left) == 0:
                raise Killed
            return real_replace(self, target)

        try:
            with monkeypatch.context() as dying:
                dying.setattr(Path, "replace", replace)
                run_prepared(out, clips, mode="score")
        except Killed:
            num_kills += 1
            run_prepared(out, clips, mode="score")
        else:
            break
        assert fingerprint(out) == whole, n
    assert num_kills >= 10


def test_a_video_coded_anew_and_mirrored_is_found_and_one_with_another_song_shares_its_picture_alone(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    for name, seed in (("tune", 1), ("other", 2)):
        melody(seed).astype("<f4").tofile(tmp_path / name)
    raw = ("-f", "f32le", "-ar", str(RATE_HZ), "-ac", "1", "-i")
    picture = "mandelbrot=size=160x90:rate=15:end_scale=0.01:end_pts=300,hue=h=40*t"
    film = ("-f", "lavfi", "-t", "30", "-i", picture, *raw, str(tmp_path / "tune"))
    run_ffmpeg(*film, "-c:v", "mpeg4", "-q:v", "3", "-c:a", "pcm_s16le", str(media / "a.mkv"))
    again = ("-vf", "hflip,scale=128:72", "-c:v", "mpeg4", "-q:v", "9", "-c:a", "libmp3lame", "-b:a", "64k")
    run_ffmpeg("-i", str(media / "a.mkv"), *again, str(media / "b.mkv"))
    new_sound = ("-i", str(media / "a.mkv"), *raw, str(tmp_path / "other"), "-map", "0:v", "-map", "1:a")
    run_ffmpeg(*new_sound, "-c:v", "copy", "-c:a", "pcm_s16le", str(media / "c.mkv"))
    build = request(tmp_path / "set", media, labelled=None, filters=Filters(mode="score"))
    build.begin()
    standing.prepare(build, build.pending())
    build.make_plan()
    rows = {row["source_id"]: row for row in build.plan_rows()}
    assert [rows[f"{name}.mkv"]["duplicate_of"] for name in "abc"] == [None, *[rows["a.mkv"]["key"]] * 2]
    assert {row["source_group"] for row in rows.values()} == {"a.mkv"}


def test_our_own_error_fails_that_clip_alone_and_it_is_tried_again(built, videos, tmp_path, monkeypatch):
    out = tmp_path / "mved"
    build = request(out, videos)
    unlucky = build.sources[1]

    def broken(source, **settings):
        return 1 / 0 if source is unlucky else prepare(source, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.prepare", broken)
        manifest = run(build)
    assert manifest.counts["failed"] == 1
    (row,) = [r for r in pq.read_table(out / "index.parquet").to_pylist() if r["status"] == "failed"]
    assert (row["source_id"], row["code"]) == (unlucky.source_id, "internal")
    assert "ZeroDivisionError" in row["detail"]
    assert request(out, videos).pending() == [unlucky]
    assert run(request(out, videos)).counts["kept"] == 7
    assert len(pq.read_table(out / "index.parquet")) == 12


def test_a_full_disk_stops_the_build_and_loses_nothing(built, videos, tmp_path, monkeypatch):
    out = tmp_path / "mved"
    build = request(out, videos)

    def full(source, **settings):
        if source is build.sources[3]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return prepare(source, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.prepare", full)
        with pytest.raises(OSError, match="No space left"):
            run(build, num_workers=4)
    run(request(out, videos))
    assert fingerprint(out) == fingerprint(built)


def test_what_a_killed_build_left_half_written_is_cleared(videos, tmp_path):
    build = request(tmp_path / "set", videos)
    build.begin()
    for leftover in (
        build.out / ".train-000000.tar.1.tmp",
        build.work / ".part-0.tar.1.tmp",
        build.work / "part-0123456789abcdef-00.tar",  # of a part whose rows were never written
    ):
        leftover.write_bytes(b"half")
    build.begin()
    assert [p.name for p in build.out.rglob("*") if p.is_file()] == ["request.json"]


def test_a_prepared_sample_goes_as_soon_as_it_stands_in_its_shard(videos, tmp_path):
    build = request(tmp_path / "set", videos)
    build.begin()
    for batch in build.batches(build.pending(), 1):
        standing.prepare(build, batch)
    build.make_plan()
    planned = [row["shard"] for row in build.plan_rows(["shard"]) if row["shard"]]
    left = len(planned)
    for name in build.shards_to_pack():
        standing.pack(build, [name])
        left -= planned.count(name)
        assert len(list(build.work.glob("part-*.tar"))) == left
    assert left == 0


def test_two_clips_of_one_key_are_told_apart(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.prepare.sample_key", lambda **_: "clip_00000000_00000000")
    manifest = run(request(tmp_path / "set", videos))
    assert manifest.counts["kept"] == 1
    assert manifest.counts["by_code"]["key-collision"] == 6
    assert len(pq.read_table(tmp_path / "set/index.parquet")) == 12


def test_a_limit_may_grow(videos, tmp_path):
    table = tmp_path / "labels.csv"
    names = [s.source_id for s in list_sources(str(videos), labels="mved") if "14" in s.source_id]
    table.write_text(
        "file,label\n" + "".join(f"{name},{mood}\n" for name, mood in zip(names, ("Joy", "Awe"), strict=True))
    )
    run(request(tmp_path / "set", videos, labelled=str(table), limit=1))
    manifest = run(request(tmp_path / "set", videos, labelled=str(table)))
    assert (manifest.labels, manifest.counts["kept"]) == (["Awe", "Joy"], 2)


def test_the_same_names_in_another_folder_are_not_taken_for_the_same_videos(videos, tmp_path):
    run(request(tmp_path / "set", videos, origin=str(videos)))
    with pytest.raises(UserError, match="begun from another --source"):
        request(tmp_path / "set", videos, origin="elsewhere").check_against_earlier()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "begun with seed 0, not with 1"),
        ({"recipe": Recipe(modality="audio")}, "begun with recipe"),
        ({"split_rule": "grouped"}, 'begun with split_rule "official"'),
    ],
)
def test_another_request_for_the_same_folder_is_refused(built, videos, changes, words):
    with pytest.raises(UserError, match=words):
        request(built, videos, **changes).check_against_earlier()


def test_contradictory_requests_are_refused(videos, tmp_path):
    with pytest.raises(UserError, match="--split is for labelled sets"):
        request(tmp_path / "s", videos, labelled=None, split_rule="grouped")
    table = tmp_path / "labels.csv"
    table.write_text("file,label\nTrain/Sad/video/14.mp4,Sad\n")
    with pytest.raises(UserError, match="--split official"):
        request(tmp_path / "s", videos, labelled=str(table), split_rule="official")
    assert request(tmp_path / "s", videos, labelled=str(table)).settings.split_rule == "grouped"


def test_a_set_without_its_manifest_is_built_as_before_and_has_it_again(built, videos, tmp_path):
    out = Path(shutil.copytree(built, tmp_path / "set"))
    (out / "dataset.json").write_text("{")
    with pytest.raises(SchemaError, match="remove it and build the set as before"):
        request(out, videos).check_against_earlier()
    (out / "dataset.json").unlink()
    run(request(out, videos))
    assert fingerprint(out) == fingerprint(built)


def test_a_set_of_another_schema_version_is_refused(built, videos, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    raw = json.loads((out / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps(raw | {"schema_version": 0}))
    with pytest.raises(SchemaError, match="schema version 0"):
        request(out, videos).check_against_earlier()


def test_a_file_being_written_has_no_final_name_until_it_is_whole(tmp_path):
    with pytest.raises(RuntimeError), publishing(tmp_path / "x.tar") as scratch:  # noqa: PT012
        scratch.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_writer(tmp_path):
    with (
        single_writer(tmp_path / ".build", doing="building a set", flag="--out"),
        pytest.raises(UserError, match="another process is building"),
    ):
        with single_writer(tmp_path / ".build", doing="building a set", flag="--out"):
            pass
    with single_writer(tmp_path / ".build", doing="building a set", flag="--out"):
        pass
