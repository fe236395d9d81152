"""What the flow's parameters ask for, checked as far as reading alone can, before anything is started or fetched."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import LoadError, MozillaCookieJar
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flows import runners
from pipeline.build import Build
from pipeline.crawl import PROXY_VARIABLE, Access
from pipeline.dataset import WORK
from pipeline.errors import UserError
from pipeline.exclude import Excluded
from pipeline.fetch import CrawlSettings, License, is_creative_commons
from pipeline.filters.judge import Filters, Mode
from pipeline.filters.text import DEFAULT_RULES, read_rules
from pipeline.filters.thresholds import Thresholds
from pipeline.locations import Folder, absolute, folder_of, is_remote
from pipeline.plan import SplitRule
from pipeline.prepare import Recipe
from pipeline.queries import Query, candidates_of, is_crawl, link_labels, read_queries
from pipeline.schema import CODES, Frames, Modality
from pipeline.sheet import MAX_QUALITY, QUALITY
from pipeline.sources import Row, Source, list_sources
from pipeline.spectrogram import Phase
from pipeline.store import Video, standing_clips
from pipeline.takedown import PURGED

YesNo = Literal["yes", "no"]

DAY_S = 86_400.0  # no pause and no fetch takes longer
BROWSERS = ("brave", "chrome", "chromium", "edge", "firefox", "opera", "safari", "vivaldi", "whale")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The flow's parameters; ``flows/build_shards.py`` says what each one is."""

    source: list[str] | str
    out: str
    labels: str | None
    split: SplitRule | None
    modality: Modality
    limit: int | None
    seed: int
    samples_per_shard: int
    workers: int | None
    runner: runners.Runner
    address: str | None
    phase: Phase
    denoise: bool
    frames: Frames
    jpeg_quality: int | None
    filters: Mode | None
    thresholds: dict[str, float]
    rules: str | None
    per_search: int
    search_prefix: str
    clips_per_video: int
    store: str
    clips: str | None
    keep_clips: YesNo
    retry: str | None
    dry_run: bool
    sleep_s: tuple[float, float]
    fetchers: int
    license: License
    exclude: list[str]
    cookies: str | None
    cookies_from_browser: str | None
    proxy: str | None
    plugins: str | None
    allow_private: bool
    max_height: int
    max_fetch_s: float
    max_clip_mb: int

    def __post_init__(self) -> None:
        """Check the parameters one by one.

        Raises
        ------
        UserError
            A line that names the parameter and the mend.
        """
        counts = {
            "--limit": self.limit,
            "--samples-per-shard": self.samples_per_shard,
            "--workers": self.workers,
            "--per-search": self.per_search,
            "--clips-per-video": self.clips_per_video,
            "--fetchers": self.fetchers,
            "--max-height": self.max_height,
            "--max-clip-mb": self.max_clip_mb,
        }
        for flag, number in counts.items():
            if number is not None and number < 1:
                raise UserError(f"{flag} {number}: give a whole number from 1 up")
        if not self.words or not all(word.strip() for word in self.words):
            raise UserError("--source is missing: a folder, search:KEY, a link, or a file of searches and links")
        for flag, folder in (("--out", self.out), ("--store", self.store), ("--clips", self.clips)):
            if folder is not None and not folder.strip():
                raise UserError(f"{flag} is missing: name a folder")
        if is_remote(self.store):
            raise UserError(
                f"--store {self.store}: the crawl's record is a local file; its clips may lie there: --clips"
            )
        if self.labels is not None and is_remote(self.labels):
            raise UserError(f"--labels {self.labels}: the table is a local file; copy it here")
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed}: give a whole number of 64 bits")
        shortest_s, longest_s = self.sleep_s
        if not 0 <= shortest_s <= longest_s <= DAY_S:
            raise UserError(
                f"--sleep-s {shortest_s:g} {longest_s:g}: give the shortest pause, then the longest, from 0 up to a day"
            )
        if not 0 < self.max_fetch_s <= DAY_S:
            raise UserError(f"--max-fetch-s {self.max_fetch_s:g}: give seconds above 0, up to a day")
        if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9]*[A-Za-z])?", self.search_prefix):  # the number of results follows
            raise UserError(f"--search-prefix {self.search_prefix}: give an extractor's search key, such as ytsearch")
        if self.retry is not None and not self.again:
            raise UserError("--retry names no code; give some, separated by commas")
        if unknown := sorted(self.again - CODES.keys()):
            raise UserError(f"--retry {', '.join(unknown)}: no such code; known are {', '.join(CODES)}")
        if self.jpeg_quality is not None and self.frames != "jpeg":
            raise UserError("--jpeg-quality is for --frames jpeg; give both, or leave it out")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= MAX_QUALITY:
            raise UserError(f"--jpeg-quality {self.jpeg_quality}: give 1 to {MAX_QUALITY}")
        if self.frames == "jpeg" and self.modality == "audio":
            raise UserError("--frames jpeg: a set of --modality audio has no frames; leave it out")
        if self.phase != "projected" and self.modality == "video":
            raise UserError(f"--phase {self.phase}: a set of --modality video has no sound; leave it out")
        if PURGED in self.again:
            raise UserError("--retry purged: what was taken down is not brought back")
        runners.check(self.runner, self.address)
        self._check_access()

    def _check_access(self) -> None:
        if self.cookies is not None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a traceback for every line that is no cookie
                    MozillaCookieJar(self.cookies).load(ignore_discard=True, ignore_expires=True)
            except LoadError as error:
                raise UserError(f"--cookies {self.cookies} is no cookies file in Netscape's format") from error
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise UserError(f"--cookies {self.cookies} cannot be read: {reason}") from error
        if self.cookies_from_browser is not None and self.cookies_from_browser.split(":")[0] not in BROWSERS:
            raise UserError(f"--cookies-from-browser {self.cookies_from_browser}: known are {', '.join(BROWSERS)}")
        if self.proxy is not None and "@" in self.proxy:
            raise UserError(f"--proxy with a password would be written down: put it into the variable {PROXY_VARIABLE}")
        for name, proxy in (("--proxy", self.proxy), (PROXY_VARIABLE, os.environ.get(PROXY_VARIABLE))):
            if proxy and not _is_http_proxy(proxy):
                raise UserError(f"{name}: only proxies of the form http://host:port are used")
        if self.plugins not in (None, "default") and not (self.plugins and Path(self.plugins).is_dir()):
            raise UserError(f"--plugins {self.plugins}: no such folder; `default` loads the yt-dlp plugins installed")

    @property
    def words(self) -> list[str]:
        """What is to be read or crawled."""
        return [self.source] if isinstance(self.source, str) else list(self.source)

    @property
    def again(self) -> frozenset[str]:
        """Codes to retry."""
        return frozenset(code.strip() for code in (self.retry or "").split(",") if code.strip())

    @property
    def is_crawl(self) -> bool:
        """Whether something is to be fetched; a folder is only read."""
        return is_crawl(self.words)

    @property
    def num_workers(self) -> int:
        """Processes that prepare clips."""
        return self.workers or os.cpu_count() or 1

    @property
    def recipe(self) -> Recipe:
        """Settings that shape the stored arrays."""
        quality = (self.jpeg_quality or QUALITY) if self.frames == "jpeg" else None
        return Recipe(
            modality=self.modality,
            phase=self.phase,
            denoise=self.denoise,
            frames=self.frames,
            jpeg_quality=quality,
        )

    @property
    def shared(self) -> list[Folder]:
        """What the machines of a cluster must all see: the build's own folder, and where the clips lie.

        A store remembers where its first run put them. One on a disk has them in its own folder, by default. An object
        store has no empty folder, so that of fetched clips may not be there yet.
        """
        store = self.store_folder
        clips = (standing_clips(store) or self.clips_folder or store) if self.is_crawl else self.source_folder
        seen = [clips] if isinstance(clips, Path) or not self.is_crawl else []
        return [absolute(self.out_folder) / WORK / "request.json", *map(absolute, seen)]

    def queries(self) -> list[Query]:
        """What is to be looked up.

        Raises
        ------
        UserError
            If a word of ``--source`` cannot be read.
        """
        return read_queries(self.words, search_prefix=self.search_prefix, per_search=self.per_search)

    def label_rows(self) -> list[Row] | None:
        """Rows of the table of labels of links; none for an unlabelled set.

        Raises
        ------
        UserError
            If it cannot be used.
        """
        return link_labels(self.labels)

    def candidates(self, videos: Sequence[Video], labels: Mapping[str, Row] | None) -> list[Source]:
        """Candidates of the videos that the queries listed, with labels by their identities."""
        return candidates_of(videos, labels, clips_per_video=self.clips_per_video)

    def folder(self) -> list[Source]:
        """Candidates of a folder.

        Raises
        ------
        UserError
            If there is nothing to read.
        """
        return list_sources(self.source_folder, labels=self.labels, clips_per_video=self.clips_per_video)

    @cached_property
    def source_folder(self) -> Folder:
        """Folder of videos, where no crawl is asked for."""
        return folder_of(self.words[0], flag="--source")

    @cached_property
    def out_folder(self) -> Folder:
        """Folder of the data set."""
        return folder_of(self.out, flag="--out")

    @cached_property
    def store_folder(self) -> Path:
        """Folder of the crawl's record."""
        folder = folder_of(self.store, flag="--store")
        assert isinstance(folder, Path)  # an object store was refused
        return folder

    @cached_property
    def clips_folder(self) -> Folder | None:
        """Where fetched clips lie, if it was said."""
        return None if self.clips is None else folder_of(self.clips, flag="--clips")

    def build(self, sources: Sequence[Source]) -> Build:
        """The build of these candidates, checked against what stands in ``--out``.

        Raises
        ------
        UserError
            If the request contradicts itself, or an earlier one.
        """
        build = Build.request(
            out=self.out_folder,
            sources=sources,
            recipe=self.recipe,
            seed=self.seed,
            labelled=self.labels,
            split_rule=self.split,
            samples_per_shard=self.samples_per_shard,
            limit=self.limit,
            origin=None if self.is_crawl else str(self.source_folder.resolve()),
            filters=self.filter_settings,
            excluded=self.excluded,
            superseded=self._lists() - {source.source_id for source in sources},
        )
        build.check_against_earlier()
        if self.license == "creative-commons":
            self._refuse_others(build.committed_rows(["key", "licence"]))
        return build

    def check_prepared(self, build: Build) -> None:
        """Refuse what an earlier run prepared for the set, and this one does not want.

        Raises
        ------
        UserError
            If it has another licence than this run asks for.
        """
        if self.license == "creative-commons":
            self._refuse_others(build.prepared_rows(["key", "licence"]))

    def _refuse_others(self, rows: Iterable[Row]) -> None:
        if others := [row for row in rows if not is_creative_commons(row["licence"])]:
            told = f"{self.out} holds {len(others)} clips of other licences already, {others[0]['key']} for one"
            raise UserError(f"--license: {told}; build another --out")

    def _lists(self) -> frozenset[str]:
        if not self.is_crawl:
            return frozenset()
        return frozenset(query.request for query in self.queries() if not query.is_search)

    @cached_property
    def excluded(self) -> Excluded:
        """What the sets named by ``--exclude`` hold.

        Raises
        ------
        UserError
            If one is no data set.
        """
        return Excluded.of([folder_of(address, flag="--exclude") for address in self.exclude])

    @cached_property
    def filter_settings(self) -> Filters:
        """What the filters ask, and whether they drop; a labelled set, whose clips people chose, is scored alone.

        Raises
        ------
        UserError
            If a threshold is unknown, or the table of rules cannot be used.
        """
        return Filters(
            mode=self.filters or ("drop" if self.labels is None else "score"),
            thresholds=Thresholds.of(self.thresholds),
            rules=read_rules(Path(self.rules) if self.rules else DEFAULT_RULES),
        )

    def check(self) -> None:
        """Read what can be read before anything starts.

        Raises
        ------
        UserError
            If a list, table, folder or excluded set cannot be used.
        """
        if self.is_crawl:
            self.queries()
            self.label_rows()
        else:
            _ = self.source_folder
        _ = self.out_folder, self.store_folder, self.clips_folder, self.excluded, self.filter_settings

    def crawl(self) -> CrawlSettings:
        """How the crawl goes out, and how gently."""
        return CrawlSettings(
            access=Access(
                cookies=self.cookies,
                cookies_from_browser=self.cookies_from_browser,
                proxy=os.environ.get(PROXY_VARIABLE) or self.proxy,
                allow_private=self.allow_private,
                plugins=self.plugins,
                max_height_px=self.max_height,
                max_fetch_s=self.max_fetch_s,
                max_clip_bytes=self.max_clip_mb * 1_000_000,
                request_pause_s=min(1.0, self.sleep_s[0]),
            ),
            seed=self.seed,
            modality=self.modality,
            license=self.license,
            filters=self.filter_settings,
            sleep_s=self.sleep_s,
            fetchers=self.fetchers,
        )


def _is_http_proxy(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0  # the port may be no number
    except ValueError:
        return False
