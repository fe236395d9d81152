"""The plan as it is written down: what goes where, in which order, and what is read of it to pack a shard."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import planning, shards
from pipeline.build import Build
from pipeline.shards import PART, part_name, write_rows
from tests.pipeline.standing import Clip, outcome, request

CLIPS = [
    Clip(
        name=f"{n:02d}.mp4",
        label=None,
        content=f"content of {n}" if n % 9 else "a copy",  # which only the first of them is kept of
        code=None if n % 5 else "static",
    )
    for n in range(60)
]


def planned(out: Path) -> Build:
    """A build whose clips are prepared, without their samples, and planned."""
    build = request(out, CLIPS, samples_per_shard=4)
    build.begin()
    for first in range(0, len(CLIPS), 7):
        some = CLIPS[first : first + 7]
        rows = [shards.index_row(clip.source, outcome(clip, "audio")) for clip in some]
        for row in rows:
            row["start_s"] = 1.0  # copies are the same span of the same bytes
        write_rows(build.work / f"{part_name([clip.source for clip in some])}.parquet", rows, PART)
    build.make_plan()
    return build


def by_sorting_all(build: Build) -> list[dict[str, Any]]:
    """The plan's rows in the order that it promises, sorted at once."""
    whole = pa.concat_tables(shards.read_tables(build.plan_file))
    order = [("shard", "ascending"), ("place", "ascending"), ("source_id", "ascending")]
    return list(whole.sort_by(order).to_pylist())


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return planned(tmp_path_factory.mktemp("plan") / "set")


def test_a_plan_holds_every_candidate_once_by_shard_place_and_name(build):
    rows = list(build.plan_rows())
    assert sorted(row["source_id"] for row in rows) == [clip.name for clip in CLIPS]
    assert rows == by_sorting_all(build)
    assert {row["code"] for row in rows if row["shard"] is None} == {"static", "duplicate"}


@pytest.mark.parametrize("pile_rows", [1, 2, 7, 59, 60, 61])
def test_a_plan_is_the_same_however_small_the_piles_that_are_sorted(build, tmp_path, monkeypatch, pile_rows):
    monkeypatch.setattr(planning, "PILE_ROWS", pile_rows)
    assert list(planned(tmp_path / "set").plan_rows()) == list(build.plan_rows())


def test_a_plan_without_candidates_is_an_empty_table(tmp_path):
    build = request(tmp_path / "set", [])
    build.begin()
    build.make_plan()
    assert list(build.plan_rows()) == []
    assert build.shards_to_pack() == []


def test_each_shard_is_packed_from_its_own_rows_in_their_places(build):
    rows = list(build.plan_rows())
    names = build.shards_to_pack()
    assert len(names) > 5
    for name in names:
        own = list(build.plan_rows(shard=name))
        assert own == [row for row in rows if row["shard"] == name]
        assert [row["place"] for row in own] == sorted(row["place"] for row in own)


def test_to_pack_a_shard_no_other_part_of_a_large_plan_is_read(build):
    """What lies elsewhere in the file is made unreadable."""
    some = [row for row in build.plan_rows() if row["shard"] is None]
    rng = np.random.default_rng(0)

    def row(number: int) -> dict[str, Any]:
        shard = f"unlabeled-{number // 100:06d}.tar"
        name = hashlib.sha256(rng.bytes(8)).hexdigest()
        return some[number % len(some)] | {"shard": shard, "place": number, "source_id": name}

    rows = [row(number) for number in range(5 * shards.ROWS_AT_ONCE)]
    write_rows(build.plan_file, rows, planning.PLANNED)
    metadata = pq.read_metadata(build.plan_file)
    wanted = "unlabeled-000050.tar"  # rows 5,000 to 5,099, in the third of five row groups
    assert metadata.num_row_groups >= 5
    data = bytearray(build.plan_file.read_bytes())
    for group in [0, 1, 3, 4]:
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            start = chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset
            data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    build.plan_file.write_bytes(data)
    assert [row["source_id"] for row in build.plan_rows(shard=wanted)] == [r["source_id"] for r in rows[5000:5100]]
    with pytest.raises((OSError, pa.ArrowException)):
        list(build.plan_rows(shard="unlabeled-000000.tar"))
