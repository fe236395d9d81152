"""A video catalogue on a loopback HTTP server: searches, pages, media, and every fault that a crawl meets.

    with Catalogue([Video(id="a1", recording=recording)], searches={"sad song": ["a1"]}) as site:
        ...  # site.url, site.watch("a1"), site.bytes_served, site.requests_of("a1")

The server lives in the process that opened it, so a crawler under test may be a process of its own, die and come back.
yt-dlp reads the site with the extractors under ``PLUGINS`` (which find the search by the environment,
``site.environment``), or without them by its generic extractor: ``site.page``, ``site.file``, ``site.hls``.

A video's ``fault`` names what is wrong with it. Faults that a page has by itself (``missing``, ``private``...) hold for
its page, faults of a stream (``slow``, ``truncated``...) for its media; ``page-`` or ``media-`` before the name says
otherwise, as in ``media-missing``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tests.catalogue.server import Request, Server
from tests.catalogue.videos import Recording, Video

__all__ = ["PLUGINS", "Catalogue", "Recording", "Request", "Video"]

PAGE_SIZE = 10
PLUGINS = Path(__file__).parent / "plugins"
"""The folder to name as yt-dlp's plugin directory."""


class Catalogue:
    """The site, served in the background from ``with`` on.

    Parameters
    ----------
    videos
        All that it has.
    searches
        Video ids by search key, in the order of the results.
    playlists, channels
        Video ids by name.
    page_size
        Results on a page of a search.
    cookie
        ``name=value`` that a request must carry to get into the guarded rooms; 403 else.
    guarded
        Rooms guarded by it, of search, watch, page, playlist, channel, media.
    host
        A loopback address; another of 127.0.0.0/8 makes a second site to be redirected to.
    """

    def __init__(
        self,
        videos: Iterable[Video] | Mapping[str, Video] = (),
        *,
        searches: Mapping[str, Sequence[str]] | None = None,
        playlists: Mapping[str, Sequence[str]] | None = None,
        channels: Mapping[str, Sequence[str]] | None = None,
        page_size: int = PAGE_SIZE,
        cookie: str | None = None,
        guarded: Collection[str] = ("media",),
        host: str = "127.0.0.1",
    ) -> None:
        all_videos = videos.values() if isinstance(videos, Mapping) else videos
        self.videos = {video.id: video for video in all_videos}
        self.searches = dict(searches or {})
        self.lists = {"playlist": dict(playlists or {}), "channel": dict(channels or {})}
        self.page_size = page_size
        self.cookie = cookie
        self.guarded = guarded
        self.storming = False
        """While set, everything is answered 429."""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._failed: dict[str, int] = {}
        self._storm: tuple[int, float, Collection[str] | None] | None = None
        self._errors: list[BaseException] = []
        self._server = Server((host, 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._errors and error is None:
            raise ExceptionGroup("the catalogue failed", [e for e in self._errors if isinstance(e, Exception)])

    # Addresses.

    @property
    def environment(self) -> dict[str, str]:
        """What the plugin's search must find in the environment."""
        return {"CATALOGUE_URL": self.url}

    def watch(self, video: str) -> str:
        """The page that the plugin's extractor reads."""
        return f"{self.url}/watch/{video}"

    def page(self, video: str) -> str:
        """The same page, for the generic extractor."""
        return f"{self.url}/page/{video}"

    def file(self, video: str, height: int = 360) -> str:
        """The plain mp4."""
        return f"{self.url}/media/{video}-{height}.mp4"

    def hls(self, video: str) -> str:
        """The plain master playlist."""
        return f"{self.url}/media/{video}.m3u8"

    def playlist(self, name: str) -> str:
        """A page that lists videos."""
        return f"{self.url}/playlist/{quote(name)}"

    def channel(self, name: str) -> str:
        """A page that lists videos."""
        return f"{self.url}/channel/{quote(name)}"

    # What was asked.

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order of arrival."""
        with self._lock:
            return list(self._requests)

    def requests_of(self, video: str, *rooms: str) -> list[Request]:
        """Requests for a video, in these rooms where some are named."""
        return [r for r in self.requests if r.video == video and (not rooms or r.room in rooms)]

    def requests_in(self, *rooms: str) -> list[Request]:
        """Requests in these rooms."""
        return [r for r in self.requests if r.room in rooms]

    def count(self, path: str) -> int:
        """Requests of one path, whatever the query."""
        return sum(r.path == path for r in self.requests)

    @property
    def bytes_served(self) -> int:
        """Bytes of media written to sockets."""
        return sum(r.sent_bytes for r in self.requests if r.room == "media")

    def bytes_of(self, video: str) -> int:
        """Bytes of one video's media written to sockets."""
        return sum(r.sent_bytes for r in self.requests_of(video, "media"))

    def forget(self) -> None:
        """Start counting anew."""
        with self._lock:
            self._requests.clear()

    # Storms.

    def storm(self, *, after: int = 0, lasting: float = math.inf, rooms: Collection[str] | None = None) -> None:
        """Answer 429 to ``lasting`` requests, once ``after`` more were answered, or to those in ``rooms`` alone."""
        with self._lock:
            self._storm = (after, lasting, rooms)

    def calm(self) -> None:
        """End a storm."""
        with self._lock:
            self._storm = None
        self.storming = False

    def storms_on(self, room: str) -> bool:
        """Count a request, and tell whether it falls into a storm."""
        with self._lock:
            if self._storm is not None and (self._storm[2] is None or room in self._storm[2]):
                after, lasting, rooms = self._storm
                if after > 0:
                    self._storm = (after - 1, lasting, rooms)
                elif lasting > 0:
                    self._storm = (0, lasting - 1, rooms)
                    return True
        return self.storming

    # For the handler.

    def begin(self, request: Request) -> None:
        """Write a request down."""
        with self._lock:
            self._requests.append(request)

    def fails_again(self, video: Video) -> bool:
        """Whether a flaky video's request fails; each failure is counted."""
        with self._lock:
            failed = self._failed.get(video.id, 0)
            self._failed[video.id] = min(failed + 1, video.flaky_times)
            return failed < video.flaky_times

    def broke(self, error: BaseException) -> None:
        """Keep an error of the site itself until it closes."""
        self._errors.append(error)
