"""Clips that the page shows: chosen from the index alone, evenly and always the same, then read from their tars."""

from __future__ import annotations

import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.page.index import Index
from pipeline.schema import MEMBERS, SPLITS, Sample, SchemaError, decode, files_of, members_of
from pipeline.storage import Folder, opened
from pipeline.text import clean_text

NUM_SHOWN = 24  # clips of a grid
NUM_FLAGGED = 12  # kept clips that the filters would drop
NUM_HEARD = 2  # clips whose mel and phase are drawn
HEADER_BYTES = 1024  # more than the head of an .npy file takes

Row = dict[str, Any]


def choose_kept(index: Index, *, count: int = NUM_SHOWN) -> list[int]:
    """Positions of kept clips, spread over splits and classes, and within each over its shards."""
    order = {split: number for number, split in enumerate(SPLITS)}
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    splits, labels = index.text("split"), index.text("label")
    for position in np.flatnonzero(index.kept):
        groups[order.get(splits[position], len(order)), labels[position] or ""].append(int(position))
    return spread([groups[name] for name in sorted(groups)], count)


def choose_rejected(index: Index, *, count: int = NUM_SHOWN) -> list[int]:
    """Positions of clips that were not kept and have a picture, spread over their codes."""
    shown = ~index.kept & index.has_value("thumbnail")
    codes = index.text("code")
    groups: dict[str, list[int]] = defaultdict(list)
    for position in np.flatnonzero(shown):
        groups[codes[position] or ""].append(int(position))
    return spread([groups[code] for code in sorted(groups)], count)


def choose_flagged(index: Index, *, count: int = NUM_FLAGGED) -> list[int]:
    """Positions of kept clips that the filters would drop, spread over the first code against them."""
    groups: dict[str, list[int]] = defaultdict(list)
    seen: set[int] = set()
    for position, code in zip(*index.lists("flagged"), strict=True):
        if index.kept[position] and position not in seen:
            seen.add(position)
            groups[str(code)].append(int(position))
    return spread([groups[code] for code in sorted(groups)], count)


def spread(groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """Take so many of several groups: of each as equal a number as there are, evenly spaced; group by group."""
    quota = [0] * len(groups)
    while sum(quota) < min(count, sum(map(len, groups))):
        for number, group in enumerate(groups):
            if quota[number] < len(group) and sum(quota) < count:
                quota[number] += 1
    chosen = []
    for number, group in zip(quota, groups, strict=True):
        chosen += [group[i] for i in ((2 * np.arange(number) + 1) * len(group) // (2 * max(number, 1))).tolist()]
    return chosen


def read_samples(folder: Folder, rows: Sequence[Row], *, members: Sequence[str]) -> dict[str, Sample]:
    """Samples of kept rows by key, with these members alone; what cannot be read is left out.

    A tar is read once, from head to head: a member that is not wanted is skipped.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        shard = row.get("shard")
        if row.get("key") and shard and Path(shard).name == shard:  # a bare name: an index may come from anywhere
            wanted[shard].add(row["key"])
    found = {}
    for shard in sorted(wanted):
        for key, record in _records(folder / shard, wanted[shard], members).items():
            try:
                found[key] = decode({"__key__": key, **record}, members=members)
            except SchemaError:
                continue
    return found


def _records(tar: Folder, keys: set[str], members: Sequence[str]) -> dict[str, dict[str, bytes]]:
    sizes = {name: MEMBERS[name].dtype.itemsize * int(np.prod(MEMBERS[name].shape)) for name in members}
    limits = {file: num_bytes + HEADER_BYTES for name, num_bytes in sizes.items() for file in files_of(name)}
    records: dict[str, dict[str, bytes]] = defaultdict(dict)
    missing = len(keys) * len(members)
    try:
        with opened(tar) as stored, tarfile.open(fileobj=stored, mode="r:") as archive:
            for info in archive:
                key, _, ending = info.name.partition(".")
                if key in keys and ending in limits and info.isreg() and info.size <= limits[ending]:
                    stream = archive.extractfile(info)
                    records[key][ending] = stream.read() if stream else b""
                    missing -= 1
                if not missing:
                    break
    except (OSError, tarfile.TarError):  # no such tar, or a damaged one: what was read until then counts
        pass
    return {key: record for key, record in records.items() if len(record) == len(members)}


def stored_members(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Arrays that the samples of a set hold; all of them if the recipe does not say."""
    modality = recipe.get("modality")
    return members_of(modality if modality in ("audio", "video") else "both")


def title_of(row: Row) -> str:
    """Words by which people know a clip."""
    return clean_text(row.get("title")) or clean_text(row.get("key") or row.get("source_id")) or "no title"


def web_link(link: object) -> str | None:
    """A link that may be followed: http(s) with a host; none for a local file, and for anything else."""
    text = clean_text(link)
    if text is None or text != link:
        return None
    try:
        parts = urlsplit(text)
        return text if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None
