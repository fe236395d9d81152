"""From what was prepared, and what stands in a set, to the file that says where every candidate goes.

Of a candidate nothing is held but what the plan needs to know: the parts are read once for that, and once more to write
their rows down, as columns, with the place that each was given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import journal, shards
from pipeline.clips import video_of
from pipeline.exclude import Excluded
from pipeline.filters import duplicates
from pipeline.filters.duplicates import Duplicate, Progress
from pipeline.filters.judge import Mode
from pipeline.fingerprint import KINDS
from pipeline.locations import Folder
from pipeline.plan import Candidate, SplitRule, plan
from pipeline.sources import source_group

Row = dict[str, Any]

KNOWN = ["key", "source_id", "link", "status", "split", "label", "source_group", "start_s", "sha256"]
"""Columns of the index that the plan goes by, beside the fingerprints."""

PLANNED = shards.PART.append(pa.field("place", pa.int64()))
"""A row of the plan: that of the part, and where its sample comes among all."""

PILE_ROWS = 8 * shards.ROWS_AT_ONCE  # of the plan, sorted together: about 50 MB

_BY_WORTH = ("failed", "rejected", "kept")


def write_plan(
    target: Folder,
    *,
    parts: Sequence[Folder],
    folder: Folder,
    order: Sequence[str],
    split_rule: SplitRule | None,
    seed: int,
    samples_per_shard: int,
    mode: Mode,
    excluded: Excluded,
    progress: Progress,
) -> None:
    """Place what was prepared, and write it down: whole or not at all.

    Parameters
    ----------
    target
        Rows of every candidate of the build, with the shard and place of those that are kept.
    parts
        Parquet files of what was prepared.
    folder
        The set as it stands.
    order
        Identities of the candidates, in the order in which they count.
    mode
        What becomes of clips that show or play the same as another.
    excluded
        What other sets hold, and this one must not.
    progress
        Told how many clips are compared, of how many.
    """
    position = {source_id: number for number, source_id in enumerate(order)}
    rows = _prepared(parts, position)
    standing = _standing(folder, {row["source_id"] for row in rows}, position)
    committed = [row for row in standing if row["status"] == "kept"]
    _reject_collisions(rows, {row["key"] for row in committed})
    _reject_excluded(rows, excluded)
    kept = [row for row in rows if row["status"] == "kept"]
    found = duplicates.find(kept, standing, mode=mode, official=split_rule == "official", progress=progress)
    dropped = {key for key, duplicate in found.duplicates.items() if duplicate.dropped}
    left_out = [row for row in kept if row["key"] in dropped] + [row for row in standing if row["status"] != "kept"]
    placed = plan(
        [_candidate(row) for row in kept if row["key"] not in dropped],
        [_candidate(row) for row in committed],
        left_out=[_candidate(row) for row in left_out],
        links=found.links,
        split_rule=split_rule,
        seed=seed,
        samples_per_shard=samples_per_shard,
        num_shards=_num_shards([row["shard"] for row in committed] + journal.retired_shards(folder)),
    )
    for row in kept:
        _mark_duplicate(row, found.duplicates.get(row["key"]))
    by_key = {row["key"]: row for row in kept}
    for number, where in enumerate(placed):
        by_key[where.key] |= {
            "split": where.split,
            "source_group": where.group,
            "shard": where.shard,
            "place": number,
        }
    _write(target, parts, rows)


def _prepared(parts: Sequence[Folder], position: Mapping[str, int]) -> list[Row]:
    """What the plan must know of each candidate, in their order, and where in the parts its row stands."""
    best: dict[str, Row] = {}
    for part in parts:
        for number, row in enumerate(shards.read_rows(part, [*KNOWN, "groups", *KINDS])):
            other = best.get(row["source_id"])
            # It may stand in two parts, if it was tried again: what is kept counts, then what was rejected.
            if other is None or _BY_WORTH.index(row["status"]) >= _BY_WORTH.index(other["status"]):
                best[row["source_id"]] = row | {"at": (part, number)}
    return _in_order(best.values(), position, len(position))


def _standing(folder: Folder, again: set[str], position: Mapping[str, int]) -> list[Row]:
    """Clips in the set, and what was left out as their duplicate, but for what was prepared again."""
    columns = [*KNOWN, "shard", "duplicate_of", *KINDS]
    rows = [row for tar in shards.committed_shards(folder) for row in shards.read_rows(shards.record_of(tar), columns)]
    if (index := folder / "index.parquet").exists():
        duplicates = shards.read_rows(index, [*columns, "code"], only=shards.Only("code", "duplicate"))
        rows += [row for row in duplicates if row["duplicate_of"]]
    return _in_order((row for row in rows if row["source_id"] not in again), position, -1)


def _in_order(rows: Iterable[Row], position: Mapping[str, int], unknown: int) -> list[Row]:
    return sorted(rows, key=lambda row: (position.get(row["source_id"], unknown), row["source_id"]))


def _reject_collisions(rows: Iterable[Row], taken: set[str]) -> None:
    """Reject clips whose key another has: keys hold 32 bits of the source's identity, enough but for chance."""
    for row in rows:
        if row["status"] == "kept" and row["key"] in taken:
            _reject(row, "key-collision", f"another clip has the key {row['key']}", key=None)
        elif row["status"] == "kept":
            taken.add(row["key"])


