"""The global step: source groups, splits, shuffle and packing. Pure and deterministic, no I/O.

It sees one row a kept clip, in the order of the source list, and what earlier builds of the set committed; it does not
see who finished first or how the work was cut into parts. Duplicates were told before: ``filters/duplicates.py``.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.schema import SPLITS

SplitRule = Literal["official", "grouped"]

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Aim of a grouped split; whole groups are dealt, so small sets come close at best."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the plan needs to know of a kept clip."""

    key: str
    sha256: str
    groups: tuple[str, ...]
    label: str | None = None
    split: str | None = None
    """The split it came with."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where a kept clip goes."""

    key: str
    group: str
    split: str
    shard: str


def plan(
    new: Sequence[Candidate],
    committed: Sequence[Candidate] = (),
    *,
    left_out: Sequence[Candidate] = (),
    links: Iterable[tuple[str, str]] = (),
    split_rule: SplitRule | None,
    seed: int,
    samples_per_shard: int,
    num_shards: Mapping[str, int] | None = None,
) -> list[Placed]:
    """Place every new clip; places in shard order.

    Parameters
    ----------
    new
        Kept clips, in candidate order.
    committed
        Clips that stand in shards already, with the split they stand in; they stay where they are.
    left_out
        Duplicates, which are not placed, but whose names and files join source groups.
    links
        Keys of clips, duplicates among them, that belong into one source group.
    split_rule
        None for an unlabelled set; ``official`` takes the split a clip came with; ``grouped`` deals whole source
        groups.
    seed
        Of the splits and the shuffle.
    samples_per_shard
        At most so many in a shard; shards of a split are of equal size, give or take one.
    num_shards
        Shards of each split that exist: new ones are numbered after them.
    """
    group_of = join_groups([*committed, *new], left_out, links)
    if split_rule == "grouped":
        # A new clip may join two groups that stand in two splits; it goes where the first of them is.
        taken = {group_of[clip.key]: clip.split for clip in reversed(committed) if clip.split}
        split_of_group = deal_groups(new, group_of, taken, seed=seed)
        new = [replace(clip, split=split_of_group[group_of[clip.key]]) for clip in new]
    elif split_rule is None:
        new = [replace(clip, split="unlabeled") for clip in new]
    placed = []
    for split in SPLITS:
        clips = [clip for clip in new if clip.split == split]
        first = (num_shards or {}).get(split, 0)
        order = _rng(seed, split, str(first)).permutation(len(clips))
        count = -(-len(clips) // samples_per_shard)
        for offset, chosen in enumerate(np.array_split(order, count) if count else []):
            shard = f"{split}-{first + offset:06d}.tar"
            placed += [Placed(key=clips[i].key, group=group_of[clips[i].key], split=split, shard=shard) for i in chosen]
    return placed


class Joined:
    """Things that are joined, transitively."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def root(self, thing: Hashable) -> Hashable:
        """One of all that are joined with this thing, and the same for all of them."""
        parent = self._parent
        while parent.setdefault(thing, thing) != thing:
            parent[thing] = parent[parent[thing]]
            thing = parent[thing]
        return thing

    def join(self, one: Hashable, other: Hashable) -> bool:
        """Join two things; tell whether they were apart."""
        apart = self.root(one) != self.root(other)
        self._parent[self.root(other)] = self.root(one)
        return apart


def join_groups(
    clips: Iterable[Candidate], left_out: Iterable[Candidate] = (), links: Iterable[tuple[str, str]] = ()
) -> dict[str, str]:
    """Group of each clip by key: those that share a group name or their media's bytes, or are linked, are joined.

    Transitively, and over clips that were left out too. A group is called by the first name of its first clip.
    """
    joined, clips = Joined(), list(clips)
    for clip in (*clips, *left_out):
        for name in clip.groups:
            joined.join(("clip", clip.key), ("name", name))
        joined.join(("clip", clip.key), ("file", clip.sha256))
    for one, other in links:
        joined.join(("clip", one), ("clip", other))
    named: dict[Hashable, str] = {}
    return {clip.key: named.setdefault(joined.root(("clip", clip.key)), clip.groups[0]) for clip in clips}


def deal_groups(
    clips: Sequence[Candidate], group_of: Mapping[str, str], taken: Mapping[str, str], *, seed: int
) -> dict[str, str]:
    """Deal whole groups to train, val and test, near 80/10/10 in every class.

    Large groups first, then in an order drawn from the seed; each goes where its classes are furthest below their aim.
    Groups that stand in a split already stay there.
    """
    classes: dict[str, Counter[str | None]] = defaultdict(Counter)
    for clip in clips:
        classes[group_of[clip.key]][clip.label] += 1
    totals = Counter(clip.label for clip in clips)
    dealt: dict[str, Counter[str | None]] = {split: Counter() for split in SHARES}
    split_of = dict(taken)
    for group in sorted(classes, key=lambda g: (g not in taken, -classes[g].total(), _digest(seed, g))):
        if group not in split_of:
            lack = {
                split: sum(
                    n * (share - dealt[split][label] / totals[label]) / share for label, n in classes[group].items()
                )
                for split, share in SHARES.items()
            }
            split_of[group] = max(lack, key=lambda split: (lack[split], SHARES[split]))
        dealt[split_of[group]].update(classes[group])
    return split_of


def _rng(*words: object) -> np.random.Generator:
    return np.random.default_rng(int(_digest(*words)[:16], 16))


def _digest(*words: object) -> str:
    return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()
