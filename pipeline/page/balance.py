"""How a set is spread: classes over splits, lengths, sources, groups, licences; and what is in two splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.page.index import Index, tally
from pipeline.page.scores import Axis, Histogram, histogram
from pipeline.schema import SPLITS, Manifest
from pipeline.text import clean_text

TOP = 15  # names of a ranking; the rest are one line
PAIRS = 20  # of near-duplicates that are named
GROUP_SIZES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20), (21, 10**9))  # clips of one group, from and to

RANKINGS = {
    "uploader": "Uploaders",
    "query": "What listed them",
    "licence": "Licences",
    "height_px": "Height of the picture, px",
    "fps": "Frames a second",
}
"""Columns of the index whose values are counted."""


class Named(NamedTuple):
    """A value with the candidates that have it."""

    name: str | None
    kept: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The most frequent values of a column."""

    title: str
    rows: list[Named]
    rest: Named | None
    """All other values together; its name tells how many."""
    largest: int
    """Candidates of the longest bar."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Source groups: what must not straddle splits."""

    groups: int
    clips: int
    sizes: list[tuple[str, int, int]]
    """Clips in a group, groups of that size, clips in them."""
    straddling: int
    """Groups with clips in more than one split."""
    straddling_clips: int


class Pair(NamedTuple):
    """Two kept clips that show or play the same."""

    title: str
    split: str
    other: str
    other_split: str


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Near-duplicates among the kept clips."""

    pairs: int
    across: int
    """Pairs whose clips stand in different splits."""
    named: list[Pair]


@dataclass(frozen=True, kw_only=True)
class Balance:
    """All of it."""

    labels: list[str]
    splits: list[str]
    per_class: list[tuple[str, list[int], int]]
    """Class, clips in each split, and in all; the class is empty in a set without labels."""
    durations: Histogram | None
    padded: int
    """Kept clips whose sound and picture end before the 30 s do."""
    rankings: list[Ranking]
    groups: Groups
    twins: Twins


def balance(index: Index, manifest: Manifest) -> Balance:
    """Count how the clips of an index are spread."""
    splits: list[str] = [split for split in SPLITS if split in manifest.splits]
    minutes = Axis(title="Length of the whole source", unit="minutes", column="duration_s")
    valid_s = index.numbers("valid_s")
    return Balance(
        labels=list(manifest.labels or ()),
        splits=splits,
        per_class=_per_class(manifest, splits),
        durations=histogram(minutes, index.numbers("duration_s") / 60, index.kept, None),
        padded=int(np.count_nonzero(index.kept & (valid_s < 29.95))),  # a frame short of 30 s is none
        rankings=[one for one in (_ranking(index, *item) for item in _ranked(index)) if one],
        groups=_groups(index),
        twins=_twins(index),
    )


def _per_class(manifest: Manifest, splits: list[str]) -> list[tuple[str, list[int], int]]:
    rows = []
    for label in manifest.labels or ():
        counts = [int(manifest.splits[split]["per_class"].get(label, 0)) for split in splits]
        rows.append((label, counts, sum(counts)))
    return rows


def _ranked(index: Index) -> Iterator[tuple[str, pa.ChunkedArray]]:
    yield "Sites", _sites(index)
    for column, title in RANKINGS.items():
        yield title, index.column(column)


def _ranking(index: Index, title: str, values: pa.ChunkedArray) -> Ranking | None:
    """Rank the values of a column; none where no candidate has one."""
    if pa.types.is_floating(values.type):
        values = pc.round(values, 2)
    values = values.cast(pa.string())
    kept = tally(values, index.kept)
    dropped = tally(values, ~index.kept)
    if not {*kept, *dropped} - {None}:
        return None
    order = sorted({*kept, *dropped}, key=lambda n: (n is None, -kept.get(n, 0), -dropped.get(n, 0), str(n)))
    named = [Named(name, kept.get(name, 0), dropped.get(name, 0)) for name in order]
    rows, others = named[:TOP], named[TOP:]
    rest = Named(f"{len(others):,} others", sum(o.kept for o in others), sum(o.dropped for o in others))
    rows = [row._replace(name=clean_text(row.name) if row.name else None) for row in rows]
    every = [*rows, rest] if others else rows
    return Ranking(
        title=title,
        rows=rows,
        rest=rest if others else None,
        largest=max(row.kept + row.dropped for row in every),
    )


def _groups(index: Index) -> Groups:
    chosen = pa.array(index.kept)
    table = pa.table(
        {name: index.column(name).cast(pa.string()).filter(chosen) for name in ("source_group", "split")}
    ).drop_null()
    found = table.group_by("source_group").aggregate([("split", "count"), ("split", "count_distinct")])
    clips = found["split_count"].to_numpy()
    across = found["split_count_distinct"].to_numpy() > 1
    sizes = []
    for low, high in GROUP_SIZES:
        here = (clips >= low) & (clips <= high)
        if here.any():
            name = str(low) if low == high else f"{low} to {high}" if high < 10**9 else f"{low} or more"
            sizes.append((name, int(here.sum()), int(clips[here].sum())))
    return Groups(
        groups=len(clips),
        clips=int(clips.sum()),
        sizes=sizes,
        straddling=int(across.sum()),
        straddling_clips=int(clips[across].sum()),
    )


def _twins(index: Index) -> Twins:
    """Kept clips of which ``duplicate_of`` says that an earlier kept clip shows or plays the same."""
    earlier = index.text("duplicate_of")
    later = np.flatnonzero(index.kept & np.array([key is not None for key in earlier], bool))
    if not len(later):
        return Twins(pairs=0, across=0, named=[])
    keys, splits = index.text("key"), index.text("split")
    wanted = {earlier[i] for i in later}
    place = {keys[i]: int(i) for i in np.flatnonzero(index.kept) if keys[i] in wanted}
    pairs = [(int(i), place[earlier[i]]) for i in later if earlier[i] in place]
    across = [pair for pair in pairs if splits[pair[0]] != splits[pair[1]]]
    shown = (across + [pair for pair in pairs if splits[pair[0]] == splits[pair[1]]])[:PAIRS]
    rows = index.rows([i for pair in shown for i in pair], ["title", "key", "split"])

    def title(position: int) -> str:
        return clean_text(rows[position]["title"]) or rows[position]["key"]

    named = [Pair(title(a), str(splits[a]), title(b), str(splits[b])) for a, b in shown]
    return Twins(pairs=len(pairs), across=len(across), named=named)


def _sites(index: Index) -> pa.ChunkedArray:
    """Hosts of the links; a local file has none."""
    found = pc.extract_regex(index.column("link"), r"^(?i:https?)://(?:[^/@]*@)?(?P<host>[^/:?#]+)")
    return pc.utf8_lower(pc.struct_field(found, "host"))
