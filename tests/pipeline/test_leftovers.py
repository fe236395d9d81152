"""What was removed, or left by older software, costs a build the clips concerned and no other."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import shards
from pipeline.build import Build
from pipeline.errors import UserError
from pipeline.schema import SCHEMA_VERSION, Manifest
from pipeline.verify import verify
from tests.pipeline.standing import Clip, fingerprint, make_parts, pack, request

CLIPS = (
    *(Clip(name=f"{n}.mp4", label=None) for n in range(5)),
    Clip(name="again.mp4", content="0.mp4", label=None),
    Clip(name="short.mp4", code="too-short", label=None),
)
"""Five clips that are kept, in three shards; a file of the same bytes as the first, and one that is rejected."""

KEPT = [f"{n}.mp4" for n in range(5)]


def order(out: Path) -> Build:
    return request(out, CLIPS)


def go_on(out: Path) -> tuple[list[str], list[str], Manifest]:
    """What the flow does, from wherever the build stands: lines of its log, and what it prepared."""
    build = order(out)
    told = build.begin()
    if build.plan_file.exists():
        pack(build)
        build.finish()
    prepared = make_parts(build, CLIPS, batch=3)
    build.make_plan()
    pack(build)
    return told, prepared, build.finish()


def planned(out: Path) -> Build:
    build = order(out)
    build.begin()
    make_parts(build, CLIPS, batch=3)
    build.make_plan()
    return build


def assert_whole(out: Path, manifest: Manifest) -> None:
    """Every clip is there, once, and the set is sound."""
    assert manifest.counts == {
        "kept": 5,
        "rejected": 2,
        "failed": 0,
        "by_code": {"duplicate": 1, "too-short": 1},
    }
    rows = [row for tar in shards.committed_shards(out) for row in shards.read_rows(shards.record_of(tar))]
    assert sorted(row["source_id"] for row in rows) == KEPT
    assert verify(str(out)) == 0
    assert not list((out / ".build").glob("p*"))


def clips_of(record: Path) -> list[str]:
    return sorted(row["source_id"] for row in shards.read_rows(record))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "set"
    go_on(out)
    return out


@pytest.mark.parametrize(("number", "suffix"), [(0, "tar"), (2, "tar"), (2, "parquet")])
def test_a_shard_of_which_a_half_was_removed_is_made_again(built, tmp_path, number, suffix):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    held = clips_of(out / f"unlabeled-00000{number}.parquet")
    (out / f"unlabeled-00000{number}.{suffix}").unlink()
    told, prepared, manifest = go_on(out)
    assert prepared == held
    if suffix == "tar":
        assert told == [f"1 shards are gone, such as unlabeled-00000{number}.tar: their clips are prepared again"]
    assert_whole(out, manifest)
    if number == 2:
        assert fingerprint(out) == fingerprint(built)
    assert go_on(out)[:2] == ([], [])


@pytest.mark.parametrize("gone", ["tar", "both"])
def test_a_shard_removed_while_its_plan_is_carried_out_is_made_again(tmp_path, gone):
    out = tmp_path / "set"
    build = planned(out)
    name = build.shards_to_pack()[0]
    pack(build, [name])
    held = clips_of(shards.record_of(out / name))
    (out / name).unlink()
    if gone == "both":
        shards.record_of(out / name).unlink()
    with pytest.raises(UserError, match=f"{name} is planned and not there \\(3 such\\)"):
        build.finish()
    assert not (out / "dataset.json").exists()
    told, prepared, manifest = go_on(out)
    assert prepared == held
    assert any("what it packed stays, the rest is planned again" in line for line in told)
    assert_whole(out, manifest)


def test_a_sample_that_is_missing_from_a_whole_part_costs_that_clip_alone(built, tmp_path):
    out = tmp_path / "set"
    build = order(out)
    build.begin()
    make_parts(build, CLIPS, batch=3)
    lost = next(
        row["sample"] for part in build.parts() for row in shards.read_rows(part) if row["source_id"] == "1.mp4"
    )
    (build.work / lost).unlink()
    told, prepared, manifest = go_on(out)
    assert told == [f"1 prepared samples are gone, such as {lost}: their clips are prepared again"]
    assert prepared == ["1.mp4"]
    assert_whole(out, manifest)
    assert fingerprint(out) == fingerprint(built)


@pytest.mark.parametrize("packed", [0, 1, 2])
def test_a_plan_that_needs_a_missing_sample_keeps_what_it_packed_and_plans_the_rest_again(tmp_path, packed):
    out = tmp_path / "set"
    build = planned(out)
    names = build.shards_to_pack()
    pack(build, names[:packed])
    before = {tar.name: tar.read_bytes() for tar in shards.committed_shards(out)}
    (lost,) = build.plan_rows(shard=names[2])
    (build.work / lost["sample"]).unlink()
    _, prepared, manifest = go_on(out)
    assert prepared == [lost["source_id"]]
    assert_whole(out, manifest)
    assert {name: (out / name).read_bytes() for name in before} == before


def test_killed_while_it_mends_a_half_packed_plan_it_loses_and_repeats_nothing(tmp_path, monkeypatch):
    """The second shard stands, with its samples, the first is a tar with no record, the third has lost its sample."""
    first = tmp_path / "first"
    build = planned(first)
    names = build.shards_to_pack()
    shutil.copytree(build.work, tmp_path / "work")
    pack(build, names[:2])
    shards.record_of(first / names[0]).unlink()
    for row in shards.read_rows(build.plan_file):
        if row["shard"] in names[:2]:
            shutil.copy(tmp_path / "work" / row["sample"], build.work)
        elif row["shard"] == names[2]:
            (build.work / row["sample"]).unlink()
            lost = row["source_id"]
    real_replace, real_unlink = Path.replace, Path.unlink
    for n in itertools.count():
        out = tmp_path / f"killed-{n}"
        shutil.copytree(first, out)
        left = itertools.count(n, -1)

        def dies(self: Path, left=left) -> None:
            if not self.name.endswith(".tmp") and self.exists() and next(left) == 0:
                raise KeyboardInterrupt

        def replace(self: Path, target: Path, dies=dies) -> Path:
            dies(target)
            return real_replace(self, target)

        def unlink(self: Path, missing_ok: bool = False, dies=dies) -> None:
            dies(self)
            real_unlink(self, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            patch.setattr(Path, "unlink", unlink)
            try:
                order(out).begin()
            except KeyboardInterrupt:
                killed = True
            else:
                killed = False
        _, prepared, manifest = go_on(out)
        assert prepared == [lost]
        assert_whole(out, manifest)
        if not killed:
            break
    assert n > 3


@pytest.mark.parametrize("stopped", ["prepared", "planned", "packed"])
def test_parts_of_older_software_are_prepared_again_and_the_log_says_so(tmp_path, stopped):
    out = tmp_path / "set"
    build = order(out)
    build.begin()
    make_parts(build, CLIPS, batch=3)
    if stopped != "prepared":
        build.make_plan()
    standing = []
    if stopped == "packed":
        pack(build, ["unlabeled-000000.tar"])
        standing = clips_of(out / "unlabeled-000000.parquet")
    as_before(build.work)
    told, prepared, manifest = go_on(out)
    assert prepared == [name for name in (*KEPT, "again.mp4") if name not in standing]
    assert any(f"{len(prepared)} clips were prepared by older software" in line for line in told)
    assert_whole(out, manifest)


def as_before(work: Path) -> None:
    """Turn what was prepared into the layout in which the samples of a part were one tar."""
    for table in (*work.glob("part-*.parquet"), *work.glob("plan.parquet")):
        rows = pq.read_table(table)
        columns = [name for name in rows.column_names if name != "sample"]
        rows = rows.select(columns)
        rows = rows.append_column("part", pa.array([f"{table.stem}.tar"] * len(rows)))
        for name in ("offset", "num_bytes"):
            rows = rows.append_column(name, pa.array([0] * len(rows), pa.int64()))
        pq.write_table(rows.replace_schema_metadata({"schema_version": str(SCHEMA_VERSION)}), table)
        if table.stem.startswith("part-"):
            table.with_suffix(".tar").write_bytes(b"samples")
    for sample in work.glob("part-*-*.tar"):
        sample.unlink()