def _reject_excluded(rows: Iterable[Row], excluded: Excluded) -> None:
    """Reject clips of which another set holds the same file, sound or picture."""
    kept = [row for row in rows if row["status"] == "kept"]
    for row, why in zip(kept, excluded.by_contents(kept), strict=True):
        if why is not None:
            _reject(row, "excluded", why, key=None)


def _mark_duplicate(row: Row, duplicate: Duplicate | None) -> None:
    if duplicate is not None:
        row["duplicate_of"] = duplicate.of
        if duplicate.dropped:
            _reject(row, "duplicate", duplicate.detail)


def _reject(row: Row, code: str, detail: str, **changes: Any) -> None:
    row |= {"status": "rejected", "code": code, "detail": detail, **changes}


def _candidate(row: Row) -> Candidate:
    """What stands has lost all names but that of its group; those that its identity tells are given back to it."""
    video = video_of(row["source_id"])
    names = row.get("groups") or [row["source_group"], video, source_group(video)]
    return Candidate(
        key=row["key"],
        sha256=row["sha256"],
        groups=tuple(name for name in names if name),
        label=row["label"],
        split=row["split"],
    )


def _num_shards(names: Iterable[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for name in names:
        split, number = Path(name).stem.rsplit("-", 1)
        numbers[split] = max(numbers.get(split, 0), int(number) + 1)
    return numbers


def _write(target: Folder, parts: Sequence[Folder], rows: Iterable[Row]) -> None:
    """Copy the candidates' rows out of their parts, with what the plan says of each; a shard's stand together.

    They are dealt into piles on this machine's disk, which follow each other, and each pile is sorted by itself: of the
    whole plan, fingerprints and pictures included, a pile is held at most.
    """
    in_order = sorted(rows, key=_place)
    told = {row["at"]: row | {"number": number} for number, row in enumerate(in_order)}

    def planned() -> Iterator[Row]:
        for part in parts:
            for at, row in enumerate(shards.read_rows(part)):
                if (news := told.get((part, at))) is not None:
                    if news["status"] == "kept" and news.get("duplicate_of"):
                        row["flagged"] = [*(row["flagged"] or ()), "duplicate"]
                    yield {name: news.get(name, row.get(name)) for name in numbered.names}

    numbered = PLANNED.append(pa.field("number", pa.int64()))
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(0, len(in_order), PILE_ROWS)]
        writers = [stack.enter_context(pa.ipc.new_stream(file, numbered)) for file in files]
        for table in shards.tables_of(planned(), numbered):
            pile_of = pc.divide(table["number"], PILE_ROWS)
            for pile, writer in enumerate(writers):
                writer.write_table(table.filter(pc.equal(pile_of, pile)))
        for writer in writers:
            writer.close()
        shards.write_tables(target, map(_sorted, files), PLANNED)


def _place(row: Row) -> tuple[bool, str, int, str]:
    """By shard and place in it; what goes into none comes last, by its name."""
    shard = row.get("shard")
    return shard is None, shard or "", row.get("place") or 0, row["source_id"]


def _sorted(pile: IO[bytes]) -> pa.Table:
    pile.seek(0)
    with pa.ipc.open_stream(pile) as stream:
        return stream.read_all().sort_by("number")
