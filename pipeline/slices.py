"""An inverted table of fingerprints: where slices of items occur, and at which offsets several of a query's do.

An item is cut into bands of bits. For every band the table holds the items sorted by it. A query asks for its own
items' bands, the rarest first. Where some equal ones lie at one offset, the clips there are worth a closer look.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

MAX_SAME = 4096  # places of one slice that are looked up, the lowest clips first: they win among duplicates
MAX_HITS = 24_000  # places looked up for one query, those of its rarest slices
BUILD_ITEMS = 1 << 20  # items read at a time, and in
BUILD_STEPS = 16  # so many goes over all of them sorted: temporary arrays stay small
CELLS = 1 << 19  # of the table in which hits at one offset are counted


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one kind of fingerprint is read; the limits are evidence of ``benchmarks/fingerprint.py``."""

    bits: int
    """Of an item."""
    band_bits: int
    """Items are looked up by slices of so many bits."""
    min_hits: int
    """Slices that must be equal at one offset before it is looked at closely."""
    max_difference: float
    """The largest difference of a match, as a share of what the clips differ from themselves."""
    min_change_bits: int
    """What a clip must differ from itself over the overlap, in all: too short or too steady a match proves nothing."""
    sure_change_bits: int
    """Where it does so by less than this, ``max_difference`` shrinks in proportion: little proof must be good proof."""
    item_s: float
    """From one item to the next."""
    first_item_s: float
    """Of the clip that one item tells of."""
    mirror_bits: int = 0
    """Bits that a picture's mirror image has the other way round."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an item, the same on every machine."""
        return np.dtype(f"<u{self.bits // 8}")

    def seconds(self, num_items: int) -> float:
        """How long a stretch of so many items is."""
        return (num_items - 1) * self.item_s + self.first_item_s


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Some fingerprints, one after another."""

    items: np.ndarray
    changes: np.ndarray
    """uint8 for each item, quarters of a bit."""
    starts: np.ndarray
    """First item of each query, and the end of the last."""
    before: np.ndarray
    """For each query: it is compared to the entries of the index before this one."""

    def and_mirrored(self, kind: Kind) -> Queries:
        """The same twice: as they are, then their mirror images."""
        mirrored = np.where(self.items == 0, self.items, self.items ^ kind.dtype.type(kind.mirror_bits))
        return Queries(
            items=np.concatenate([self.items, mirrored]),
            changes=np.tile(self.changes, 2),
            starts=np.concatenate([self.starts, self.starts[-1] + self.starts[1:]]),
            before=np.tile(self.before, 2),
        )


class Slices:
    """Where slices of the items of many clips occur.

    Parameters
    ----------
    items
        Of all clips, one after another.
    changes
        uint8 for each item, 0 for those that tell nothing.
    kind
        How items are cut.
    """

    def __init__(self, items: np.ndarray, changes: np.ndarray, kind: Kind) -> None:
        self.kind = kind
        self._items = items
        # Slices of 32 bits are looked up by a hash of about as many values as there are items.
        self._bucket_bits = min(kind.band_bits, max(16, len(items).bit_length() - 1))
        num_bands, num_buckets = kind.bits // kind.band_bits, 2**self._bucket_bits
        num_telling = int(np.count_nonzero((items != 0) & (changes > 0)))
        self._places = np.empty(num_bands * num_telling, np.uint32)  # by bucket and then place, band after band
        self._ends = np.empty((num_bands, num_buckets + 1), np.uint32)  # a bucket begins where the one before it ends
        self.num_hits = 0.0
        """Of all clips of the table, if each were looked up."""
        done, step = 0, num_buckets // BUILD_STEPS
        for band, first in product(range(num_bands), range(0, num_buckets, step)):
            some = [np.zeros(0, np.uint64)]
            for begin in range(0, len(items), BUILD_ITEMS):
                here = slice(begin, begin + BUILD_ITEMS)
                buckets = self._buckets(items[here], band)
                wanted = (items[here] != 0) & (changes[here] > 0) & (buckets >= first) & (buckets < first + step)
                # Bucket and place as one number can be sorted in place: half the memory of argsort.
                places = np.flatnonzero(wanted).astype(np.uint64) + np.uint64(begin)
                some.append(buckets[wanted].astype(np.uint64) << np.uint64(32) | places)
            order = np.concatenate(some)
            del some
            order.sort()
            self._places[done : done + len(order)] = order & np.uint64(2**32 - 1)
            limits = np.arange(first, first + step + 1, dtype=np.uint64) << np.uint64(32)
            self._ends[band, first : first + step + 1] = ends = done + np.searchsorted(order, limits)
            done += len(order)
            same = np.diff(ends).astype(np.float64)
            self.num_hits += float(same @ np.minimum(same, MAX_SAME))

    @property
    def num_bytes(self) -> int:
        """Memory of the table, without the items themselves."""
        return self._places.nbytes + self._ends.nbytes

    def alignments(self, queries: Queries, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where a closer look is worth it: queries, and the items of the table over which each would begin.

        Parameters
        ----------
        queries
            What is looked up.
        limits
            For each query: only items before this one count.
        """
        query, begin = self._hits(queries, limits)
        longest = int(np.diff(queries.starts).max(initial=0))
        span = len(self._items) + longest + 1  # a begin may lie before the index's first item
        codes = query * span + (begin + longest)
        if self.kind.min_hits > 1:
            # Most hits are alone at their offset: a table of counts, in which few others share a cell, leaves them out.
            cells = codes & (CELLS - 1)
            codes = codes[np.bincount(cells, minlength=CELLS)[cells] >= self.kind.min_hits]
        codes, num_hits = np.unique(codes, return_counts=True)
        query, begin = np.divmod(codes[num_hits >= self.kind.min_hits], span)
        return query, begin - longest

    def _buckets(self, items: np.ndarray, band: int) -> np.ndarray:
        """Where a slice of each item is looked up: uint32."""
        width = self.kind.band_bits
        band_bits = (items >> self.kind.dtype.type(band * width)).astype(np.uint32) & np.uint32(2**width - 1)
        if self._bucket_bits == width:
            return np.asarray(band_bits)
        hashed = band_bits * np.uint32(0x9E3779B1)  # Fibonacci hashing: the upper bits tell
        return np.asarray(hashed >> np.uint32(32 - self._bucket_bits))

    def _hits(self, queries: Queries, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Queries and items of the table over which they would begin, one of each for every equal slice."""
        query_of = owners(queries.starts)
        asking = np.flatnonzero((queries.items != 0) & (queries.changes > 0))
        limits = limits[query_of[asking]]
        begins, counts = [], []
        for band, ends in enumerate(self._ends):
            buckets = self._buckets(queries.items[asking], band)
            begin, end = ends[buckets].astype(np.int64), ends[buckets + np.uint32(1)].astype(np.int64)
            if limits.min(initial=len(self._items)) < len(self._items):
                end = self._bisect(begin, end, limits)
            begins.append(begin)
            counts.append(np.minimum(end - begin, MAX_SAME))
        begin, count = np.concatenate(begins), np.concatenate(counts)
        query = np.tile(query_of[asking], len(begins))
        place = np.tile(asking - queries.starts[query_of[asking]], len(begins))

        rarest_first = np.lexsort((count, query))
        begin, count, query, place = (array[rarest_first] for array in (begin, count, query, place))
        looked_up = np.cumsum(count) - count
        looked_up -= looked_up[np.searchsorted(query, query)]  # by the query itself
        count = np.clip(MAX_HITS - looked_up, 0, count)

        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        hit = self._places[np.repeat(begin, count) + within].astype(np.int64)
        query, place = np.repeat(query, count), np.repeat(place, count)
        if self._bucket_bits < self.kind.band_bits == self.kind.bits:  # other items may have the same hash
            equal = self._items[hit] == queries.items[queries.starts[query] + place]
            hit, query, place = hit[equal], query[equal], place[equal]
        return query, hit - place

    def _bisect(self, first: np.ndarray, last: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """In each of some stretches of ``_places``, all of which rise, find the first that is not below a limit."""
        while (unsettled := first < last).any():
            middle = (first + last) // 2
            below = unsettled & (self._places.take(middle, mode="clip") < limits)
            first, last = np.where(below, middle + 1, first), np.where(unsettled & ~below, middle, last)
        return first


def owners(starts: np.ndarray) -> np.ndarray:
    """The clip that each item belongs to."""
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))
