"""The crawl's share of the flow: list, queue, fetch and prepare; or say what that would take."""

from __future__ import annotations

import datetime
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flows.progress import Progress
from flows.request import Request
from flows.runners import Workers
from flows.tasks import finish, finish_earlier, nothing_to_do, prepared
from pipeline.build import MAX_BATCH, Build
from pipeline.errors import UserError
from pipeline.fetch import Crawl, host_of
from pipeline.manners import CrawlStoppedError
from pipeline.queries import by_identity
from pipeline.schema import FAILURE_CODES, Manifest
from pipeline.sources import Source
from pipeline.storage import free_bytes
from pipeline.store import Store, open_store
from pipeline.text import clean_text

Log = Callable[[str], None]

FETCH_S = 4.5  # for page and section of one clip, until the store has figures of its own
CLIP_BYTES = 2_500_000  # of 32 s at 360p, likewise
SAMPLE_BYTES = {"npy": 5_000_000, "jpeg": 2_200_000}  # in a part, and then in a shard


def from_crawl(request: Request, workers: Workers, *, log: Log) -> Manifest:
    """List, queue, fetch and prepare, plan, pack and publish.

    Raises
    ------
    CrawlStoppedError
        If a site asked to stop; what was fetched until then is prepared first.
    UserError
        If nothing is found, the request contradicts an earlier one, or a retry leaves others queued.
    """
    with open_store(request.store_folder, clips=request.clips_folder) as store:
        crawl = Crawl(store, request.crawl())
        build = list_candidates(request, crawl, log=log)
        for line in build.begin():
            log(line)
        request.check_prepared(build)
        crawl.queue(build.sources)
        finish_earlier(build, workers, log=log)
        if (manifest := build.up_to_date(request.again)) is None:
            fetch_and_prepare(request, crawl, build, workers, log=log)
            build.make_plan()
            manifest = finish(build, workers)
        else:
            log(nothing_to_do(build, request.again))
        crawl.settle(build.known_rows())
        return manifest


def already_built(request: Request) -> tuple[Build, Manifest] | None:
    """Tell from the store and the set alone that nothing is left to do."""
    if not (request.store_folder / "crawl.sqlite").exists():
        return None
    with open_store(request.store_folder, clips=request.clips_folder) as store:
        if not all(store.is_listed(query.request) for query in request.queries()):
            return None
        crawl = Crawl(store, request.crawl())
        build = list_candidates(request, crawl, log=lambda _: None)
        manifest = build.up_to_date(request.again)
        if manifest is None:
            return None
        crawl.queue(build.sources)
        crawl.settle(build.known_rows())  # a run may have been killed before it could
        return build, manifest


def list_candidates(request: Request, crawl: Crawl, *, log: Log) -> Build:
    """Ask the sites what there is, as far as the store does not know."""
    videos = crawl.list_videos(
        request.queries(), again=request.again, progress=lambda query: log(f"listed {clean_text(query)}")
    )
    rows = request.label_rows()
    labels = None if rows is None else by_identity(rows, crawl.identities([row["link"] or "" for row in rows]))
    build = request.build(request.candidates(videos, labels))
    if not build.sources:
        raise UserError("--source: the searches and lists gave no video; try other words, or the same later")
    return build


def fetch_and_prepare(request: Request, crawl: Crawl, build: Build, workers: Workers, *, log: Log) -> None:
    """Fetch what is pending, and prepare it meanwhile."""
    pending = build.pending(request.again)
    to_fetch = {source.source_id for source in crawl.to_fetch(pending, again=request.again)}
    done = len(build.sources) - len(pending)
    log(f"{len(build.sources)} candidates, {done} done already, {len(to_fetch)} to fetch")
    if request.keep_clips == "no":
        crawl.drop_files(build.known_rows())  # of a run that was killed before it could
    taken_down = build.taken_down()
    stopped: list[CrawlStoppedError] = []
    with Progress(len(to_fetch), log, doing="fetch", ends=("fetched", "rejected", "failed")) as progress:

        def batches() -> Iterator[list[Source]]:
            batch = []
            try:
                for source in crawl.fetch(pending, again=request.again):
                    if source.source_id in to_fetch:
                        progress.add([_end_of(source)])
                    batch.append(taken_down.unless(source))  # its page may tell what its link did not
                    if len(batch) == MAX_BATCH:
                        yield batch
                        batch = []
            except CrawlStoppedError as error:
                stopped.append(error)
            if batch:
                yield batch

        for rows in prepared(build, batches(), workers):
            crawl.settle(rows)
            if request.keep_clips == "no":
                crawl.drop_files(rows)
    if stopped:
        raise stopped[0]
    if request.again and (num := build.num_untouched()):
        raise UserError(
            f"--retry: {len(pending)} were tried again; {num} others are still queued, run it without --retry"
        )


