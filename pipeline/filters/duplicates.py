"""Is the same song or video there already? All clips of a set are compared, in the plan, by their fingerprints.

Clips that share half a clip or more, by sound or by picture, are one clip: the earlier one stands, and the later one is
its duplicate. Clips that share less are two, of one source group. Clips in the set already come before all new ones,
then the order of the candidates counts. A clip is a duplicate of clips alone that are none themselves, so that a chain
of clips, each of which overlaps the next, keeps every other one or so, and does not fall with its first.

Clips of one video are no duplicates where a chorus comes again: their places in the video tell what they share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.clips import video_of
from pipeline.filters.judge import Mode
from pipeline.fingerprint import KINDS, from_bytes
from pipeline.matching import FingerprintIndex
from pipeline.plan import Joined
from pipeline.schema import CLIP_S
from pipeline.slices import Kind
from pipeline.sources import source_group

Row = dict[str, Any]
Progress = Callable[[int, int], None]
"""Clips done, and in all."""

HALF_CLIP_S = CLIP_S / 2
SAME_OFFSET_S = 1.0  # sound and picture of one video, at the same offset, are no further apart
PROGRESS_EVERY = 500  # clips
NONE = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """What a clip is the same as."""

    of: str
    """Key of the earlier clip."""
    detail: str
    dropped: bool
    """Or kept, and marked."""


@dataclass(kw_only=True)
class Found:
    """What new clips have in common with each other and with those that stand."""

    duplicates: dict[str, Duplicate] = field(default_factory=dict)
    """By key."""
    links: list[tuple[str, str]] = field(default_factory=list)
    """Keys of clips that belong into one source group."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Seconds that two clips have in common, and by how many the later candidate begins after the other."""

    sound_s: float = 0.0
    sound_offset_s: float = 0.0
    picture_s: float = 0.0
    picture_offset_s: float = 0.0
    span_s: float | None = None
    """Of one video or file of which both are clips; then what they play and show is not asked."""
    same_title: bool = False
    """They are segments of one video, by their names, where a chorus comes again: both must say that it is one clip."""

    @property
    def is_half(self) -> bool:
        """Whether they are one clip."""
        if self.span_s is not None:
            return self.span_s >= HALF_CLIP_S
        if not self.same_title:
            return max(self.sound_s, self.picture_s) >= HALF_CLIP_S
        together = abs(self.sound_offset_s - self.picture_offset_s) <= SAME_OFFSET_S
        return together and min(self.sound_s, self.picture_s) >= HALF_CLIP_S

    def detail(self, key: str) -> str:
        """In words."""
        if self.span_s is not None:
            return f"overlaps {key}, of the same video, by {self.span_s:.1f} s"
        told = [(self.sound_s, "sound"), (self.picture_s, "picture")]
        return f"shares {' and '.join(f'{s:.1f} s of its {what}' for s, what in told if s)} with {key}"


