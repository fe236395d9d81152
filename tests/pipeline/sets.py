"""Data sets out of rows alone: stored as a build stores them, with arrays and scores of the test's own making."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import dataset, shards
from pipeline.filters.judge import Filters
from pipeline.prepare import Recipe
from pipeline.schema import MEMBERS, Manifest, Rejected, Sample, members_of, sample_key
from pipeline.sources import Source
from pipeline.thumbnail import thumbnail

Row = dict[str, Any]

SCORED = {
    "text_rules": [],
    "loudness_db": -18.0,
    "silent_share": 0.0,
    "clipped_share": 0.01,
    "tone_share": 0.0,
    "speech_share": 0.05,
    "singing_share": 0.4,
    "music_share": 0.9,
    "motion": 6.0,
    "moved": 0.9,
    "still_share": 0.05,
    "camera_share": 0.05,
    "held_s": 1.0,
    "black_share": 0.0,
    "snr_db": 20.0,
}


def picture(rng: np.random.Generator) -> np.ndarray:
    """64 frames of a disc that wanders over a gradient: uint8 (64, 128, 128, 3)."""
    grid = np.mgrid[0:128, 0:128] / 127
    ground, disc = rng.integers(0, 256, (2, 3))
    frames = np.empty(MEMBERS["frames"].shape, np.uint8)
    centre, speed = rng.random(2), rng.normal(0, 0.02, 2)
    for number in range(64):
        y, x = (centre + number * speed) % 1
        inside = (grid[0] - y) ** 2 + (grid[1] - x) ** 2 < 0.05
        frames[number] = np.where(inside[..., None], disc, ground * (0.3 + 0.7 * grid[0])[..., None])
    return frames


def sound(rng: np.random.Generator, name: str) -> np.ndarray:
    """A few bands that come and go over noise: float16 (2, 128, columns)."""
    shape = MEMBERS[name].shape
    level = rng.normal(-50, 3, shape[1:])
    level[rng.integers(0, 128, 6)] += 40 * np.abs(np.sin(np.linspace(0, rng.uniform(5, 40), shape[2])))
    return np.stack([level, rng.normal(0, 0.05, shape[1:])]).astype(np.float16)


def kept(name: str, **known: Any) -> Row:
    """A candidate that is kept, with the scores of a good clip unless told otherwise."""
    return {"source_id": name, "status": "kept", "split": "train", "duration_s": 200.0} | SCORED | known


def left_out(name: str, code: str, detail: str = "because", **known: Any) -> Row:
    """A candidate that is not kept."""
    return {"source_id": name, "code": code, "detail": detail} | known


def make_set(
    folder: Path,
    candidates: Sequence[Row],
    *,
    labels: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    filters: Filters | None = None,
    settings: Row | None = None,
    seed: int = 0,
) -> Manifest:
    """Store a set whose rows say what these candidates say; kept ones get arrays, a shard a split."""
    recipe = recipe or Recipe()
    rng = np.random.default_rng(seed)
    rows = []
    for number, told in enumerate(candidates):
        meta = {
            "link": told["source_id"],
            "title": told["source_id"],
            "sha256": f"{number:064x}",
            "start_s": 0.0,
        } | told
        meta = {"valid_s": 30.0, "fps": 25.0, "width_px": 640, "height_px": 360, **meta}
        source = Source(
            source_id=meta["source_id"],
            link=meta["link"],
            title=meta["title"],
            video_id=meta["source_id"],
            label=meta.get("label"),
            split=meta.get("split"),
            groups=(meta.get("source_group") or meta["source_id"],),
        )
        outcome: Sample | Rejected
        if "code" in told:
            seen = {"thumbnail": thumbnail(picture(rng))} if meta.pop("seen", False) else {}
            outcome = Rejected(code=meta["code"], detail=meta["detail"], meta=meta, index_only=seen)
        else:
            key = sample_key(title=meta["title"], source_id=meta["source_id"], start_ms=0)
            arrays = {
                name: picture(rng) if name == "frames" else sound(rng, name) for name in members_of(recipe.modality)
            }
            outcome = Sample(key=key, arrays=arrays, label=None, meta=meta)
        row, record = shards.prepared(source, outcome, jpeg_quality=recipe.jpeg_quality)
        [row] = shards.write_part(folder / ".parts", [source], [(row, record)])
        split = row["split"] or "unlabeled"
        if record is not None:
            row |= {"split": split, "shard": f"{split}-000000.tar", "source_group": source.groups[0]}
        rows.append(row | {"duplicate_of": meta.get("duplicate_of")})
    for name in sorted({row["shard"] for row in rows if row["status"] == "kept"}):
        own = [row for row in rows if row["shard"] == name]
        shards.pack_shard(folder, own, parts=folder / ".parts", labels=labels, recipe_hash=recipe.hash)
    shutil.rmtree(folder / ".parts", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    asked = {"filters": filters.to_dict()} if filters else {}
    return dataset.publish(
        folder,
        [row for row in rows if row["status"] != "kept"],
        labels=list(labels) if labels else None,
        recipe=recipe.to_dict(),
        recipe_hash=recipe.hash,
        settings={
            "seed": seed,
            "split_rule": "official" if labels else None,
            "labels": labels,
            **asked,
            **(settings or {}),
        },
        versions={"ffmpeg": "5.1", "numpy": "2.0"},
    )
