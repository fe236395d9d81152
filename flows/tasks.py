"""The flow's tasks: stages of the pipeline with Prefect's book-keeping around them, a task a batch or shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture

from flows.runners import Workers
from pipeline.build import Build, Row
from pipeline.errors import UserError
from pipeline.filters.judge import Filters
from pipeline.locations import Folder, absolute
from pipeline.object_lock import lend, work_under
from pipeline.prepare import Recipe
from pipeline.schema import Manifest
from pipeline.shards import commit_part
from pipeline.sources import Source
from pipeline.stages import fail_alone, pack_shard, prepare_samples
from pipeline.workers import WorkerDiedError


@task(name="prepare-batch", cache_policy=NO_CACHE)
def prepare_in_worker(
    workers: Workers, folder: Folder, batch: list[Source], recipe: Recipe, seed: int, filters: Filters
) -> list[Row]:
    """Prepare a batch in a worker. If one dies meanwhile, try the clips one by one: a single clip blocks no other."""
    try:
        return commit(folder, batch, workers.run(prepare_samples, folder, batch, recipe, seed, filters))
    except WorkerDiedError:
        rows = []
        for source in batch:
            try:
                alone = workers.run_alone(prepare_samples, folder, [source], recipe, seed, filters)
                rows += commit(folder, [source], alone)
            except WorkerDiedError as error:
                rows += fail_alone(folder, source, str(error))
        return rows


def commit(folder: Folder, batch: Sequence[Source], rows: list[Row]) -> list[Row]:
    """Make a part of what a worker prepared; here, so that a worker that outlives its flow makes none.

    Raises
    ------
    UserError
        If the worker's files are not here.
    """
    some = next((row["sample"] for row in rows if row.get("sample")), None)
    if some is not None and not (folder / some).exists():
        raise UserError(f"a worker wrote {some}, but not to {folder} as it is seen here; share that folder")
    commit_part(folder, batch, rows)
    return rows


@task(name="pack-shard", cache_policy=NO_CACHE)
def pack_in_worker(workers: Workers, folder: Folder, name: str, labels: list[str] | None, recipe_hash: str) -> None:
    """Write one shard and its commit record in a worker, another one if that dies."""
    packing = (lend(folder / name), pack_shard, folder, name, labels, recipe_hash)
    try:
        workers.run(work_under, *packing)
    except WorkerDiedError:
        try:
            workers.run_alone(work_under, *packing)
        except WorkerDiedError as error:
            raise UserError(f"{name} could not be packed: {error}; the same command tries again") from error


def prepared(build: Build, batches: Iterable[Sequence[Source]], workers: Workers) -> Iterator[list[Row]]:
    """Prepare batches as they come; their rows, in the batches' order."""
    jobs = (
        prepare_in_worker.submit(
            workers,
            absolute(build.work),  # a worker elsewhere stands in another folder
            [source if source.path is None else replace(source, path=absolute(source.path)) for source in batch],
            build.recipe,
            build.settings.seed,
            build.filters,
        )
        for batch in batches
    )
    yield from windowed(jobs, size=lambda: 2 * workers.num_workers)


def nothing_to_do(build: Build, again: Collection[str]) -> str:
    """Words for a build that is up to date."""
    if again:
        return f"nothing to do: no candidate of {build.out} ended with {', '.join(sorted(again))}"
    return f"nothing to do: all {len(build.sources)} candidates are in {build.out} already"


def finish_earlier(build: Build, workers: Workers, *, log: Callable[[str], None]) -> None:
    """Carry out a plan that an earlier run left."""
    if build.plan_file.exists():
        log("an earlier build was stopped while it packed; finishing it first")
        finish(build, workers)


def finish(build: Build, workers: Workers) -> Manifest:
    """Pack the planned shards that are missing, then derive index, manifest and card."""
    jobs = (
        pack_in_worker.submit(workers, absolute(build.out), name, build.settings.labels, build.recipe.hash)
        for name in build.shards_to_pack()
    )
    for _ in windowed(jobs, size=lambda: workers.num_workers):
        pass
    return build.finish()


def windowed(futures: Iterable[PrefectFuture[Any]], *, size: Callable[[], int]) -> Iterable[Any]:
    """Results of lazily submitted tasks in their order, at most ``size()`` of them under way.

    Prefect notes for every row of every result which task gave it, for as long as the flow runs; nobody asks.
    """
    context = FlowRunContext.get()
    under_way: deque[PrefectFuture[Any]] = deque()

    def first() -> Any:
        result = under_way.popleft().result()
        if context is not None:
            context.run_results.clear()
        return result

    for future in futures:
        under_way.append(future)
        while len(under_way) >= size():
            yield first()
    while under_way:
        yield first()
