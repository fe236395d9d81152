"""The only caller of yt-dlp: what a request lists, what a page says of its video, and one section of its media.

Runs in a worker process of its own (``fetch.py`` starts it), so that a page that hangs or crashes a parser can be
killed. Everything it fetches, and everything ffmpeg fetches for it, goes through one checking proxy (``proxy.py``).
ffmpeg is given addresses of that proxy alone: cookies and headers stay in this process, and on no command line.
"""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline import media
from pipeline.clips import ClipSpan
from pipeline.errors import DISK_ERRNOS, DurationError, RejectedError, UserError, raise_if_disk_full
from pipeline.proxy import Budget, CheckingProxy, Limits
from pipeline.schema import FAILURE_CODES, Modality
from pipeline.steps import open_in_steps
from pipeline.store import Video
from pipeline.text import clean_text
from pipeline.verdicts import verdict

Result = TypeVar("Result")

PROXY_VARIABLE = "CRAWL_PROXY"  # holds the user's proxy if it wants a password
MARGIN_S = 1.0  # fetched on both sides of a clip; the cut itself is made while decoding
MAX_PAGE_BYTES = 100_000_000  # for what a site sends before the media: pages, scripts, lists of formats
MAX_LISTING_BYTES = 1_000_000_000
MAX_LISTING_S = 3600.0
SOCKET_TIMEOUT_S = 30.0
MAX_MEMORY_BYTES = 3_000_000_000  # of a worker: 100 kB of a compressed page may unpack to gigabytes
MIN_FREE_BYTES = 1_000_000  # less room on a disk is none
MIN_SEEK_S = 0.1  # ffmpeg loses the beginning of HLS where it seeks before the first frame
WRONG_DURATION_S = 2.0  # by which a page's figure is beyond rounding
MAX_DESCRIPTION = 1000  # characters: what a video is stands at its beginning; links, credits and lyrics follow
MAX_CATEGORIES = 20
MAX_DEPTH = 3  # of lists within lists: a channel, its tabs, their playlists

_FORMATS: dict[Modality, str] = {
    "both": "b[height<=?{0}]/bv*[height<=?{0}]+ba/b/bv*+ba/bv*/ba",
    "audio": "ba/b[height<=?{0}]/b/bv*",
    "video": "bv[height<=?{0}]/b[height<=?{0}]/bv*/b/ba",
}
_PROTOCOLS = "[protocol~='^(https?|m3u8|m3u8_native)$']"
_CUT = ("-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1")
# The clip's packets keep the times they have in the whole, and the same section is the same bytes again.
_KEEP_TIME = ("-copyts", "-start_at_zero", "-f", "matroska")
_BIT_EXACT = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the crawl goes out. Cookies and proxy are secrets: no log, table or repr shows them."""

    cookies: str | None = field(default=None, repr=False)
    """A cookies file in Netscape's format; it is read and never written."""
    cookies_from_browser: str | None = field(default=None, repr=False)
    """A browser whose cookies are used: ``firefox``, ``chrome:Profile 1``."""
    proxy: str | None = field(default=None, repr=False)
    """The user's own proxy, ``http://user:password@host:port``."""
    allow_private: bool = False
    """Whether addresses of this machine and its network may be fetched from."""
    plugins: str | None = None
    """A folder of yt-dlp plugins, or ``default`` for those installed; none are loaded without it."""
    max_height_px: int = 360  # the networks see 128 x 128, and decoding is what costs
    """A smaller or equal picture is fetched where the site has one."""
    max_fetch_s: float = 300.0
    """For one page, and for one clip."""
    max_clip_bytes: int = 300_000_000
    request_pause_s: float = 1.0
    """Between the requests that one page or listing takes."""


class _Silent:
    """yt-dlp's words go into the candidate's detail, not over the progress bar."""

    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


