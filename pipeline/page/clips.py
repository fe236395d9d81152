"""Clips that the page shows: chosen from the index alone, evenly and always the same, then read from their tars."""

from __future__ import annotations

import io
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pipeline import tars
from pipeline.locations import Folder
from pipeline.page.index import Index
from pipeline.schema import MEMBERS, SPLITS, Sample, SchemaError, decode, files_of, members_of
from pipeline.storage import opened, read_span, storage_errors
from pipeline.tars import NPY_HEADER_BYTES, Readable, TarError
from pipeline.text import clean_text

NUM_SHOWN = 24  # clips of a grid
NUM_FLAGGED = 12  # kept clips that the filters would drop
NUM_HEARD = 2  # clips whose mel and phase are drawn
MAX_SAMPLE_BYTES = tars.MAX_MEMBERS * (tars.MAX_MEMBER_BYTES + 2 * tarfile.BLOCKSIZE)
END_MARK = bytes(2 * tarfile.BLOCKSIZE)

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

    Each is read from its place in its tar; where the index does not tell that, as in sets of earlier releases, the tar
    is read from its head.
    """
    files = {file: _most_bytes(name) for name in members for file in files_of(name)}
    unreadable: tuple[type[Exception], ...] = (*storage_errors(), TarError, SchemaError)
    found = {}
    for row in rows:
        key, shard = row.get("key"), row.get("shard")
        if not key or not shard or Path(shard).name != shard:  # a bare name: an index may come from anywhere
            continue
        try:
            record = _record(folder / shard, row, key)
            wanted = {file: raw for file, raw in record.items() if len(raw) <= files.get(file, 0)}
            found[key] = decode({"__key__": key, **wanted}, members=members)
        except unreadable:  # no such tar, or a damaged one
            continue
    return found


def _record(tar: Folder, row: Row, key: str) -> dict[str, bytes]:
    offset, num_bytes = row.get("sample_offset"), row.get("sample_bytes")
    if offset is not None and num_bytes is not None:
        if not (offset >= 0 and 0 < num_bytes <= MAX_SAMPLE_BYTES):
            return {}
        stream: Readable = io.BytesIO(read_span(tar, offset, num_bytes) + END_MARK)
        return next((sample.members for sample in tars.read_samples(stream) if sample.key == key), {})
    with opened(tar) as whole:
        return next((sample.members for sample in tars.read_samples(whole) if sample.key == key), {})


def _most_bytes(name: str) -> int:
    member = MEMBERS[name]
    return member.dtype.itemsize * int(np.prod(member.shape)) + NPY_HEADER_BYTES


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
