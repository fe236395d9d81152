"""A data set as it stands: its rows, and the files that are derived from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from pipeline import shards
from pipeline.locations import Folder
from pipeline.schema import INDEX, MEMBERS, Manifest
from pipeline.storage import open_table, publish_text
from pipeline.takedown import PURGED, bare

Row = dict[str, Any]

WORK = ".build"  # folder in a set's own, of what a build or purge needs until it is finished
PLAN = "plan.parquet"  # in that folder: where each candidate of the build goes

MOMENTS = [f"{moment}_{name}" for name in MEMBERS for moment in ("mean", "meansq")]


def kept_rows(folder: Folder, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of the samples that stand, from the commit records, by shard and in the order of its tar."""
    for tar in shards.committed_shards(folder):
        yield from shards.read_rows(shards.record_of(tar), columns)


def left_out_rows(folder: Folder, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of the candidates that finished builds did not keep, from the index."""
    index = folder / "index.parquet"
    if index.exists():
        wanted = None if columns is None else list(dict.fromkeys([*columns, "status"]))
        for table in shards.read_tables(index, wanted, only=shards.Only("status", "kept", another=True)):
            yield from table.to_pylist()


def publish(
    folder: Folder,
    left_out: Iterable[Row],
    *,
    labels: list[str] | None,
    recipe: dict[str, Any],
    recipe_hash: str,
    settings: dict[str, Any],
    versions: dict[str, str],
) -> Manifest:
    """Write index, ``dataset.json``, card and page of a set from its commit records and the rows of all others.

    Kept rows stand by shard and, within one, in the order of its tar; the others by their names. Of what was taken down
    nothing but its identity is written.
    """
    index = folder / "index.parquet"
    kept = (
        table
        for tar in shards.committed_shards(folder)
        for table in shards.read_tables(shards.record_of(tar), INDEX.names)
    )
    # What was left out is sorted, and so must be in memory, as columns; of what is kept no more than some shards' rows.
    others = shards.tables_of((bare(row) if row["code"] == PURGED else row for row in left_out), INDEX)
    by_name = pa.concat_tables([INDEX.empty_table(), *others]).sort_by("source_id")
    shards.write_tables(index, chain(kept, [by_name]), INDEX)
    columns = ["status", "code", "split", "shard", "label", *MOMENTS]
    with open_table(index) as opened:
        told = opened.read(columns, use_threads=False)
    rows = told.select(["status", "code", "split", "shard", "label"]).to_pylist()
    manifest = Manifest(
        labels=labels,
        recipe=recipe,
        recipe_hash=recipe_hash,
        splits=shards.split_summary((row for row in rows if row["status"] == "kept"), labels),
        counts=shards.count(rows),
        normalization=shards.normalization(told),
        settings=settings,
        versions=versions,
    )
    publish_text(folder / "dataset.json", manifest.to_json())
    from pipeline import report  # here, since workers import this module and draw nothing

    report.publish(folder, manifest)
    return manifest
