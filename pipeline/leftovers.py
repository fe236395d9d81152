"""What an earlier build left in a set's folder: cleared of what is half written, and of what cannot be carried out.

That is also what is damaged, and what is not wanted any more. A sample goes as soon as it stands in its shard, so one
that a part names and that is not there was packed, or is lost. Lost are those that somebody removed, and those of the
layout of older software, whose parts name no sample at all. Their clips are prepared again; nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from pipeline import dataset, shards
from pipeline.damage import is_damage
from pipeline.locations import Folder
from pipeline.stages import rows_of_plan
from pipeline.storage import files_in, remove

Row = dict[str, Any]

COLUMNS = ("source_id", "status", "sample")
"""Of a part: what is asked here."""


def clear(out: Folder, *, holds_unwanted: Callable[[Folder], bool] = lambda plan: False) -> list[str]:
    """Remove what no build can use; killed anywhere, the next run goes on with it.

    A plan that cannot be carried out goes whole: what it packed stands, and the rest is planned again.

    Parameters
    ----------
    holds_unwanted
        Tells whether a plan would pack what this build must not hold.

    Returns
    -------
    list of str
        Lines that say what is done again.
    """
    work = out / dataset.WORK
    remove([*files_in(out, ".*.tmp", ".*.purge"), *files_in(work, ".*.tmp")])
    # The samples first, then the shards: one that is packed meanwhile, by a late worker, is in one of the two lists.
    samples = {file.name for file in files_in(work, "part-*.tar")}
    parts = files_in(work, "part-*.parquet")
    told = _of_shards(shards.stale_records(out))
    plan = work / dataset.PLAN
    if plan.exists():
        fault = _fault(out, plan, samples, holds_unwanted)
        if fault is None:
            drop_stale_records(out)
            return told
        told.append(f"an earlier build's plan {fault}; what it packed stays, the rest is planned again")
    told += _drop_tars_without_record(out, tell=not plan.exists())
    remove([plan])
    parts, damaged = _sound(parts)
    told += damaged
    standing = {row["source_id"] for row in dataset.kept_rows(out, ["source_id"])} if parts else frozenset[str]()
    lost: list[str | None] = []
    needed: set[str] = set()
    for part in parts:
        rows = shards.read_rows(part, COLUMNS)
        left = [number for number, row in enumerate(rows) if row["source_id"] not in standing]
        whole = [number for number in left if rows[number]["status"] != "kept" or rows[number]["sample"] in samples]
        lost += [rows[number]["sample"] for number in left if number not in whole]
        needed |= {rows[number]["sample"] for number in whole if rows[number]["sample"]}
        if len(whole) < len(rows):
            _keep(part, whole)
    remove(work / name for name in samples - needed)  # of a part cut short, or of an older layout, or packed already
    return told + _in_words(lost)


def drop_stale_records(out: Folder) -> None:
    """Remove the records of tars that are gone, when their clips are planned anew: no new tar must meet such a one.

    For the flow alone: two workers that pack one shard would remove each other's.
    """
    remove(shards.stale_records(out))


def _fault(out: Folder, plan: Folder, samples: Collection[str], holds_unwanted: Callable[[Folder], bool]) -> str | None:
    """Why a plan cannot be carried out, in words that follow its name."""
    committed = {tar.name for tar in shards.committed_shards(out)}
    try:
        to_pack = {
            row["sample"]
            for row in rows_of_plan(plan, ["shard", "sample"])
            if row["shard"] and row["shard"] not in committed
        }
        if holds_unwanted(plan):
            return "holds what is excluded now"
    except Exception as error:
        if is_damage(error):
            return "is damaged"
        raise
    return None if to_pack <= set(samples) else "needs samples that are gone"


def _drop_tars_without_record(out: Folder, *, tell: bool) -> list[str]:
    """Remove tars that no plan will give a record; a build that was killed leaves some, else the record was lost."""
    tars = shards.tars_without_record(out)
    remove(tars)
    if not tars or not tell:
        return []
    return [f"{len(tars)} shards have lost their records, such as {tars[0].name}: their clips are prepared again"]


def _sound(parts: Sequence[Folder]) -> tuple[list[Folder], list[str]]:
    """Remove the tables that cannot be read: the others, and a line."""
    damaged = []
    for part in parts:
        try:
            shards.read_rows(part, COLUMNS)
        except Exception as error:
            if not is_damage(error):
                raise
            damaged.append(part)
    remove(damaged)
    left = [part for part in parts if part not in damaged]
    told = f"{len(damaged)} tables of prepared clips are damaged, such as {damaged[0].name}" if damaged else ""
    return left, [f"{told}: their clips are prepared again"] if damaged else []


def _keep(part: Folder, numbers: Collection[int]) -> None:
    """Leave a part these of its rows."""
    rows = shards.read_rows(part)
    if numbers:
        shards.write_rows(part, [rows[number] for number in numbers], shards.PART)
    else:
        remove([part])


def _of_shards(stale: Sequence[Folder]) -> list[str]:
    if not stale:
        return []
    return [f"{len(stale)} shards are gone, such as {stale[0].stem}.tar: their clips are prepared again"]


def _in_words(lost: Collection[str | None]) -> list[str]:
    told = []
    if num_old := sum(name is None for name in lost):
        told.append(f"{num_old} clips were prepared by older software, whose parts are read no more: prepared again")
    if gone := [name for name in lost if name is not None]:
        told.append(f"{len(gone)} prepared samples are gone, such as {min(gone)}: their clips are prepared again")
    return told
