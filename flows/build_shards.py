"""Build a data set of shards from music videos.

    python -m flows.build_shards --source VIDEOS --out shards/unlabeled
    python -m flows.build_shards --source MVED --labels mved --out shards/mved
    python -m flows.build_shards --source "search:sad music video" --source keys.txt --out shards/unlabeled --dry-run

The flow needs no Prefect server: without one it starts its own for the time of the run. Killed anywhere and started
again with the same words, it goes on where it was. Exit code 0: something is kept; 1: nothing is; 2: a mistake in the
request; 3: a site asked the crawl to stop, and the same command goes on later.
"""

from __future__ import annotations

import functools
import inspect
import sys
import tempfile
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any

from flows.stopping import heed_signals, leave

if __name__ == "__main__":
    heed_signals()  # what follows takes seconds to import

import flows.settings  # isort: skip  # noqa: F401  before prefect is imported

import tyro
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.crawling import already_built, from_crawl, show_without_fetching
from flows.progress import Progress
from flows.request import Request, YesNo
from flows.runners import Runner, Workers, check_reachable, opened
from flows.tasks import finish, finish_earlier, nothing_to_do, prepared
from pipeline.build import Build
from pipeline.card import dataset_card
from pipeline.command import mistakes, told
from pipeline.denoise import DEFAULT_ON
from pipeline.errors import DISK_ERRNOS
from pipeline.fetch import License
from pipeline.filters.judge import Mode
from pipeline.journal import finish_interrupted
from pipeline.locking import single_writer
from pipeline.manners import CrawlStoppedError
from pipeline.plan import SplitRule
from pipeline.schema import Frames, Manifest, Modality
from pipeline.spectrogram import Phase

STOPPED = "Stopped"  # name of the state of a run that a site asked to stop

_RUN_AS_COMMAND: ContextVar[bool] = ContextVar("run as command", default=False)


