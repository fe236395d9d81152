"""The flow's tasks: stages of the pipeline with Prefect's book-keeping around them, a task a batch or shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture

from pipeline.build import Build, Row, fail_alone, prepare_batch
from pipeline.filters.judge import Filters
from pipeline.prepare import Recipe
from pipeline.schema import Manifest
from pipeline.sources import Source
from pipeline.storage import Folder
from pipeline.workers import WorkerDiedError, WorkerPool


@task(name="prepare-batch", cache_policy=NO_CACHE)
def prepare_in_worker(
    pool: WorkerPool, folder: Folder, batch: list[Source], recipe: Recipe, seed: int, filters: Filters
) -> list[Row]:
    """Prepare a batch in a worker. If one dies meanwhile, try the clips one by one: a single clip blocks no other."""
    try:
        return pool.run(prepare_batch, folder, batch, recipe, seed, filters)
    except WorkerDiedError:
        rows = []
        for source in batch:
            try:
                rows += pool.run_alone(prepare_batch, folder, [source], recipe, seed, filters)
            except WorkerDiedError as error:
                rows += fail_alone(folder, source, str(error))
        return rows


@task(name="pack-shard", cache_policy=NO_CACHE)
def pack_shard(pack: Callable[[str], None], name: str) -> None:
    """Write one shard and its commit record."""
    pack(name)


def prepared(build: Build, batches: Iterable[Sequence[Source]], *, num_workers: int) -> Iterator[list[Row]]:
    """Prepare batches as they come; their rows, in the batches' order."""
    with WorkerPool(num_workers) as pool:
        jobs = (
            prepare_in_worker.submit(pool, build.work, list(batch), build.recipe, build.settings.seed, build.filters)
            for batch in batches
        )
        yield from windowed(jobs, size=2 * num_workers)


def nothing_to_do(build: Build, again: Collection[str]) -> str:
    """Words for a build that is up to date."""
    if again:
        return f"nothing to do: no candidate of {build.out} ended with {', '.join(sorted(again))}"
    return f"nothing to do: all {len(build.sources)} candidates are in {build.out} already"


def finish_earlier(build: Build, *, log: Callable[[str], None]) -> None:
    """Carry out a plan that an earlier run left."""
    if build.plan_file.exists():
        log("an earlier build was stopped while it packed; finishing it first")
        finish(build)


def finish(build: Build) -> Manifest:
    """Pack the planned shards that are missing, then derive index, manifest and card."""
    for _ in windowed((pack_shard.submit(build.pack, name) for name in build.shards_to_pack()), size=2):
        pass
    return build.finish()


def windowed(futures: Iterable[PrefectFuture[Any]], *, size: int) -> Iterable[Any]:
    """Results of lazily submitted tasks in their order, at most ``size`` of them under way.

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
        if len(under_way) >= size:
            yield first()
    while under_way:
        yield first()