class Session:
    """One yt-dlp, its cookies, and the proxy that it goes through; for one thread."""

    def __init__(self, access: Access) -> None:
        self.access = access
        # Two would lead ffmpeg and yt-dlp past the proxy; the third holds a password, which is no child's business.
        for name in ("no_proxy", "NO_PROXY", PROXY_VARIABLE):
            os.environ.pop(name, None)
        self._proxy = CheckingProxy(
            allow_private=access.allow_private, upstream=access.proxy, open_url=self._open_for_ffmpeg
        ).__enter__()
        self._yt_dlp = _import_yt_dlp(access.plugins)
        try:
            self._ydl = self._downloader()
            _ = self._ydl.cookiejar  # read now: a page is not to be blamed for it
        except (self._yt_dlp.cookies.CookieLoadError, self._yt_dlp.utils.YoutubeDLError) as error:
            told = str(error).splitlines()[0].removeprefix("ERROR: ")
            raise UserError(f"--cookies, --cookies-from-browser: {told}") from error
        self._budget: Budget | None = None  # of what is under way
        self._left_bytes = 0  # that answers may hold once they are unpacked; the proxy sees them packed
        self._section: ClipSpan | None = None
        self._headers: dict[str, str] = {}
        self._page: tuple[str, Modality, dict[str, Any]] | None = None  # the last one read

    def close(self) -> None:
        """End its proxy and its connections."""
        self._proxy.__exit__(None, None, None)
        self._ydl.close()

    # --- listings ------------------------------------------------------------------------------------------------

    def identify(self, links: Sequence[str]) -> list[tuple[str, bool]]:
        """Identity of each link's video, and whether it may be a list; nothing is fetched."""
        return [self._identify(link) for link in links]

    def _identify(self, link: str) -> tuple[str, bool]:
        for extractor in self._ydl._ies.values():
            if extractor.suitable(link):
                key, single = extractor.ie_key(), extractor.is_single_video(link)
                own = extractor.get_temp_id(link) if single else None
                # The generic extractor calls a page by its last word: other sites have that word too.
                return (_video_id(key, own) or link), key != "Generic" and not single
        return link, False

    def entries(self, request: str) -> list[Video]:
        """List what a search, channel or playlist holds, without reading the pages of its videos.

        Raises
        ------
        RejectedError, SiteError
            As ``verdict`` says.
        """
        limits = Limits(max_bytes=MAX_LISTING_BYTES, max_s=MAX_LISTING_S)
        with self._proxy.budget(limits) as budget, self._judging(budget):
            self._ydl.params["extract_flat"] = "in_playlist"
            try:
                listed = self._ydl.extract_info(request, download=False)
                videos = list(self._videos(listed, budget, depth=1))
                if not videos and budget.last_failure is not None:
                    raise budget.last_failure
                return videos
            finally:
                self._ydl.params["extract_flat"] = False

    def _videos(self, listed: dict[str, Any] | None, budget: Budget, *, depth: int) -> Iterator[Video]:
        if listed is None:
            return
        if "entries" in listed:
            for entry in listed["entries"]:
                yield from self._videos(entry, budget, depth=depth)
            return
        link = listed.get("webpage_url") if listed.get("_type", "video") == "video" else None
        link = str(link or listed.get("url") or "").encode(errors="replace").decode()
        if not link:
            return
        identity, may_be_list = self._identify(link)
        if may_be_list and depth < MAX_DEPTH and self._is_list(link):
            try:
                inner = self._ydl.extract_info(link, download=False)
            except Exception as error:  # one list that cannot be read costs no other
                told = verdict(error, budget)
                if not isinstance(told, RejectedError) or told.code in FAILURE_CODES:
                    raise
                yield Video(video_id=link, link=link, problem=(told.code, told.detail))
            else:
                yield from self._videos(inner, budget, depth=depth + 1)
            return
        key = listed.get("ie_key") or listed.get("extractor_key")
        yield Video(
            video_id=_video_id(key, listed.get("id")) or identity,
            link=link,
            title=clean_text(listed.get("title")),
            uploader=clean_text(listed.get("uploader") or listed.get("channel")),
            duration_s=_seconds(listed.get("duration")),
        )

    def _is_list(self, link: str) -> bool:
        return any(e.suitable(link) and e.is_single_video(link) is False for e in self._ydl._ies.values())

    # --- one video -----------------------------------------------------------------------------------------------

    def resolve(self, link: str, modality: Modality) -> Video:
        """Read a video's own page; where it tells no duration, the head of the media does.

        Raises
        ------
        RejectedError, SiteError
            As ``verdict`` says; ``live`` for what has no end yet.
        """
        info = self._read_page(link, modality)
        if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
            raise RejectedError("live", "it is live, or still to come")
        duration_s = _seconds(info.get("duration"))
        if duration_s is None:
            duration_s = self._duration_of_media(info)
        return Video(
            video_id=link,
            link=link,
            page_id=_video_id(info.get("extractor_key"), info.get("id")),
            title=clean_text(info.get("title")),
            uploader=clean_text(info.get("uploader") or info.get("channel") or info.get("creator")),
            upload_date=clean_text(info.get("upload_date")),
            licence=clean_text(info.get("license")),
            description=clean_text(info.get("description"), max_chars=MAX_DESCRIPTION),
            categories=_words(info.get("categories")),
            duration_s=duration_s,
            resolved=True,
        )

    def _read_page(self, link: str, modality: Modality) -> dict[str, Any]:
        self._page = None
        self._ydl.params["format"] = self._format(modality)
        limits = Limits(max_bytes=MAX_PAGE_BYTES, max_s=self.access.max_fetch_s)
        with self._proxy.budget(limits) as budget, self._judging(budget):
            self._ydl.format_selector = self._ydl.build_format_selector(self._ydl.params["format"])
            info = self._ydl.extract_info(link, download=False)
            _require_whole(budget)
            if info and "entries" in info:  # a page with several videos stands for its first
                info = next((entry for entry in info["entries"] if entry), None)
            if not info:
                raise budget.last_failure or RejectedError("unavailable", "the page holds no video")
        self._page = (link, modality, info)
        return info  # type: ignore[no-any-return]  # yt-dlp has no types

    def _duration_of_media(self, info: dict[str, Any]) -> float:
        wanted = (info.get("requested_formats") or [info])[0]
        self._headers = dict(wanted.get("http_headers") or {})
        limits = Limits(max_bytes=self.access.max_clip_bytes, max_s=self.access.max_fetch_s)
        with self._proxy.budget(limits) as budget, self._judging(budget):
            return media.probe_remote(self._proxy.relay_url(wanted["url"]), proxy=self._proxy.url)

    def fetch(self, link: str, span: ClipSpan, duration_s: float, modality: Modality, folder: Path) -> Path:
        """Download the section of a video that holds a clip, decode it for a test, and return the file.

        Its packets keep the times that they have in the whole video, and are copied as they are.

        Raises
        ------
        RejectedError, SiteError
            As ``verdict`` says.
        DurationError
            If the clip cannot be had since the media are much shorter than ``duration_s``.
        OSError
            If the disk is full.
        """
        page = self._page
        info = page[2] if page and page[:2] == (link, modality) else self._read_page(link, modality)
        self._section = span
        self._ydl.params["outtmpl"]["default"] = str(folder / "clip.%(ext)s")
        limits = Limits(max_bytes=self.access.max_clip_bytes, max_s=self.access.max_fetch_s)
        told: Exception | None = None
        with self._proxy.budget(limits) as budget, self._judging(budget), _room_in(folder):
            self._ydl.process_ie_result(self._ydl.sanitize_info(info, remove_private_keys=True), download=True)
            files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != ".part")
            if not files or not files[0].stat().st_size:
                raise RejectedError("network", "the site sent nothing of this section")
            try:
                media.verify_section(files[0], span, duration_s=duration_s, modality=modality)
            except RejectedError as error:
                told = verdict(error, budget)  # the way there may have broken off
        if told is None:
            return files[0]
        if isinstance(told, RejectedError) and told.code in ("undecodable", "too-short"):
            real_s = self._duration_of_media(info)
            if real_s < duration_s - WRONG_DURATION_S:
                raise DurationError(real_s)
        raise told

    # --- yt-dlp --------------------------------------------------------------------------------------------------

    def _format(self, modality: Modality) -> str:
        choices = _FORMATS[modality].format(self.access.max_height_px).split("/")
        return "/".join(_over_http(choice) for choice in choices)

    def _downloader(self) -> Any:
        session, yt_dlp = self, self._yt_dlp

        class Downloader(yt_dlp.YoutubeDL):  # type: ignore[name-defined,misc]  # nor a class for mypy
            """Lets ffmpeg see addresses of the proxy in place of the site's, and counts what answers unpack to."""

            def urlopen(self, req: Any) -> Any:
                try:
                    return session._counted(super().urlopen(req))
                except yt_dlp.networking.exceptions.RequestError as error:
                    if isinstance(error, yt_dlp.networking.exceptions.HTTPError):
                        session._counted(error.response)
                    session._failed(error)
                    raise

            def dl(self, name: str, info: dict[str, Any], subtitle: bool = False, test: bool = False) -> Any:
                formats = info.get("requested_formats") or []
                session._headers = dict([*formats, info][0].get("http_headers") or info.get("http_headers") or {})
                for wanted in [info, *formats]:
                    wanted["http_headers"] = {"Accept": "*/*"}  # an empty one would be filled in again
                    wanted.pop("cookies", None)
                    if wanted.get("url"):
                        wanted["url"] = session._proxy.relay_url(wanted["url"])
                return super().dl(name, info, subtitle, test)

        return Downloader(
            {
                "allow_unplayable_formats": False,
                "cachedir": False,
                "cookiefile": None if self.access.cookies is None else io.StringIO(_cookies(self.access.cookies)),
                "cookiesfrombrowser": _browser(self.access.cookies_from_browser),
                "download_ranges": self._ranges,
                "external_downloader_args": {
                    "ffmpeg_i": ["-nostdin", *media.REMOTE_GUARDS],
                    "ffmpeg_o": [*_CUT, *_BIT_EXACT, *_KEEP_TIME],
                },
                "extractor_retries": 1,
                "ffmpeg_location": media.ffmpeg_exe(),
                "fixup": "never",
                "format_sort": [f"res:{self.access.max_height_px}"],
                "logger": _Silent(),
                "merge_output_format": "mkv",
                "noplaylist": True,
                "noprogress": True,
                "outtmpl": {"default": "-"},
                "overwrites": True,
                "playlist_items": None,
                "proxy": self._proxy.url,
                "quiet": True,
                "retries": 1,
                "sleep_interval_requests": self.access.request_pause_s,
                "socket_timeout": min(SOCKET_TIMEOUT_S, self.access.max_fetch_s),
                "updatetime": False,
            }
        )

    def _ranges(self, info: dict[str, Any], _: Any) -> list[dict[str, float]]:
        if self._section is None:
            return [{}]
        start_s = self._section.start_s - MARGIN_S
        start_s = start_s if start_s > MIN_SEEK_S else 0.0
        return [{"start_time": start_s, "end_time": self._section.start_s + self._section.length_s + MARGIN_S}]

    def _open_for_ffmpeg(self, url: str, headers: dict[str, str]) -> Any:
        """Open what ffmpeg asks the proxy for, with the session's cookies and the format's headers."""
        return open_in_steps(self._open, url, headers)

    def _open(self, url: str, headers: dict[str, str]) -> Any:
        return self._ydl.urlopen(self._yt_dlp.networking.Request(url, headers={**self._headers, **headers}))

    def _counted(self, response: Any) -> Any:
        read = response.read

        def counted(amount: int | None = None) -> bytes:
            try:
                data: bytes = read(self._left_bytes + 1 if amount is None else amount)
            except self._yt_dlp.networking.exceptions.RequestError as error:
                self._failed(error)
                raise
            self._left_bytes -= len(data)
            if self._left_bytes < 0:
                raise RejectedError("too-large", "it unpacks to more bytes than may be fetched")
            return data

        response.read = counted
        return response

    def _failed(self, error: Exception) -> None:
        if self._budget is not None:
            self._budget.last_failure = error

    def _judging(self, budget: Budget) -> Any:
        self._budget, self._left_bytes = budget, budget.limits.max_bytes
        return _Judge(budget)


