"""What was removed, or left by older software, costs a build the clips concerned and no other."""

from __future__ import annotations

import itertools
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import shards
from pipeline.build import Build
from pipeline.errors import UserError
from pipeline.exclude import Excluded
from pipeline.schema import SCHEMA_VERSION, Manifest
from pipeline.verify import verify
from tests.pipeline.standing import Clip, build, fingerprint, make_parts, pack, request

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


@pytest.mark.parametrize(("number", "suffix"), [(0, "tar"), (2, "tar"), (0, "parquet"), (2, "parquet")])
def test_a_shard_of_which_a_half_was_removed_is_made_again(built, tmp_path, number, suffix):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    held = clips_of(out / f"unlabeled-00000{number}.parquet")
    (out / f"unlabeled-00000{number}.{suffix}").unlink()
    told, prepared, manifest = go_on(out)
    assert prepared == held
    lost = "are gone" if suffix == "tar" else "have lost their records"
    assert told == [f"1 shards {lost}, such as unlabeled-00000{number}.tar: their clips are prepared again"]
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


@pytest.mark.parametrize("packed", [0, 1])
@pytest.mark.parametrize("bytes_left", [0, 300])
def test_a_damaged_plan_is_made_again(tmp_path, packed, bytes_left):
    out = tmp_path / "set"
    build = planned(out)
    pack(build, build.shards_to_pack()[:packed])
    build.plan_file.write_bytes(build.plan_file.read_bytes()[:bytes_left])
    told, prepared, manifest = go_on(out)
    assert told == ["an earlier build's plan is damaged; what it packed stays, the rest is planned again"]
    assert prepared == []
    assert_whole(out, manifest)


def test_a_damaged_table_of_prepared_clips_costs_these_alone(built, tmp_path):
    out = tmp_path / "set"
    build = order(out)
    build.begin()
    make_parts(build, CLIPS, batch=3)
    part = build.parts()[1]
    held = [row["source_id"] for row in shards.read_rows(part)]
    part.write_bytes(part.read_bytes()[:300])
    told, prepared, manifest = go_on(out)
    assert told == [f"1 tables of prepared clips are damaged, such as {part.name}: their clips are prepared again"]
    assert prepared == held
    assert_whole(out, manifest)
    assert fingerprint(out) == fingerprint(built)


@pytest.mark.parametrize("cut", ["empty", "in a member", "between members", "no tar"])
def test_a_damaged_sample_is_told_and_prepared_again(tmp_path, cut):
    out = tmp_path / "set"
    build = planned(out)
    name = build.shards_to_pack()[2]
    (row,) = build.plan_rows(shard=name)
    sample = build.work / row["sample"]
    content = sample.read_bytes()
    with tarfile.open(sample) as tar:
        end_of_first = -(-tar.getmembers()[0].size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE
    left = {"empty": 0, "in a member": len(content) // 2, "between members": end_of_first, "no tar": len(content)}[cut]
    sample.write_bytes(b"x" * left if cut == "no tar" else content[:left])
    with pytest.raises(UserError, match=f"{sample.name} is damaged .*the same command prepares its clip again"):
        pack(build, [name])
    assert not (out / name).exists()
    _, prepared, manifest = go_on(out)
    assert prepared == [row["source_id"]]
    assert_whole(out, manifest)


def test_a_plan_that_holds_what_is_excluded_since_is_made_again_without_it(built, tmp_path):
    other = tmp_path / "other"
    build(other, [Clip(name="elsewhere.mp4", content="1.mp4", label=None)])
    out = tmp_path / "set"
    holder = next(row["shard"] for row in planned(out).plan_rows() if row["source_id"] == "1.mp4")
    others = [name for name in order(out).shards_to_pack() if name != holder]
    pack(order(out), others[:1])
    narrower = replace(order(out), excluded=Excluded.of([other]))
    told = narrower.begin()
    assert told == [
        "an earlier build's plan holds what is excluded now; what it packed stays, the rest is planned again"
    ]
    assert narrower.pending() == []
    narrower.make_plan()
    pack(narrower)
    manifest = narrower.finish()
    assert manifest.counts["by_code"]["excluded"] == 1
    assert "1.mp4" not in {row["source_id"] for row in narrower.committed_rows(["source_id"])}
    narrower.check_against_earlier()


def test_a_plan_that_has_packed_what_is_excluded_since_is_refused(tmp_path, built):
    out = tmp_path / "set"
    pack(planned(out))
    with pytest.raises(UserError, match="holds 5 clips of the excluded sets already"):
        replace(order(out), excluded=Excluded.of([built])).begin()


def test_a_set_that_lost_its_index_is_built_as_before_and_has_it_again(built, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    (out / "index.parquet").unlink()
    assert order(out).up_to_date() is None
    _, prepared, manifest = go_on(out)
    assert prepared == ["again.mp4", "short.mp4"]  # what was left out is known by the index alone
    assert_whole(out, manifest)
    assert fingerprint(out) == fingerprint(built)


def test_an_index_that_knew_of_take_downs_is_not_made_anew_without_them(built, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(built, out)
    (out / "purged.jsonl").write_text("{}\n")
    order(out).check_against_earlier()
    (out / "index.parquet").unlink()
    with pytest.raises(UserError, match=r"has lost its index\.parquet, which knew what was taken down"):
        order(out).begin()


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
