"""Which of many fingerprints are the same: laid over each other at some offset.

A fingerprint is a sequence of items, 0 where there is nothing to tell. Two match where, laid over each other at some
offset, they differ by much less than either differs from itself a little later. So what is steady matches nothing: it
does not differ from itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.slices import MAX_HITS, Kind, Queries, Slices, owners

OWN_LAGS = (3, 5, 8, 13)  # items at which a clip is compared to itself: 0.4 to 1.6 s of sound, 1.4 to 6 s of picture
BLOCK_HITS = 1 << 16  # places looked up together: so many stay in a processor's cache
BLOCK_QUERIES = 512  # looked up together at most
CLOSE_ITEMS = 1 << 17  # items compared at a time, for the same reason


@dataclass(frozen=True, kw_only=True, order=True)
class Match:
    """A clip of the index that is the same as the one asked for."""

    difference: float
    """0: equal; 1: they differ as much as either from itself a little later."""
    key: str
    overlap: int
    """Items that lie over each other."""


FOUND = np.dtype(
    [
        ("query", np.int64),  # place among the queries
        ("entry", np.int64),  # place in the index
        ("offset", np.int64),  # the entry's item over which the query's first one lies; may lie outside
        ("overlap", np.int64),  # items
        ("difference", np.float64),
    ]
)
"""One clip of the index that a query is the same as."""


def quarter_changes(items: np.ndarray, clip_of: np.ndarray) -> np.ndarray:
    """Bits by which each item differs from those of its clip a few places before and behind, on average.

    About 11 of 32 in music, 29 of 64 in music videos, 0 in silence, in a held tone and in a still.

    Parameters
    ----------
    items
        uint32 or uint64 (n,), of some clips one after another.
    clip_of
        int (n,), the clip that each item belongs to.

    Returns
    -------
    np.ndarray
        uint8 (n,), in quarters of a bit.
    """
    total, count = np.zeros(len(items), np.uint16), np.zeros(len(items), np.uint16)
    for lag in OWN_LAGS:
        one, other = items[lag:], items[:-lag]
        known = (one != 0) & (other != 0) & (clip_of[lag:] == clip_of[:-lag])
        bits = np.bitwise_count(one ^ other) * known
        for side in (slice(lag, None), slice(None, -lag)):
            total[side] += bits
            count[side] += known
    return np.asarray(np.minimum(np.rint(4 * total / np.maximum(count, 1)), 255).astype(np.uint8))


class FingerprintIndex:
    """Fingerprints of many clips, to ask which of them a clip is the same as.

    11 bytes an item of sound (2.5 KB a clip), 25 of picture (1.6 KB), and as much again for a while to build it.
    """

    def __init__(self, entries: Iterable[tuple[str, np.ndarray]], kind: Kind) -> None:
        self.kind = kind
        self.keys: list[str] = []
        fingerprints = [np.zeros(0, kind.dtype)]
        for key, fingerprint in entries:
            self.keys.append(key)
            fingerprints.append(fingerprint)
        self._starts = np.cumsum([0, *map(len, fingerprints[1:])])
        self._items = np.concatenate(fingerprints)
        del fingerprints
        self._changes = np.zeros(len(self._items), np.uint8)
        for first in range(0, len(self.keys), BLOCK_QUERIES):
            starts = self._starts[first : first + BLOCK_QUERIES + 1]
            here = slice(starts[0], starts[-1])
            self._changes[here] = quarter_changes(self._items[here], owners(starts))
        self._slices = Slices(self._items, self._changes, kind)
        hits = min(self._slices.num_hits / max(len(self.keys), 1), MAX_HITS)
        # So many queries are looked up together, if they are like the index.
        self._block = int(np.clip(BLOCK_HITS / max(hits, 1), 1, BLOCK_QUERIES))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_bytes(self) -> int:
        """Memory of the index."""
        return int(self._items.nbytes + self._changes.nbytes + self._slices.num_bytes)

    def match(self, fingerprint: np.ndarray) -> Match | None:
        """The clip most like this one, if any is the same."""
        return min(self.matches(fingerprint), default=None)

    def matches(self, fingerprint: np.ndarray) -> list[Match]:
        """Every clip that is the same as this one, the most like it first."""
        return next(self.matches_of([fingerprint]))

    def matches_of(self, fingerprints: Sequence[np.ndarray]) -> Iterator[list[Match]]:
        """For each fingerprint every clip that is the same, the most like it first; faster than one by one."""
        for first in range(0, len(fingerprints), self._block):
            some = fingerprints[first : first + self._block]
            starts = np.cumsum([0, *map(len, some)])
            items = np.concatenate(some)
            changes = quarter_changes(items, owners(starts))
            before = np.full(len(some), len(self.keys))
            found = self._look_up(Queries(items=items, changes=changes, starts=starts, before=before))
            for number in range(len(some)):
                yield sorted(
                    Match(difference=float(row["difference"]), key=self.keys[row["entry"]], overlap=int(row["overlap"]))
                    for row in found[found["query"] == number]
                )

    def join(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Every clip of the index from this place on, with those before it that are the same.

        Yields
        ------
        (int, np.ndarray)
            The place that comes next, and ``FOUND`` rows of some places before it, by query and then entry, which are
            both places in the index. All rows of one query come together.
        """
        for begin in range(first, len(self.keys), self._block):
            end = min(begin + self._block, len(self.keys))
            here = slice(self._starts[begin], self._starts[end])
            starts = self._starts[begin : end + 1] - self._starts[begin]
            queries = Queries(
                items=self._items[here], changes=self._changes[here], starts=starts, before=np.arange(begin, end)
            )
            found = self._look_up(queries)
            found["query"] += begin
            yield end, found

    def _look_up(self, queries: Queries) -> np.ndarray:
        """``FOUND`` rows of the best offset of each query and each clip that is the same."""
        num_queries = len(queries.before)
        if self.kind.mirror_bits:
            queries = queries.and_mirrored(self.kind)
        query, begin = self._slices.alignments(queries, self._starts[queries.before])
        end = begin + np.diff(queries.starts)[query]
        # Laid over the index, a query lies over one clip or two, or more where they are short.
        first = np.searchsorted(self._starts, np.maximum(begin, 0), side="right") - 1
        last = np.searchsorted(self._starts, np.minimum(end, len(self._items)) - 1, side="right") - 1
        over = last - first + 1
        entry = np.repeat(first, over) + np.arange(over.sum()) - np.repeat(np.cumsum(over) - over, over)
        query, begin, end = (np.repeat(array, over) for array in (query, begin, end))
        low, high = np.maximum(begin, self._starts[entry]), np.minimum(end, self._starts[entry + 1])
        worth = ((high - low) * self.kind.bits >= self.kind.min_change_bits) & (entry < queries.before[query])
        order = np.flatnonzero(worth)[np.argsort((high - low)[worth], kind="stable")]  # of like length together
        query, begin, entry, low, high = (array[order] for array in (query, begin, entry, low, high))

        difference = np.empty(len(order))
        step = max(1, CLOSE_ITEMS // int((high - low).max(initial=1)))
        for chunk in (slice(at, at + step) for at in range(0, len(order), step)):
            own = queries.starts[query[chunk]] + low[chunk] - begin[chunk]
            difference[chunk] = self._differences(queries, own, low[chunk], high[chunk] - low[chunk])
        found = np.zeros(len(order), FOUND)
        found["query"], found["entry"], found["offset"] = query % num_queries, entry, begin - self._starts[entry]
        found["overlap"], found["difference"] = high - low, difference
        found = found[np.isfinite(difference)]
        keys = ("offset", "overlap", "difference", "entry", "query")
        found = found[np.lexsort([-found[key] if key == "overlap" else found[key] for key in keys])]
        known = (np.diff(found["query"], prepend=-1) == 0) & (np.diff(found["entry"], prepend=-1) == 0)
        return np.asarray(found[~known])

    def _differences(self, queries: Queries, own: np.ndarray, other: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """Differences of stretches of queries and of the index, by their first items; infinite where too large."""
        difference = np.full(len(own), np.inf)
        steps = np.arange(overlap.max(initial=0))
        ours, others = own[:, None] + steps, other[:, None] + steps
        items, other_items = queries.items.take(ours, mode="clip"), self._items.take(others, mode="clip")
        told = (items != 0) & (other_items != 0) & (steps < overlap[:, None])
        differing = (np.bitwise_count(items ^ other_items) * told).sum(axis=1, dtype=np.uint32)
        # Few can be a match, however much they change; for these alone it is summed up how much they do.
        most_bits = queries.changes.max(initial=0) / 4 * told.sum(axis=1)
        near = np.flatnonzero(differing <= self.kind.max_difference * most_bits)
        changes, other_changes = (
            (of.take(places[near], mode="clip") * told[near]).sum(axis=1, dtype=np.uint32)
            for of, places in ((queries.changes, ours), (self._changes, others))
        )
        change_bits = np.minimum(changes, other_changes) / 4
        allowed = self.kind.max_difference * np.minimum(change_bits / self.kind.sure_change_bits, 1)
        told_apart = differing[near] / np.maximum(change_bits, 1)
        same = (change_bits >= self.kind.min_change_bits) & (told_apart <= allowed)
        difference[near[same]] = told_apart[same]
        return difference