class _Judge:
    """Turns whatever goes wrong inside into a verdict on the candidate or on the site."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
            return
        if isinstance(error, Exception):
            raise_if_disk_full(str(error))
            raise verdict(error, self._budget) from error


# --- called by name in the worker process ------------------------------------------------------------------------

_session: Session | None = None


def in_session(access: Access, method: str, *words: Any) -> Any:
    """Call a method of this process's session, which is opened by the first call."""
    global _session
    if _session is None:
        _, hard_bytes = resource.getrlimit(resource.RLIMIT_DATA)
        soft_bytes = MAX_MEMORY_BYTES if hard_bytes == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard_bytes)
        resource.setrlimit(resource.RLIMIT_DATA, (soft_bytes, hard_bytes))
    if _session is None or _session.access != access:
        _session = Session(access)
    try:
        return getattr(_session, method)(*words)
    finally:
        if _peak_bytes() > 0.8 * MAX_MEMORY_BYTES:
            os._exit(1)  # the proxy's threads may have met the limit too, and another worker takes over


# --- small things ------------------------------------------------------------------------------------------------


def _peak_bytes() -> int:
    """Most memory that this process has held, where the system tells (getrusage would tell a parent's share too)."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def _require_whole(budget: Budget) -> None:
    """Refuse an answer that was cut off by a limit: without a length, it looks like a whole one."""
    if budget.exceeded:
        raise ConnectionError("cut off")


@contextmanager
def _room_in(folder: Path) -> Iterator[None]:
    """Tell a full disk from what a program says that could not write on."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < float("inf") else None


