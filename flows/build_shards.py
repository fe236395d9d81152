"""Build a data set of shards from music videos.

    python -m flows.build_shards --source VIDEOS --out shards/unlabeled
    python -m flows.build_shards --source MVED --labels mved --out shards/mved

The flow needs no Prefect server: without one it starts its own for the time of the run. Killed anywhere and started
again with the same words, it goes on where it was. Exit code 0: something is kept; 1: nothing is; 2: a mistake in the
request.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import flows.settings  # isort: skip  # noqa: F401  before prefect is imported

import tyro
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.server.api.server import SubprocessASGIServer
from prefect.states import Failed

from flows.progress import Progress
from pipeline.build import Build, Row, fail_alone, prepare_batch
from pipeline.card import dataset_card
from pipeline.denoise import DEFAULT_ON
from pipeline.errors import UserError
from pipeline.plan import SplitRule
from pipeline.prepare import Recipe
from pipeline.schema import Manifest, Modality, SchemaError
from pipeline.sources import Source, list_sources
from pipeline.storage import single_writer
from pipeline.workers import WorkerDiedError, WorkerPool

_RUN_AS_COMMAND: ContextVar[bool] = ContextVar("run as command", default=False)


@task(name="prepare-batch", cache_policy=NO_CACHE)
def prepare_in_worker(pool: WorkerPool, folder: Path, batch: list[Source], recipe: Recipe, seed: int) -> list[Row]:
    """Prepare a batch in a worker. If one dies meanwhile, try the clips one by one: a single clip blocks no other."""
    try:
        return pool.run(prepare_batch, folder, batch, recipe, seed)
    except WorkerDiedError:
        rows = []
        for source in batch:
            try:
                rows += pool.run_alone(prepare_batch, folder, [source], recipe, seed)
            except WorkerDiedError as error:
                rows += fail_alone(folder, source, str(error))
        return rows


@task(name="pack-shard", cache_policy=NO_CACHE)
def pack_shard(pack: Callable[[list[Row]], None], rows: list[Row]) -> None:
    """Write one shard and its commit record."""
    pack(rows)


@flow(name="build-shards")
def build_shards(
    source: str,
    out: str,
    labels: str | None = None,
    split: SplitRule | None = None,
    modality: Modality = "both",
    limit: int | None = None,
    seed: int = 0,
    samples_per_shard: int = 128,
    workers: int | None = None,
    denoise: bool = DEFAULT_ON,
) -> dict[str, object] | State:
    """Build, or bring up to date, a data set of shards.

    Args:
        source: A folder of videos, or a list of http(s) links (.txt, or .csv/.parquet with a column `link`).
        out: Folder of the data set, such as shards/unlabeled.
        labels: `mved` (split and class from the path), or a CSV with columns file or link, label, [split], [group].
        split: Keep the splits that the labels came with, or deal whole source groups to train, val and test 80/10/10.
            By default official if every candidate has a split, else grouped.
        modality: What a sample must hold, and does.
        limit: Take the first so many candidates alone.
        seed: Of the 30-s spans, the grouped split and the shuffle.
        samples_per_shard: At most so many clips in a tar; one takes about 5 MB.
        workers: Worker processes; one a core by default.
        denoise: Denoise clips whose noise floor is high; docs/denoise.md shows what that does.
    """
    log = get_run_logger().info
    if _RUN_AS_COMMAND.get():  # a deployed flow's signals are its runner's to answer
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
    try:
        build = request(source, out, labels, split, modality, limit, seed, samples_per_shard, workers, denoise)
        with single_writer(build.work):
            build.begin()
            manifest = bring_up_to_date(build, num_workers=workers or os.cpu_count() or 1, log=log)
    except (UserError, SchemaError, OSError) as error:
        return Failed(message=str(error))  # a mistake in the request, or a full disk: one line, no traceback
    create_markdown_artifact(dataset_card(manifest), key="build-shards", description=f"Data set {out}")
    return manifest.counts


def request(
    source: str,
    out: str,
    labels: str | None,
    split: SplitRule | None,
    modality: Modality,
    limit: int | None,
    seed: int,
    samples_per_shard: int,
    workers: int | None,
    denoise: bool,
) -> Build:
    """Turn the flow's parameters into a build, checked as far as reading alone can.

    Raises
    ------
    UserError
        A line that names the parameter and the mend.
    """
    for flag, number in (("--limit", limit), ("--samples-per-shard", samples_per_shard), ("--workers", workers)):
        if number is not None and number < 1:
            raise UserError(f"{flag} {number}: give a whole number from 1 up")
    build = Build.request(
        out=Path(out),
        sources=list_sources(source, labels=labels),
        recipe=Recipe(modality=modality, denoise=denoise),
        seed=seed,
        labelled=labels,
        split_rule=split,
        samples_per_shard=samples_per_shard,
        limit=limit,
        origin=str(Path(source).resolve()) if Path(source).is_dir() else None,
    )
    build.check_against_earlier()
    return build


def bring_up_to_date(build: Build, *, num_workers: int, log: Callable[[str], None]) -> Manifest:
    """Prepare what is pending, plan, pack and publish; say so where nothing is to be done."""
    if build.plan_file.exists():
        log("an earlier build was stopped while it packed; finishing it first")
        finish(build)
    if (manifest := build.up_to_date()) is not None:
        log(nothing_to_do(build))
        return manifest
    pending = build.pending()
    known = len(build.sources) - len(pending)
    log(f"{len(build.sources)} candidates, {known} done already, {len(pending)} to prepare with {num_workers} workers")
    with WorkerPool(num_workers) as pool, Progress(len(pending), log) as progress:
        jobs = (
            prepare_in_worker.submit(pool, build.work, batch, build.recipe, build.settings.seed)
            for batch in build.batches(pending, num_workers)
        )
        for rows in windowed(jobs, size=2 * num_workers):
            progress.add(rows)
    build.make_plan()
    return finish(build)


def nothing_to_do(build: Build) -> str:
    """Words for a build that is up to date."""
    return f"nothing to do: all {len(build.sources)} candidates are in {build.out} already"


def finish(build: Build) -> Manifest:
    """Pack the planned shards that are missing, then derive index, manifest and card."""
    for _ in windowed((pack_shard.submit(build.pack, rows) for rows in build.shards_to_pack()), size=2):
        pass
    return build.finish()


def windowed(futures: Iterable[PrefectFuture[Any]], *, size: int) -> Iterable[Any]:
    """Results of lazily submitted tasks in their order, at most ``size`` of them under way."""
    under_way: deque[PrefectFuture[Any]] = deque()
    for future in futures:
        under_way.append(future)
        if len(under_way) >= size:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


@functools.wraps(build_shards.fn)
def run(**parameters: Any) -> int:
    """Run the flow in this process; a mistake in the request is told before Prefect starts anything."""
    try:
        signature = inspect.signature(build_shards.fn).bind(**parameters)
        signature.apply_defaults()
        build = request(**signature.arguments)
        manifest = build.up_to_date()
    except (UserError, SchemaError, OSError) as error:
        return _fail(str(error))
    if manifest is not None:
        print(f"build-shards: {nothing_to_do(build)}", file=sys.stderr)
        return _summary(manifest.counts)
    _RUN_AS_COMMAND.set(True)
    state: State[Any] = build_shards(**parameters, return_state=True)
    if not state.is_completed():
        return _fail(state.message or "the flow did not complete")
    return _summary(state.result())


def _summary(counts: dict[str, Any]) -> int:
    """Print the counts on one line; the exit code tells whether anything is kept."""
    print(", ".join(f"{counts[name]} {name}" for name in ("kept", "rejected", "failed")), end="")
    print("".join(f"; {code} {n}" for code, n in counts["by_code"].items()))
    if not counts["kept"]:
        _fail("nothing was kept; index.parquet says why for each candidate")
    return 0 if counts["kept"] else 1


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: a half-written part is cleared by the next run, the workers follow, Prefect's server is told to."""
    for server in list(SubprocessASGIServer._instances.values()):
        server.stop()
    os.write(2, b"build-shards: stopped; the same command goes on from here\n")
    os._exit(128 + number)


def _fail(message: str) -> int:
    print(f"build-shards: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(tyro.cli(run, prog="python -m flows.build_shards", description=__doc__))
