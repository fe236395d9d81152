"""A data set as it stands: the files that are derived from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import shards
from pipeline.card import dataset_card
from pipeline.schema import INDEX, Manifest
from pipeline.storage import publish_text

Row = dict[str, Any]


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
    """Write index, ``dataset.json`` and card of a set from the rows of all its candidates.

    Kept rows stand by shard and, within one, in the order given, which is that of the tar; the others by their names.
    """
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
    publish_text(folder / "README.md", dataset_card(manifest))
    return manifest
