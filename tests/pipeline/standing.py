"""Small data sets that a build made, of clips that nobody had to decode."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import shards
from pipeline.build import Build
from pipeline.locations import Folder
from pipeline.prepare import Recipe
from pipeline.schema import MEMBERS, Manifest, Modality, Rejected, Sample, members_of, sample_key
from pipeline.sources import Source
from pipeline.stages import pack_shard, prepare_samples
from pipeline.thumbnail import thumbnail


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A candidate, and what preparing it gives."""

    name: str
    """Of a file; with a colon in it, of a video (extractor:id)."""
    title: str = ""
    number: int = 0
    label: str | None = "Sad"
    group: str | None = None
    content: str | None = None
    """Clips of equal content have files of the same bytes."""
    code: str | None = None
    """Of a candidate that is not kept."""
    detail: str = "because"

    @property
    def link(self) -> str:
        return f"https://www.youtube.com/watch?v={self.name.split(':')[1]}" if ":" in self.name else self.name

    @property
    def source(self) -> Source:
        return Source(
            source_id=self.name if self.number == 0 else f"{self.name} (clip {self.number + 1})",
            link=self.link,
            title=self.title or f"Title of {self.name}",
            label=self.label,
            groups=(self.group or self.name,),
            video_id=self.name,
            number=self.number,
        )


def arrays(seed: str, modality: Modality) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16))
    made = {}
    for name in members_of(modality):
        member = MEMBERS[name]
        if name == "frames":
            made[name] = rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        else:
            levels = rng.normal(size=(2, 128, 8)).astype(np.float16)
            made[name] = np.tile(levels, (1, 1, -(-member.shape[2] // 8)))[:, :, : member.shape[2]]
    return made


def outcome(clip: Clip, modality: Modality) -> Sample | Rejected:
    source = clip.source
    meta = {
        "source_id": source.source_id,
        "link": source.link,
        "title": source.title,
        "uploader": f"Uploader of {clip.name}",
        "licence": "CC BY",
        "query": "ytsearch1:song",
        "sha256": hashlib.sha256((clip.content or source.source_id).encode()).hexdigest(),
        "duration_s": 90.0,
        "start_s": 30.25 * (clip.number + 1),
        "valid_s": 30.0,
        "loudness_db": -14.5,
    }
    if clip.code is not None:
        seen = {"thumbnail": thumbnail(np.zeros((4, 128, 128, 3), np.uint8))} if clip.code in ("text", "static") else {}
        return Rejected(code=clip.code, detail=clip.detail, meta=meta, index_only=seen)
    key = sample_key(title=source.title, source_id=source.source_id, start_ms=round(meta["start_s"] * 1000))
    prints = {"sound_print": hashlib.sha256(key.encode()).digest()}
    return Sample(key=key, arrays=arrays(key, modality), label=None, meta=meta, index_only=prints)


def request(out: Folder, clips: Sequence[Clip], *, modality: Modality = "audio", samples_per_shard: int = 2) -> Build:
    labelled = any(clip.label for clip in clips)
    return Build.request(
        out=out,
        sources=[clip.source for clip in clips],
        recipe=Recipe(modality=modality),
        seed=0,
        labelled="labels.csv" if labelled else None,
        split_rule="grouped" if labelled else None,
        samples_per_shard=samples_per_shard,
    )


def build(out: Folder, clips: Sequence[Clip], *, modality: Modality = "audio", samples_per_shard: int = 2) -> Manifest:
    """What the flow does, but for decoding."""
    order = request(out, clips, modality=modality, samples_per_shard=samples_per_shard)
    order.begin()
    make_parts(order, clips)
    order.make_plan()
    pack(order)
    return order.finish()


def make_parts(order: Build, clips: Sequence[Clip], *, batch: int = 1) -> list[str]:
    """Parts of what is pending, without decoding; its names."""
    made = {clip.source.source_id: clip for clip in clips}
    pending = order.pending()
    for first in range(0, len(pending), batch):
        some = pending[first : first + batch]
        results = [outcome(made[source.source_id], order.recipe.modality) for source in some]
        for at, source in enumerate(some):
            if source.problem is not None:
                code, detail = source.problem
                results[at] = Rejected(code=code, detail=detail, meta=results[at].meta)
        shards.write_part(order.work, some, map(shards.prepared, some, results))
    return [source.source_id for source in pending]


def prepare(order: Build, sources: Sequence[Source]) -> list[shards.Row]:
    """Prepare a batch into a part, in this process."""
    rows = prepare_samples(order.work, sources, order.recipe, order.settings.seed, order.filters)
    shards.commit_part(order.work, sources, rows)
    return rows


def pack(order: Build, names: Sequence[str] | None = None) -> None:
    """Pack the planned shards, or some of them, in this process."""
    for name in order.shards_to_pack() if names is None else names:
        pack_shard(order.out, name, order.settings.labels, order.recipe.hash)


LABELLED = (
    *(Clip(name=f"songs/{n}.mp4", label=("Fear", "Sad")[n % 2]) for n in range(6)),
    Clip(name="songs/long-1-of-2.mp4", group="long"),
    Clip(name="songs/long-2-of-2.mp4", group="long"),
    Clip(name="songs/again.mp4", content="songs/0.mp4"),
    Clip(name="songs/short.mp4", code="too-short"),
    Clip(name="songs/talk.mp4", code="text"),
    Clip(name="songs/broken.mp4", code="internal"),
)
"""Eight clips in six source groups, a duplicate, and three that are not kept."""


def copy(folder: Path, target: Path) -> Path:
    """A copy that costs nothing: its files are to be replaced, never written into."""
    return Path(shutil.copytree(folder, target, copy_function=os.link))


def fingerprint(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
