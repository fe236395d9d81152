"""Show what other thresholds would keep of a data set, from the scores in its index: nothing is decoded again.

    python -m pipeline.filters shards/unlabeled
    python -m pipeline.filters shards/unlabeled --speech 0.4 --motion 0.2 --show 20

Nothing is changed. To build with other thresholds: ``python -m flows.build_shards ... --thresholds speech 0.4``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

import tyro

from pipeline.command import exit_code
from pipeline.damage import reading
from pipeline.errors import UserError
from pipeline.filters.judge import CODES_OF_FILTERS, judge
from pipeline.filters.thresholds import Thresholds
from pipeline.locations import Folder, folder_of
from pipeline.schema import SCORES, Manifest
from pipeline.shards import read_manifest
from pipeline.storage import open_table
from pipeline.text import clean_text

COLUMNS = ["source_id", "title", "status", "code"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is asked."""

    folder: tyro.conf.Positional[str]
    """Of the data set, or its address in an object store."""
    show: int = 10
    """Clips named of those that would come in, and of those that would go."""
    thresholds: Annotated[Thresholds, tyro.conf.OmitArgPrefixes] = field(default_factory=Thresholds)
    """Where not given, those that the set was built with."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A scored candidate: its row, and the codes for which it was dropped and would be."""

    row: dict[str, Any]
    now: str | None
    then: str | None
    reason: str


def main() -> int:
    """Parse, read the index, tell."""
    asked = tyro.cli(Arguments, prog="python -m pipeline.filters", description=__doc__)
    folder = folder_of(asked.folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{asked.folder} holds no data set (dataset.json); name the folder of one")
    with reading(folder):
        own = own_thresholds(manifest)
        # Parsed again, now that the set's own thresholds are known: they are the defaults.
        asked = tyro.cli(Arguments, default=Arguments(folder=asked.folder, thresholds=own), description=__doc__)
        clips = list(judged_again(folder, asked.thresholds))
    if not clips:
        raise UserError(f"{asked.folder} holds no score; build it again, with --filters score or drop")
    changes = {name: value for name, value in asdict(asked.thresholds).items() if value != getattr(own, name)}
    for line in told(clips, manifest, changes, show=asked.show):
        print(line)
    return 0


def own_thresholds(manifest: Manifest) -> Thresholds:
    """Thresholds that a set was built with; today's where it names none."""
    stored = manifest.settings.get("filters", {}).get("thresholds", {})
    return Thresholds(**{f.name: stored[f.name] for f in fields(Thresholds) if f.name in stored})


def judged_again(folder: Folder, thresholds: Thresholds) -> Iterator[Clip]:
    """Every clip that was scored, with what was said of it and what would be.

    Clips that fell for another reason, a duplicate say, are not among them: they would not be kept.
    """
    with open_table(folder / "index.parquet") as opened:
        rows = opened.read([*COLUMNS, *SCORES], use_threads=False).to_pylist()  # a set may be older than a score
    for row in rows:
        scored = any(row.get(name) is not None for name in SCORES)
        if scored and (row["status"] == "kept" or row["code"] in CODES_OF_FILTERS):
            against = list(judge(row, thresholds))
            yield Clip(
                row=row,
                now=row["code"],
                then=against[0].code if against else None,
                reason="; ".join(verdict.detail for verdict in against),
            )


def told(clips: list[Clip], manifest: Manifest, changes: dict[str, float], *, show: int) -> Iterator[str]:
    """Lines for people: counts now and then, and the clips that differ."""
    mode = manifest.settings.get("filters", {}).get("mode", "off")
    asked = " ".join(f"--{name} {value:g}" for name, value in changes.items()) or "its own thresholds"
    now, then = Counter(clip.now for clip in clips), Counter(clip.then for clip in clips)
    yield f"{len(clips)} clips scored (filters: {mode}); now, and with {asked}:"
    yield f"  {'kept':<12}{now[None]:>8}{then[None]:>8}"
    for code in CODES_OF_FILTERS:
        if now[code] or then[code]:
            yield f"  {code:<12}{now[code]:>8}{then[code]:>8}"
    for words, differing in (
        ("would come in", [clip for clip in clips if clip.now is not None and clip.then is None]),
        ("would go", [clip for clip in clips if clip.now is None and clip.then is not None]),
    ):
        yield f"{len(differing)} {words}"
        for clip in differing[:show]:
            yield f"  {clip.row['source_id']}  {clean_text(clip.row['title'])}  {clip.reason or f'was {clip.now}'}"
        if len(differing) > show:
            yield f"  and {len(differing) - show} more (--show)"
    if any(clip.now == "text" for clip in clips):
        yield "what its words dropped was not decoded: it stays out here, whatever the thresholds"
    yield "what comes in may be a duplicate of what is kept: only a build compares them"


if __name__ == "__main__":
    sys.exit(exit_code("filters", main))