def find(
    new: Sequence[Row],
    standing: Sequence[Row] = (),
    *,
    mode: Mode,
    official: bool = False,
    progress: Progress = lambda done, total: None,
) -> Found:
    """Compare the new clips of a set to each other and to those that stand.

    Parameters
    ----------
    new
        Index rows of the clips to be kept, in candidate order. Fingerprints are taken out of all rows as they are
        indexed: of a large set they fill much memory.
    standing
        Rows of what is in the set already, in candidate order, and of what was left out as its duplicate: that stands
        for nothing, but still shows what belongs together.
    mode
        Whether duplicates are dropped or marked; where it is ``off``, files and spans alone are compared.
    official
        Whether splits are as they came: a clip of another split drops none, it marks it.
    progress
        Told now and then how far it is.
    """
    found = Found()
    exact = {_span(row): row["key"] for row in reversed(standing) if row["status"] == "kept"}
    if mode == "off":
        for row in new:
            if not _is_copy(row, exact, found):
                exact[_span(row)] = row["key"]
        return found
    rows = [*standing, *new]
    homes = [row["split"] if official else None for row in rows]
    leads = _leads(standing, homes)
    joined = Joined()
    timelines: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(standing):
        for name in _timelines(row):
            timelines[name].append(i)
        if row["status"] != "kept":
            _link(row["key"], row["duplicate_of"], joined, found)
    indexes = [FingerprintIndex(_taken(rows, column, kind), kind) for column, kind in KINDS.items()]
    by_sound, by_picture = (_matches(index, len(standing)) for index in indexes)
    matched = zip(new, by_sound, by_picture, strict=True)
    for i, (row, sounds, pictures) in enumerate(matched, start=len(standing)):
        if (done := i - len(standing)) % PROGRESS_EVERY == 0:
            progress(done, len(new))
        siblings = {j for name in _timelines(row) for j in timelines[name]}
        for name in _timelines(row):
            timelines[name].append(i)
        if _is_copy(row, exact, found):
            _link(row["key"], exact[_span(row)], joined, found)
            leads.append(False)
            continue
        near = {*sounds, *pictures} - siblings
        for j in sorted(near):
            _link(row["key"], rows[j]["key"], joined, found)
        twins = {}
        for j in sorted(j for j in near | siblings if leads[j]):
            if j in siblings:
                shared = Shared(span_s=CLIP_S - abs(row["start_s"] - rows[j]["start_s"]))
            else:
                shared = _shared(row, rows[j], sounds.get(j, NONE), pictures.get(j, NONE))
            if shared.is_half:
                twins[j] = shared
        at_home = [j for j in twins if homes[j] == homes[i]]
        leads.append(not at_home)
        for j in (at_home or list(twins))[:1]:
            detail, dropped = twins[j].detail(rows[j]["key"]), mode == "drop" and bool(at_home)
            found.duplicates[row["key"]] = Duplicate(of=rows[j]["key"], detail=detail, dropped=dropped)
        if row["key"] not in found.duplicates or not found.duplicates[row["key"]].dropped:
            exact[_span(row)] = row["key"]
    progress(len(new), len(new))
    return found


def _shared(row: Row, other: Row, sound: tuple[float, float], picture: tuple[float, float]) -> Shared:
    return Shared(
        sound_s=sound[0],
        sound_offset_s=sound[1],
        picture_s=picture[0],
        picture_offset_s=picture[1],
        same_title=_title(row) == _title(other),
    )


def _title(row: Row) -> str:
    """What files of one video have in common by their names: segments of it, ``-3-of-10``."""
    return source_group(video_of(row["source_id"]))


def _timelines(row: Row) -> tuple[str, str]:
    """Names that a clip shares with those whose place in one video or file tells what they have in common."""
    return f"file {row['sha256']}", f"video {video_of(row['source_id'])}"


def _span(row: Row) -> tuple[str, int]:
    return row["sha256"], round(row["start_s"] * 1000)


def _is_copy(row: Row, exact: dict[tuple[str, int], str], found: Found) -> bool:
    """Drop a clip that is the same span of the same bytes as one that is kept."""
    of = exact.get(_span(row))
    if of is None:
        return False
    found.duplicates[row["key"]] = Duplicate(of=of, detail=f"same clip as {of}", dropped=True)
    return True


def _leads(standing: Sequence[Row], homes: Sequence[str | None]) -> list[bool]:
    """For each clip that stands, whether others may be its duplicate: none of its own split is before it."""
    home_of = {row["key"]: home for row, home in zip(standing, homes, strict=False) if row["status"] == "kept"}
    return [
        row["status"] == "kept" and home_of.get(row["duplicate_of"], "gone") != home
        for row, home in zip(standing, homes, strict=False)
    ]


def _link(key: str, other: str, joined: Joined, found: Found) -> None:
    if joined.join(key, other):
        found.links.append((key, other))


def _taken(rows: Iterable[Row], column: str, kind: Kind) -> Iterator[tuple[str, np.ndarray]]:
    for row in rows:
        yield row["key"], from_bytes(row.pop(column, None), kind)


def _matches(index: FingerprintIndex, first: int) -> Iterator[dict[int, tuple[float, float]]]:
    """For each clip from a place on: seconds shared with each clip before it, and by how many it begins later."""
    place = first
    for end, found in index.join(first):
        edges = np.searchsorted(found["query"], np.arange(place, end + 1))
        for low, high in pairwise(edges):
            yield {
                int(row["entry"]): (index.kind.seconds(int(row["overlap"])), int(row["offset"]) * index.kind.item_s)
                for row in found[low:high]
            }
        place = end