def _words(value: object) -> tuple[str, ...]:
    listed = value[:MAX_CATEGORIES] if isinstance(value, list | tuple) else []
    return tuple(filter(None, map(clean_text, listed)))


def _video_id(extractor: object, own_id: object) -> str | None:
    """Identity by extractor and id; none where the extractor gives none that holds beyond one site."""
    if not extractor or not own_id or str(extractor).lower() == "generic":
        return None
    return f"{str(extractor).lower()}:{clean_text(own_id)}"


def _over_http(choice: str) -> str:
    return "+".join(part + _PROTOCOLS for part in choice.split("+"))


def _import_yt_dlp(plugins: str | None) -> Any:
    """Import yt-dlp without foreign code, unless that was asked for."""
    if plugins is None:
        os.environ["YTDLP_NO_PLUGINS"] = "1"
    elif os.environ.pop("YTDLP_NO_PLUGINS", None) and "yt_dlp" in sys.modules:
        raise RuntimeError("yt-dlp was imported without plugins in this process")
    import yt_dlp
    import yt_dlp.cookies
    import yt_dlp.globals
    import yt_dlp.networking
    import yt_dlp.networking.exceptions

    yt_dlp.globals.plugin_dirs.value = [plugins] if plugins else []
    return yt_dlp


def _cookies(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--cookies {file} cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from error


def _browser(words: str | None) -> tuple[str | None, ...] | None:
    if words is None:
        return None
    name, _, profile = words.partition(":")
    return (name, profile or None, None, None)
