"""A data set as it stands: its rows, and the files that are derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import shards
from pipeline.schema import INDEX, Manifest
from pipeline.storage import publish_text
from pipeline.takedown import PURGED, bare

Row = dict[str, Any]

WORK = ".build"  # folder in a set's own, of what a build or purge needs until it is finished


def kept_rows(folder: Path) -> list[Row]:
    """Rows of the samples that stand, from the commit records, by shard and in the order of its tar."""
    return [row for tar in shards.committed_shards(folder) for row in shards.read_rows(shards.record_of(tar))]


def left_out_rows(folder: Path) -> list[Row]:
    """Rows of the candidates that finished builds did not keep, from the index."""
    index = folder / "index.parquet"
    return [row for row in shards.read_rows(index) if row["status"] != "kept"] if index.exists() else []


def publish(
    folder: Path,
    rows: Sequence[Row],
    *,
    labels: list[str] | None,
    recipe: dict[str, Any],
    recipe_hash: str,
    settings: dict[str, Any],
    versions: dict[str, str],
) -> Manifest:
    """Write index, ``dataset.json``, card and page of a set from the rows of all its candidates.

    Kept rows stand by shard and, within one, in the order given, which is that of the tar; the others by their names.
    Of what was taken down nothing but its identity is written.
    """
    rows = [bare(row) if row["code"] == PURGED else row for row in rows]
    kept = sorted((row for row in rows if row["status"] == "kept"), key=lambda row: row["shard"])  # stable
    left_out = sorted((row for row in rows if row["status"] != "kept"), key=lambda row: row["source_id"])
    manifest = Manifest(
        labels=labels,
        recipe=recipe,
        recipe_hash=recipe_hash,
        splits=shards.split_summary(kept, labels),
        counts=shards.count(rows),
        normalization=shards.normalization(kept),
        settings=settings,
        versions=versions,
    )
    shards.write_rows(folder / "index.parquet", kept + left_out, INDEX)
    publish_text(folder / "dataset.json", manifest.to_json())
    from pipeline import report  # here, since workers import this module and draw nothing

    report.publish(folder, manifest)
    return manifest
