"""What a worker runs: a batch of candidates to prepare, a planned shard to pack.

Each takes what it needs as arguments and knows of no build, so that it runs in any process that sees the folder.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import dataset, shards
from pipeline.errors import DISK_ERRNOS, UserError
from pipeline.filters.judge import OFF, Filters
from pipeline.locations import Folder
from pipeline.media import encodable
from pipeline.prepare import Recipe, prepare
from pipeline.schema import Rejected
from pipeline.sources import Source
from pipeline.storage import local_copy, remove, storage_errors

Row = dict[str, Any]


def prepare_samples(
    folder: Folder, sources: Sequence[Source], recipe: Recipe, seed: int, filters: Filters = OFF
) -> list[Row]:
    """Prepare a batch but for its commit; our own errors become ``failed(internal)`` rows, the traceback in detail.

    Where a worker may outlive the flow that sent it, the flow commits: what is late is no part then.
    """

    def candidates() -> Iterator[shards.Prepared]:
        for source in sources:
            try:
                with at_hand(source) as here:
                    outcome = prepare(here, recipe=recipe, seed=seed, filters=filters)
                yield shards.prepared(source, outcome, jpeg_quality=recipe.jpeg_quality)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
                    raise
                yield shards.prepared(source, failed(source, traceback.format_exc()))

    return shards.write_samples(folder, sources, candidates())


def pack_shard(folder: Folder, name: str, labels: Sequence[str] | None, recipe_hash: str) -> None:
    """Write one planned shard and its record, unless it stands: a cluster may run a task twice, or both at once."""
    tar, work = folder / name, folder / dataset.WORK
    if not shards.is_committed(tar):
        rows = list(rows_of_plan(work / dataset.PLAN, shard=name))
        try:
            shards.pack_shard(folder, rows, parts=work, labels=labels, recipe_hash=recipe_hash)
        except FileNotFoundError:
            if not shards.is_committed(tar):  # or the other one was faster, and has removed what it packed
                raise
        except shards.DamagedSampleError as error:
            remove([error.file])
            raise UserError(f"{error}; it is removed, and the same command prepares its clip again") from error


@contextmanager
def at_hand(source: Source) -> Iterator[Source]:
    """A candidate whose file lies on this machine's disk, for as long as it is prepared.

    A store that cannot be reached is a failure, so that the next run tries again.
    """
    if source.path is None or source.problem is not None:
        yield source
        return
    if isinstance(source.path, Path):
        with encodable(source.path) as path:
            yield source if path == source.path else replace(source, path=path)
        return
    with contextlib.ExitStack() as stack:
        try:
            here = replace(source, path=stack.enter_context(local_copy(source.path)))
        except storage_errors() as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
                raise
            here = replace(source, problem=("network", f"its store gave no file: {error}"))
        yield here


def fail_alone(folder: Folder, source: Source, detail: str) -> list[Row]:
    """Write the part of a candidate that could not be prepared at all."""
    return shards.write_part(folder, [source], [shards.prepared(source, failed(source, detail))])


def failed(source: Source, detail: str) -> Rejected:
    """Outcome of a candidate on which our own code broke."""
    known = {"source_id": source.source_id, "link": source.link, "title": source.title}
    return Rejected(code="internal", detail=detail, meta=known)


def rows_of_plan(plan: Folder, columns: Sequence[str] | None = None, *, shard: str | None = None) -> Iterator[Row]:
    """Rows of a plan, or those of one shard; some columns of them, or all."""
    only = None if shard is None else shards.Only("shard", shard)
    for table in shards.read_tables(plan, columns, only=only):
        yield from table.to_pylist()