def _end_of(source: Source) -> str:
    if source.problem is None:
        return "fetched"
    return "failed" if source.problem[0] in FAILURE_CODES else "rejected"


def show_without_fetching(request: Request, *, show: Log) -> None:
    """Say what would be fetched, how long that would take at the configured rate, and what room it needs.

    Raises
    ------
    UserError, CrawlStoppedError
        As ``from_crawl`` does.
    """
    if not request.is_crawl:
        build = request.build(request.folder())
        show(f"{len(build.pending(request.again))} of {len(build.sources)} files would be prepared; nothing is fetched")
        return
    with open_store(request.store_folder, clips=request.clips_folder) as store:
        crawl = Crawl(store, request.crawl())
        build = list_candidates(request, crawl, log=show)
        crawl.queue(build.sources)
        pending = build.pending(request.again)
        to_fetch = crawl.to_fetch(pending, again=request.again)
        for source in to_fetch:
            show(f"{source.link}\t{source.title}")
        refused = crawl.refused(pending)
        for source, why in refused:
            show(f"{source.link}\t{source.title}\tnot fetched: {why}")
        done = len(build.sources) - len(pending)
        by_words = f", {len(refused)} rejected by their words" if refused else ""
        show(f"{len(build.sources)} candidates, {done} done already, {len(to_fetch)} to fetch{by_words}")
        for line in estimate(to_fetch, store, request):
            show(line)
        for line in room(store, request):
            show(line)


def estimate(to_fetch: Sequence[Source], store: Store, request: Request) -> list[str]:
    """Lines that say how long a crawl would take and what room it needs, and from what figures."""
    sleep_s, fetchers = request.sleep_s, request.fetchers
    known_s, known_bytes = store.seconds_a_fetch(), store.bytes_a_clip()
    fetch_s, clip_bytes = known_s or FETCH_S, known_bytes or CLIP_BYTES
    each_s = sum(sleep_s) / 2 + fetch_s
    per_site = Counter(host_of(source.link) for source in to_fetch)
    # A site is asked one thing at a time, and so many sites at once.
    total_s = max(max(per_site.values(), default=0), len(to_fetch) / fetchers) * each_s
    num_pages = len({source.video_id for source in to_fetch})
    origin = "median of this store" if known_s else "assumed: the store has no fetch yet"
    kept_bytes = clip_bytes if request.keep_clips == "yes" else 0
    sample_bytes = SAMPLE_BYTES[request.frames]
    packing = min(len(to_fetch), request.num_workers * request.samples_per_shard)  # their parts go when shards stand
    room = len(to_fetch) * (kept_bytes + sample_bytes) + packing * sample_bytes
    return [
        f"{num_pages} pages to read and {len(to_fetch)} sections to fetch, "
        f"from {len(per_site)} sites, at most {fetchers} at a time",
        f"about {datetime.timedelta(seconds=round(total_s))} at {each_s:.1f} s a clip: {sum(sleep_s) / 2:g} s of pause "
        f"and {fetch_s:.1f} s for page and section ({origin})",
        f"about {room / 1e9:.2f} GB at most if all are kept: {kept_bytes / 1e6:.1f} MB a clip in the store, "
        f"{sample_bytes / 1e6:g} MB a sample, and as much again while a worker packs it",
    ]


def room(store: Store, request: Request) -> Iterator[str]:
    """Lines that say what is free on this machine's disks; what an object store takes, no disk needs to hold."""
    if isinstance(store.clips_folder, Path) and isinstance(request.out_folder, Path):
        free = min(map(free_bytes, (store.clips_folder, request.out_folder)))
        yield f"free on disk: {free / 1e9:.1f} GB"
        return
    clip_bytes = round(store.bytes_a_clip() or CLIP_BYTES)
    shard_bytes = request.samples_per_shard * SAMPLE_BYTES[request.frames]
    at_once = []  # bytes of what a worker has in temporary files
    for name, folder, largest in (("clips", store.clips_folder, clip_bytes), ("set", request.out_folder, shard_bytes)):
        if isinstance(folder, Path):
            yield f"of that, the {name}: on disk, where {free_bytes(folder) / 1e9:.1f} GB are free"
        else:
            yield f"of that, the {name}: in {folder}, of which this machine does not know what is free"
            at_once.append(largest)
    needed, free = request.num_workers * max(at_once), free_bytes(Path(tempfile.gettempdir()))
    yield f"temporary files (TMPDIR) take up to {needed / 1e9:.2f} GB on disk, where {free / 1e9:.1f} GB are free"
