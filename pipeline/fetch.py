"""The crawl of one request: list, queue, fetch. Every candidate has a state in the store, whatever ends the crawl.

videos = crawl.list_videos(queries)     asked of the sites once; the store knows the answers afterwards
crawl.queue(sources)                    a state for every candidate, before any media is fetched
for source in crawl.fetch(pending)      with its file, or with the reason why there is none
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from queue import Empty, Queue, SimpleQueue
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pipeline import media
from pipeline.clips import ClipSpan, plan_numbered_clip
from pipeline.crawl import MAX_LISTING_S, Access, in_session
from pipeline.errors import (
    DurationError,
    LoginWantedError,
    RejectedError,
    SiteError,
    UnreachableError,
    UserError,
)
from pipeline.filters import text
from pipeline.filters.judge import OFF, Filters
from pipeline.manners import CrawlStoppedError, Host, HungUpError
from pipeline.queries import Query, is_http, with_page
from pipeline.schema import FAILURE_CODES, Modality
from pipeline.sources import Source
from pipeline.store import ClipKey, State, Store, StoredClip, Video
from pipeline.workers import WorkerDiedError, WorkerPool, WorkerTimeoutError

Answer = TypeVar("Answer")
License = Literal["any", "creative-commons"]

OF_THE_REQUEST = frozenset({"licence", "text", "excluded", "no-label"})
"""Codes that another request may not give: they are found anew, and never read back from the store."""
LINKS_AT_ONCE = 500  # identified in one call of a worker
SUSPECTED = "asked for a login, or could not be reached, when the crawl was stopped"
_SITES = {"youtu.be": "youtube.com", "youtube-nocookie.com": "youtube.com"}
MAX_TRIES = 3  # of a candidate whose site broke off
GRACE_S = 30.0  # for a worker to notice by itself that its time is up


@dataclass(frozen=True, kw_only=True)
class CrawlSettings:
    """What is wanted of a crawl, and how gently."""

    access: Access
    seed: int
    modality: Modality
    license: License = "any"
    filters: Filters = OFF
    """Whose rules of titles, descriptions, categories and lengths keep a video from being fetched, where they drop."""
    sleep_s: tuple[float, float] = (5.0, 10.0)
    """Shortest and longest pause between two candidates of one site."""
    fetchers: int = 4
    """Sites visited at the same time; each has one request under way at most."""


class Crawl:
    """The crawl of one request, over a store."""

    def __init__(self, store: Store, settings: CrawlSettings) -> None:
        self._store = store
        self._settings = settings
        self._hang_up = threading.Event()
        self._hosts: dict[str, Host] = {}
        self._keys: dict[str, ClipKey] = {}
        self._pages: dict[str, RejectedError] = {}  # that were refused in this run, by video

    # --- list ----------------------------------------------------------------------------------------------------

    def list_videos(
        self,
        queries: Sequence[Query],
        *,
        again: Collection[str] = (),
        progress: Callable[[str], None] = lambda _: None,
    ) -> list[Video]:
        """List the videos of all queries in order, each once; what the store knows is not asked again.

        A list that cannot be read is a video with a problem; one for whose problem is asked ``again``, and one that a
        site's failure kept back, are asked for anew.

        Raises
        ------
        CrawlStoppedError
            If a site asks to stop, or a search fails; what was listed until then is kept.
        """
        if again:
            self._store.forget_unreadable(again)
        wanted = [query for query in queries if not self._store.is_listed(query.request)]
        failed: dict[str, Video] = {}
        if wanted:
            with WorkerPool(1) as pool:
                self._list_links(pool, [query.request for query in wanted if not query.is_search])
                for query in wanted:
                    if not self._store.is_listed(query.request):
                        failed |= self._list_entries(pool, query)
                        progress(query.request)
        videos = self._store.videos(query.request for query in queries)
        return videos + [video for video in failed.values() if video.video_id not in {v.video_id for v in videos}]

    def identities(self, links: Sequence[str]) -> list[str]:
        """Identities of the videos that links lead to, as far as their words tell."""
        with WorkerPool(1) as pool:
            return [video_id for video_id, _ in self._identified(pool, links)]

    def _identified(self, pool: WorkerPool, links: Sequence[str]) -> Iterator[tuple[str, bool]]:
        for begin in range(0, len(links), LINKS_AT_ONCE):
            some = links[begin : begin + LINKS_AT_ONCE]
            yield from pool.run(in_session, self._settings.access, "identify", some)

    def _list_links(self, pool: WorkerPool, links: Sequence[str]) -> None:
        """List the links that name one video, which their words tell; and those that nobody can fetch."""
        single = {link: [Video(video_id=link, link=link)] for link in links if not is_http(link)}
        usable = [link for link in links if is_http(link)]
        for link, (video_id, may_be_list) in zip(usable, self._identified(pool, usable), strict=True):
            if not may_be_list:
                single[link] = [Video(video_id=video_id, link=link)]
        self._store.add_listings(single)

    def _list_entries(self, pool: WorkerPool, query: Query) -> dict[str, Video]:
        """List one search or list; return a list that failed, which the next run asks for again."""
        request, access, limit_s = query.request, self._settings.access, MAX_LISTING_S + GRACE_S

        def ask() -> list[Video]:
            return pool.run(in_session, access, "entries", request, timeout_s=limit_s)

        try:
            videos = self._patiently(request, lambda: self._host(request).ask(ask))
            if videos:  # nothing found today may be something tomorrow
                self._store.add_listings({request: videos})
            return {}
        except RejectedError as error:
            problem = (error.code, error.detail)
        except LoginWantedError as error:
            problem = ("private", str(error))
        except UnreachableError as error:
            problem = ("network", str(error))
        except WorkerDiedError as error:
            problem = ("internal", str(error))
        if query.is_search and problem[0] == "unsupported-link":
            raise UserError(f"--search-prefix: yt-dlp knows no search of the kind {request.split(':')[0]}")
        if query.is_search:
            raise CrawlStoppedError(f"{request} could not be searched ({problem[1]}); run the same command later")
        # A list that cannot be read is a candidate that cannot be fetched: it is told, and counted.
        video = Video(video_id=request, link=request, request=request, problem=problem)
        if problem[0] in FAILURE_CODES:
            return {request: video}
        self._store.add_listings({request: [video]})
        return {}

    def _patiently(self, link: str, ask: Callable[[], Answer]) -> Answer:
        """Ask once more, and once again, where the site breaks off."""
        for _ in range(MAX_TRIES - 1):
            try:
                return ask()
            except RejectedError as error:
                if error.code != "network":
                    raise
                self._host(link).pause()
        return ask()

    def _host(self, link: str) -> Host:
        name = host_of(link)
        if name not in self._hosts:
            self._hosts[name] = Host(name, sleep_s=self._settings.sleep_s, hang_up=self._hang_up)
        return self._hosts[name]

    # --- queue ---------------------------------------------------------------------------------------------------

    def queue(self, sources: Iterable[Source]) -> None:
        """Give every candidate a state."""
        settings = self._settings
        self._keys = {
            source.source_id: ClipKey(
                video_id=source.video_id, number=source.number, seed=settings.seed, modality=settings.modality
            )
            for source in sources
        }
        self._store.enqueue(self._keys.values())

    def settle(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record what a data set made of the candidates: index rows, of which others than these are left out."""
        self._store.settle(
            (self._keys[row["source_id"]], row["status"], row["code"], row["detail"])
            for row in rows
            if row["source_id"] in self._keys
        )

    def drop_files(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Remove the fetched clips that these index rows were made of."""
        self._store.drop_files(row["sha256"] for row in rows if row["source_id"] in self._keys and row["sha256"])

    # --- fetch ---------------------------------------------------------------------------------------------------

    def to_fetch(self, sources: Iterable[Source], *, again: Collection[str] = ()) -> list[Source]:
        """Candidates for which a site must be asked; for the others the store holds a file or a verdict."""
        clips = self._store.clips()
        return [source for source in sources if self._known(source, clips[self._keys[source.source_id]], again) is None]

    def refused(self, sources: Iterable[Source]) -> list[tuple[Source, str]]:
        """Candidates that no site is asked for since the rules hit what is known of them, and what was found."""
        found = ((source, self._unwanted_by_its_words(source)) for source in sources if source.problem is None)
        return [(source, problem[1]) for source, problem in found if problem is not None]

    def fetch(self, sources: Sequence[Source], *, again: Collection[str] = ()) -> Iterator[Source]:
        """Bring the candidates' clips into the store, as they come.

        Parameters
        ----------
        sources
            Queued candidates.
        again
            Codes for which a stored verdict does not count: the site is asked again.

        Yields
        ------
        Source
            With the file of its section and its span, or with its problem.

        Raises
        ------
        CrawlStoppedError
            At the end, if a site asked to stop. Candidates that were not yielded stay queued.
        OSError
            If the disk is full.
        """
        clips = self._store.clips()
        unknown = []
        for source in sources:
            known = self._known(source, clips[self._keys[source.source_id]], again)
            if known is None:
                unknown.append(source)
            else:
                self._note(known)
                yield known
        if unknown:
            # What failed before goes last: a run that is stopped again should have met new candidates first.
            unknown.sort(key=lambda source: clips[self._keys[source.source_id]].detail is not None)
            clips.clear()  # not held for the days that it may take
            yield from self._fetch_from_sites(unknown)

    def _fetch_from_sites(self, sources: Sequence[Source]) -> Iterator[Source]:
        by_host: dict[str, list[Source]] = {}
        for source in sources:
            by_host.setdefault(host_of(source.link), []).append(source)
        waiting = SimpleQueue[str]()
        for name in by_host:
            self._host(by_host[name][0].link)
            waiting.put(name)
        arrived = Queue[Source | Exception | None]()
        threads = [
            threading.Thread(target=self._visit_hosts, args=(waiting, by_host, arrived), daemon=True)
            for _ in range(min(self._settings.fetchers, len(by_host)))
        ]
        for thread in threads:
            thread.start()
        trouble: list[Exception] = []
        try:
            under_way = len(threads)
            while under_way:
                event = arrived.get()
                if event is None:
                    under_way -= 1
                elif isinstance(event, Source):
                    yield event
                else:
                    self._hang_up.set()
                    trouble.append(event)
        finally:
            self._hang_up.set()
            for thread in threads:
                thread.join()
        if trouble:
            raise trouble[0]

    def _visit_hosts(
        self,
        waiting: SimpleQueue[str],
        by_host: Mapping[str, list[Source]],
        arrived: Queue[Source | Exception | None],
    ) -> None:
        """One lane: a worker process with a session of its own, which visits host after host."""
        try:
            with WorkerPool(1) as pool:
                while not self._hang_up.is_set():
                    try:
                        name = waiting.get_nowait()
                    except Empty:
                        break
                    visit = self._hosts[name].visit(
                        by_host[name],
                        lambda source: self._bring(pool, source),
                        self._give_up,
                        counts_as=self._counts_as,
                        others_answered=lambda: any(host.has_answered for host in self._hosts.values()),
                    )
                    for source in visit:
                        arrived.put(source)
        except HungUpError:
            pass
        except CrawlStoppedError as error:
            for source in error.suspects:
                self._store.set_outcome(self._keys[source.source_id], "queued", detail=SUSPECTED)
            arrived.put(error)
        except Exception as error:
            arrived.put(error)
        finally:
            arrived.put(None)

    def _bring(self, pool: WorkerPool, source: Source) -> Source:
        """Read the page, settle the span, fetch and verify the section; the store knows each step when it is done."""
        try:
            return self._patiently(source.link, lambda: self._fetch_clip(pool, source))
        except RejectedError as error:
            problem = (error.code, error.detail)
        except WorkerTimeoutError as error:
            problem = ("timeout", str(error))
        except WorkerDiedError as error:
            problem = ("internal", str(error))
        except (SiteError, HungUpError, UserError, OSError):
            raise
        except Exception as error:  # of our own: it costs this candidate, and no other
            problem = ("internal", f"{type(error).__name__}: {error}")
        return self._note(self._with_problem(source, problem))

    def _with_problem(self, source: Source, problem: tuple[str, str]) -> Source:
        """Give a candidate its problem, and what is known of its video."""
        return replace(with_page(source, self._store.video(source.video_id)), problem=problem, link=source.link)

    def _counts_as(self, source: Source) -> str | None:
        clip = self._store.clip(self._keys[source.source_id])
        return None if clip.detail == SUSPECTED else source.video_id

    def _fetch_clip(self, pool: WorkerPool, source: Source) -> Source:
        began_s = time.monotonic()
        access, modality, key = self._settings.access, self._settings.modality, self._keys[source.source_id]

        def call(method: str, *words: Any) -> Any:
            limit_s = 3 * access.max_fetch_s + GRACE_S  # page, head of the media, and the media have a limit each
            return pool.run(in_session, access, method, *words, timeout_s=limit_s)

        video = self._store.video(source.video_id)
        if not video.resolved:
            if (known := self._pages.get(source.video_id)) is not None:
                raise known
            try:
                page = call("resolve", source.link, modality)
            except RejectedError as error:
                if error.code not in FAILURE_CODES:
                    self._pages[source.video_id] = error  # its other clips need not ask
                raise
            video = replace(page, video_id=video.video_id, request="", title=page.title or video.title)
            self._store.set_resolved(video)
        source = with_page(source, video)
        if (problem := self._unwanted(source)) is not None:
            return self._note(replace(source, problem=problem))
        with tempfile.TemporaryDirectory(dir=self._store.fetching, ignore_cleanup_errors=True) as folder:
            try:
                file = call("fetch", source.link, self._span(key, video), video.duration_s, modality, Path(folder))
            except DurationError as error:  # the media know better than their page
                video = replace(video, duration_s=error.duration_s)
                source = with_page(source, video)
                self._store.set_resolved(video)
                try:
                    file = call("fetch", source.link, self._span(key, video), video.duration_s, modality, Path(folder))
                except DurationError:
                    raise RejectedError("undecodable", "its media are of another length each time") from None
            fetch_s = time.monotonic() - began_s
            path = self._store.set_fetched(key, file, fetch_s=fetch_s, versions=versions())
        return replace(source, path=path, span=self._span(key, video))

    def _span(self, key: ClipKey, video: Video) -> ClipSpan:
        """Part of the video that is the clip: as stored, or drawn and stored."""
        spans = self._store.spans(key)
        if key.number in spans:
            return spans[key.number]
        assert video.duration_s is not None  # a page without one is rejected
        span = plan_numbered_clip(
            video.duration_s, seed=key.seed, video_id=key.video_id, number=key.number, known=spans
        )
        self._store.set_span(key, span)
        return span

    def _known(self, source: Source, clip: StoredClip, again: Collection[str]) -> Source | None:
        """Return the candidate as the store knows it, if no site needs to be asked."""
        if source.problem is not None:
            return source
        if clip.sha256 is not None and clip.span is not None:
            if self._store.has_clip(clip.sha256):
                known = replace(source, path=self._store.clip_file(clip.sha256), span=clip.span)
                return known if (problem := self._unwanted(known)) is None else replace(known, problem=problem)
        elif clip.code is not None and clip.code not in OF_THE_REQUEST | FAILURE_CODES and clip.code not in again:
            return replace(source, problem=(clip.code, clip.detail or ""))
        if (problem := self._unwanted_by_its_words(source)) is not None:  # as far as listed; its page may tell more
            return replace(source, problem=problem)
        return None

    def _unwanted_by_its_words(self, source: Source) -> tuple[str, str] | None:
        filters = self._settings.filters
        return text.problem(filters.rules, source) if filters.mode == "drop" else None

    def _unwanted(self, source: Source) -> tuple[str, str] | None:
        """Why this request does not want a video whose page was read."""
        if self._settings.license == "creative-commons" and not is_creative_commons(source.licence):
            return ("licence", f"not Creative Commons: {source.licence or 'the page names no licence'}")
        return self._unwanted_by_its_words(source)

    def _give_up(self, source: Source, error: Exception) -> Source:
        code = "network" if isinstance(error, UnreachableError) else "private"
        return self._note(self._with_problem(source, (code, str(error))))

    def _note(self, source: Source) -> Source:
        """Record a problem in the store."""
        if source.problem is not None:
            code, detail = source.problem
            state: State = "failed" if code in FAILURE_CODES else "rejected"
            self._store.set_outcome(self._keys[source.source_id], state, code=code, detail=detail)
        return source


def host_of(link: str) -> str:
    """Name of the site that a link, or a search's prefix, leads to: www., m. and youtu.be are no sites of their own."""
    try:
        host = (urlsplit(link).hostname or "").rstrip(".")
    except ValueError:
        return link
    if not host:
        return "youtube.com" if link.startswith("ytsearch") else link.split(":", 1)[0]
    if host.replace(".", "").isdigit() or ":" in host:
        return host
    site = ".".join(host.split(".")[-2:])  # more than one site under co.uk counts as one: gentler than it must be
    return _SITES.get(site, site)


def is_creative_commons(licence: str | None) -> bool:
    """Tell whether a page's words name a Creative Commons licence, CC0 included."""
    words = (licence or "").lower()
    return "creative commons" in words or "creativecommons.org" in words or words.split("-")[0].strip() in ("cc", "cc0")


def versions() -> dict[str, str]:
    """Tools that fetched a clip."""
    return {"yt-dlp": metadata.version("yt-dlp"), "ffmpeg": media.ffmpeg_version()}