@flow(name="build-shards")
def build_shards(
    source: list[str] | str,
    out: str,
    labels: str | None = None,
    split: SplitRule | None = None,
    modality: Modality = "both",
    limit: int | None = None,
    seed: int = 0,
    samples_per_shard: int = 128,
    workers: int | None = None,
    runner: Runner = "threads",
    address: str | None = None,
    phase: Phase = "projected",
    denoise: bool = DEFAULT_ON,
    frames: Frames = "npy",
    jpeg_quality: int | None = None,
    filters: Mode | None = None,
    thresholds: dict[str, float] = {},  # noqa: B006  never changed
    rules: str | None = None,
    per_search: int = 50,
    search_prefix: str = "ytsearch",
    clips_per_video: int = 1,
    store: str = "shards/.crawl",
    clips: str | None = None,
    keep_clips: YesNo = "yes",
    retry: str | None = None,
    dry_run: bool = False,
    sleep_s: tuple[float, float] = (5.0, 10.0),
    fetchers: int = 4,
    license: License = "any",  # noqa: A002  the word that sites use
    exclude: list[str] = [],  # noqa: B006  never changed
    cookies: str | None = None,
    cookies_from_browser: str | None = None,
    proxy: str | None = None,
    plugins: str | None = None,
    allow_private: bool = False,
    max_height: int = 360,
    max_fetch_s: float = 300.0,
    max_clip_mb: int = 300,
) -> dict[str, object] | State:
    """Build, or bring up to date, a data set of shards.

    Args:
        source: A folder of videos, such as videos or s3://bucket/videos; or what is to be crawled, any number of:
            search:KEY, a link of a video, channel or playlist, a file of these (.txt, one a line, a bare line is a
            search; .csv/.parquet with a column `link`).
        out: Folder of the data set, such as shards/unlabeled or s3://bucket/unlabeled.
        labels: `mved` (split and class from the path), or a CSV with columns file or link, label, [split], [group].
        split: Keep the splits that the labels came with, or deal whole source groups to train, val and test 80/10/10.
            By default official if every candidate has a split, else grouped.
        modality: What a sample must hold, and does; a crawl fetches no more.
        limit: Take the first so many candidates alone.
        seed: Of the 30-s spans, the grouped split and the shuffle.
        samples_per_shard: At most so many clips in a tar; one takes about 5 MB, with frames as JPEG 2.2 MB.
        workers: Worker processes on this machine; one a core by default. A cluster with an address has its own.
        runner: Who works: `threads`, which are Prefect's and wait for worker processes of this machine that do the
            work; or a cluster of `dask` or `ray`.
        address: Of a cluster that runs, such as tcp://10.0.0.1:8786; without it, one is started here for the run.
        phase: Channel 1 of the spectrograms: `projected`, mel filters times the angle of the transform, most likely the
            paper's; or `angle`, that of mel filters times the transform, from which the trainer derives others.
        denoise: Take steady hiss and hum where they are found; docs/denoise.md shows what that does.
        frames: How frames are stored: `npy`, lossless, or `jpeg`, which makes a clip less than half as large.
        jpeg_quality: Of `jpeg`, from 1 to 95; 90 by default.
        filters: `drop` what is no music video, `score` it and keep it, or do not ask (`off`). By default a set without
            labels drops, and one with labels, whose clips people chose, is scored.
        thresholds: Other thresholds of the filters by name, such as speech 0.4; docs/filters.md lists them.
        rules: Table (CSV) of the rules of titles, descriptions, categories and lengths, in place of
            pipeline/filters/rules.csv.
        per_search: Results taken of each search.
        search_prefix: yt-dlp's key of the search: ytsearch, ytsearchdate, or a plugin's.
        clips_per_video: Clips of each video, none overlapping another.
        store: Folder of the crawl's record and of the fetched clips, which several sets may share.
        clips: Where the fetched clips lie, if not in the store's own folder: another folder, or s3://bucket/clips. A
            store keeps to the one it began with.
        keep_clips: `no` removes a fetched clip once it is prepared.
        retry: Only the candidates that ended with one of these codes, separated by commas, are tried again.
        dry_run: Search and list, say what would be fetched and how long that would take, and fetch no media.
        sleep_s: Shortest and longest pause between two candidates of one site, in seconds.
        fetchers: Sites visited at the same time, one request each.
        license: creative-commons takes no clip whose page does not say so.
        exclude: Folder, or address, of a data set with which this one must share no video.
        cookies: A cookies file (Netscape's format) for sites that want a login; it is never written.
        cookies_from_browser: A browser whose cookies are used: firefox, or chrome:PROFILE.
        proxy: http://host:port of your own proxy; one with a password goes into the variable CRAWL_PROXY.
        plugins: A folder of yt-dlp plugins, or `default` for those installed; without it none is loaded.
        allow_private: Fetch from this machine and its network too.
        max_height: Of the picture fetched, in pixels, where the site has one so small.
        max_fetch_s: Limit for one page, and for one clip, in seconds.
        max_clip_mb: Limit on what is fetched for one clip.
    """
    parameters = dict(locals())
    log = get_run_logger().info
    if _RUN_AS_COMMAND.get():  # a deployed flow's signals are its runner's to answer
        heed_signals()
    try:
        request = Request(**parameters)
        request.check()
        if request.dry_run:
            show_without_fetching(request, show=log)
            return {}
        with single_writer(request.out_folder / ".build", doing=f"building {out}", flag="--out"):
            if finish_interrupted(request.out_folder):
                log("a purge was stopped before its end; it is finished now")
            build_all = from_crawl if request.is_crawl else from_folder
            with opened(
                request.runner, request.address, num_workers=request.num_workers, must_see=request.shared
            ) as running:
                manifest = build_all(request, running, log=log)
    except CrawlStoppedError as error:
        return Failed(name=STOPPED, message=str(error))
    except mistakes() as error:  # one line, no traceback
        return Failed(message=str(error) if isinstance(error, told()) else _lost(error, out))
    log(in_words(manifest.counts))
    create_markdown_artifact(dataset_card(manifest), key="build-shards", description=f"Data set {out}")
    return manifest.counts


def _lost(error: Exception, out: str) -> str:
    """Words for a disk that is full, or a store that is gone, in the midst of a build."""
    where = f"while {out} was built"
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        where = f"on the disk of --out {out}, or of the folder for temporary files, {tempfile.gettempdir()} (TMPDIR)"
    return f"{' '.join(str(error).split())}, {where}; nothing is lost: once that is mended, the same command goes on"


def already_built_from_folder(request: Request) -> tuple[Build, Manifest] | None:
    """Tell whether nothing is left to do."""
    build = request.build(request.folder())
    manifest = build.up_to_date(request.again)
    return None if manifest is None else (build, manifest)


def from_folder(request: Request, workers: Workers, *, log: Callable[[str], None]) -> Manifest:
    """Prepare what is pending of a folder, plan, pack and publish; say so where nothing is to be done."""
    build = request.build(request.folder())
    for line in build.begin():
        log(line)
    finish_earlier(build, workers, log=log)
    if (manifest := build.up_to_date(request.again)) is not None:
        log(nothing_to_do(build, request.again))
        return manifest
    pending = build.pending(request.again)
    known = len(build.sources) - len(pending)
    log(f"{len(build.sources)} candidates, {known} done already, {len(pending)} to prepare")
    with Progress(len(pending), log, doing="prepare", ends=("kept", "rejected", "failed")) as progress:
        batches = build.batches(pending, workers.num_workers)
        for rows in prepared(build, batches, workers):
            progress.add(row["status"] for row in rows)
    build.make_plan()
    return finish(build, workers)


def run(**parameters: Any) -> int:
    """Run the flow in this process; a mistake in the request is told before Prefect starts anything."""
    try:
        signature = inspect.signature(build_shards.fn).bind(**parameters)
        signature.apply_defaults()
        request = Request(**signature.arguments)
        request.check()
        if request.dry_run:
            show_without_fetching(request, show=print)
            return 0
        done = already_built(request) if request.is_crawl else already_built_from_folder(request)
        if done is not None:
            print(f"build-shards: {nothing_to_do(done[0], request.again)}", file=sys.stderr)
            return _summary(done[1].counts)
        check_reachable(request.runner, request.address)
    except CrawlStoppedError as error:
        return _fail(str(error), code=3)
    except mistakes() as error:
        return _fail(str(error))
    _RUN_AS_COMMAND.set(True)
    state: State[Any] = build_shards(**parameters, return_state=True)
    if not state.is_completed():
        return _fail(state.message or "the flow did not complete", code=3 if state.name == STOPPED else 2)
    return _summary(state.result())


def as_command(function: Callable[..., int]) -> Callable[..., int]:
    """Give a function the flow's parameters as flags; those that take several words are repeated for each."""

    @functools.wraps(build_shards.fn)
    def command(**parameters: Any) -> int:
        return function(**parameters)

    repeated = Annotated[list[str], tyro.conf.UseAppendAction]
    command.__annotations__ = build_shards.fn.__annotations__ | {"source": repeated, "exclude": repeated}
    command.__signature__ = inspect.signature(build_shards.fn)  # type: ignore[attr-defined]  # typeshed has no such field
    del command.__wrapped__  # whose annotations would be read in place of these
    return command


def in_words(counts: dict[str, Any]) -> str:
    """Candidates by how they ended, and why."""
    ends = ", ".join(f"{counts[name]} {name}" for name in ("kept", "rejected", "failed"))
    return ends + "".join(f"; {code} {n}" for code, n in counts["by_code"].items())


def _summary(counts: dict[str, Any]) -> int:
    """Print the counts on one line; the exit code tells whether anything is kept."""
    print(in_words(counts))
    if not counts["kept"]:
        _fail("nothing was kept; index.parquet says why for each candidate")
    return 0 if counts["kept"] else 1


def _fail(message: str, *, code: int = 2) -> int:
    print(f"build-shards: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    leave(tyro.cli(as_command(run), prog="python -m flows.build_shards", description=__doc__))
