"""Hostile sites, on loopback: what they send ends in a verdict, opens no file of this machine and costs little.

The real yt-dlp, proxy and ffmpeg, in this process and without plugins: links are read by the generic extractor.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import gzip
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pipeline.clips import ClipSpan
from pipeline.crawl import Access, Session, _words
from pipeline.errors import RateLimitedError, RejectedError, SiteError
from pipeline.media import ffmpeg_exe
from pipeline.schema import CODES
from pipeline.text import clean_text
from tests.waiting import PATIENCE_S

Answer = Callable[[BaseHTTPRequestHandler], None]

# yt-dlp leaves answers that it did not read to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning")

ROOT = Path(__file__).parents[2]
CAP_BYTES = 5_000_000
SPAN = ClipSpan(start_s=5.0, length_s=26.0)


class Site:
    """A web site whose answers are functions; it keeps the paths asked for, and the bytes it could send."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, Answer] = {}
        self.seen: list[str] = []
        self.connections = 0
        self.sent_bytes = 0
        self.closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                site.seen.append(self.path)
                with contextlib.suppress(OSError):  # clients go away as they like
                    site.pages.get(self.path, missing)(self)

            do_HEAD = do_GET

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def verify_request(self, request: Any, client_address: Any) -> bool:
                site.connections += 1
                return True

            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self._server = Server((host, 0), Handler)
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def send(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        handler.wfile.write(data)
        self.sent_bytes += len(data)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def page_of(self, media: str, *, duration_s: int = 40) -> str:
        """Make a page that tells title, duration and media: the media are not asked before the fetch."""
        linked = {"@context": "https://schema.org", "@type": "VideoObject", "name": "a song"}
        linked |= {"contentUrl": media, "duration": f"PT{duration_s}S"}
        path = f"/page-{len(self.pages)}"
        self.pages[path] = sends(
            f'<!doctype html><html><head><title>a</title><script type="application/ld+json">{json.dumps(linked)}'
            "</script></head><body></body></html>",
            "text/html",
        )
        return self.url + path


def missing(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def sends(body: str | bytes, kind: str = "video/mp4", status: int = 200, **headers: str) -> Answer:
    """Answer with a body, or the end of it from where the request wants it."""
    data = body.encode() if isinstance(body, str) else body

    def answer(handler: BaseHTTPRequestHandler) -> None:
        first = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        handler.send_response(206 if first and status == 200 else status)
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        told = {"Content-Type": kind, "Accept-Ranges": "bytes", "Content-Length": str(len(data) - first)}
        for name, value in (told | {n.replace("_", "-"): v for n, v in headers.items()}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data[first:])

    return answer


def moved(to: str) -> Answer:
    return sends("", "text/html", 302, Location=to)


@contextlib.contextmanager
def watching(file: Path) -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether anybody has opened the file meanwhile; by inotify."""
    libc = ctypes.CDLL(None, use_errno=True)
    told = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(told, os.fsencode(file), 0x21) > 0  # IN_ACCESS, IN_OPEN

    def opened_since() -> bool:
        try:
            return bool(os.read(told, 4096))
        except BlockingIOError:
            return False

    try:
        yield opened_since
    finally:
        os.close(told)


# --- fixtures ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """As of a machine whose own sites are not to go through its proxy; and this module leaves no word of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost,inside.test")
        patch.setenv("no_proxy", "127.0.0.1,localhost,inside.test")
        patch.setenv("YTDLP_NO_PLUGINS", "1")
        yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@contextlib.contextmanager
def opened(access: Access) -> Iterator[Session]:
    session = Session(access)
    yield session
    session.close()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """One that may go anywhere on this machine, so that nothing but what is sent is refused."""
    limits = {"max_fetch_s": 20.0, "max_clip_bytes": CAP_BYTES}
    with opened(Access(allow_private=True, request_pause_s=0.0, **limits)) as session:
        yield session


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory, make_media: Callable[..., Path]) -> Path:
    """A video of this machine, which no site may show."""
    return make_media(tmp_path_factory.mktemp("home") / "secret.mp4", seconds=40)


def ends(session: Session, link: str, folder: Path) -> tuple[str, str]:
    """Read a page and fetch a clip of it, which must end in a verdict: code and detail."""

    def fetch() -> None:
        video = session.resolve(link, "both")
        session.fetch(link, SPAN, video.duration_s or 0.0, "both", folder)

    with pytest.raises((RejectedError, SiteError)) as caught:
        fetch()
    error = caught.value
    code, detail = (error.code, error.detail) if isinstance(error, RejectedError) else ("site", str(error))
    assert code in {*CODES, "site"}
    assert detail
    assert detail.isprintable()
    assert len(detail) <= 320
    return code, detail


# --- media that would read this machine's files --------------------------------------------------------------------


def playlist(uri: str, *, tag: str = "") -> str:
    head = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:40\n#EXT-X-PLAYLIST-TYPE:VOD\n"
    return f"{head}{tag}#EXTINF:40.0,\n{uri}\n#EXT-X-ENDLIST\n"


def master(uri: str) -> str:
    return f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n{uri}\n"


ID3 = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)  # ffmpeg looks for a format behind such a tag
RTP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
MPD = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT40S" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1" codecs="avc1"><BaseURL>file://{}</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>"
)
HLS = {
    "a path": lambda at: playlist(at),
    "file://": lambda at: playlist(f"file://{at}"),
    "file:": lambda at: playlist(f"file:{at}"),
    "FILE:": lambda at: playlist(f"FILE:{at}"),
    "concat:": lambda at: playlist(f"concat:{at}|{at}"),
    "subfile": lambda at: playlist(f"subfile,,start,0,end,0,,:{at}"),
    "crypto+file:": lambda at: playlist(f"crypto+file:{at}"),
    "data:": lambda at: playlist("data:video/mp4;base64,AAAA"),
    "a key": lambda at: playlist("a.ts", tag=f'#EXT-X-KEY:METHOD=AES-128,URI="file://{at}"\n'),
    "a key without quotes": lambda at: playlist("a.ts", tag=f"#EXT-X-KEY:METHOD=AES-128,URI=file://{at}\n"),
    "a map": lambda at: playlist("a.ts", tag=f'#EXT-X-MAP:URI="file://{at}"\n'),
    "a master": lambda at: master(f"file://{at}"),
    "a playlist in a playlist": lambda at: master("file"),
}
OTHERS = {
    "a playlist behind an ID3 tag": lambda at: ID3 + playlist(f"file://{at}").encode(),
    "a playlist behind a byte-order mark": lambda at: "\ufeff" + playlist(f"file://{at}"),
    "ffconcat": lambda at: f"ffconcat version 1.0\nfile 'file:{at}'\n",
    "SDP": lambda at: RTP,
    "DASH": lambda at: MPD.format(at),
    "a movie in another file": lambda at: referring_to(Path(at)),
}
PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")


def referring_to(movie: Path) -> bytes:
    """Make an mp4 that is the index of another, of which it names the path, and holds no media of its own."""
    alias = bytes(10 + 1 + 27 + 12 + 1 + 63 + 16 + 2 + 2 + 16)
    path = os.fsencode(movie) + bytes(len(os.fsencode(movie)) % 2)
    alias += struct.pack(">hH", 2, len(path)) + path + struct.pack(">hH", -1, 0)
    reference = struct.pack(">II4sI", 0, 1, b"", 0)[:8] + struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias

    def rebuilt(data: bytes) -> bytes:
        made, at = b"", 0
        while at < len(data):
            size, kind = struct.unpack_from(">I4s", data, at)
            body = data[at + 8 : at + size]
            if kind in PARENTS:
                body = rebuilt(body)
            elif kind == b"dref":
                body = reference
            elif kind == b"mdat":
                body = bytes(len(body))
            made += struct.pack(">I4s", len(body) + 8, kind) + body
            at += size
        return made

    return rebuilt(movie.read_bytes())


@pytest.mark.parametrize("name", [*HLS, *OTHERS])
def test_media_that_name_a_local_file_are_refused_and_it_stays_closed(
    session: Session, site: Site, secret: Path, tmp_path: Path, name: str
) -> None:
    """As an .mp4 whose page tells all, so that ffmpeg meets it; and as a link, so that yt-dlp and PyAV do."""
    body = {**HLS, **OTHERS}[name](str(secret))
    site.pages["/file"] = sends(playlist(f"file://{secret}"), "application/vnd.apple.mpegurl")
    site.pages["/film.mp4"] = sends(body)
    kind = "application/vnd.apple.mpegurl" if name in HLS else "video/mp4"
    site.pages["/plain.mp4"] = sends(body, kind)
    site.pages["/unknown.mp4"] = sends(body, "application/octet-stream")
    links = [site.page_of(f"{site.url}/film.mp4"), f"{site.url}/plain.mp4"]
    links += [f"{site.url}/unknown.mp4"] if name in OTHERS else []
    with watching(secret) as opened_since:
        told = [ends(session, link, tmp_path) for link in links]
        assert not opened_since()
    wanted = {"unsupported-link"} if name in HLS and name != "a path" else {"undecodable"}
    if name in ("a path", "DASH"):  # they lead to a page of the site itself, which is not there
        wanted |= {"unavailable"}
    assert {code for code, _ in told} <= wanted, told
    assert not [detail for _, detail in told if "--" in detail]  # there is no flag that would let it pass


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file:", "-protocol_whitelist file,http,tcp -allowed_extensions ALL"),
        ("ffconcat", "-protocol_whitelist file,http,tcp -safe 0 -f concat"),
        ("a movie in another file", "-protocol_whitelist file,http,tcp -enable_drefs 1 -use_absolute_path 1"),
    ],
)
def test_an_ffmpeg_without_guards_would_open_it(site: Site, secret: Path, name: str, words: str) -> None:
    """So that the attacks above are known to be some."""
    site.pages["/film.mp4"] = sends({**HLS, **OTHERS}[name](str(secret)))
    command = [ffmpeg_exe(), "-nostdin", "-loglevel", "quiet", *words.split(), "-i", f"{site.url}/film.mp4"]
    with watching(secret) as opened_since:
        subprocess.run([*command, "-t", "0.1", "-f", "null", "-"], check=False)
        assert opened_since()


def test_what_is_attached_to_a_film_is_left_out_of_its_clip(
    session: Session, site: Site, secret: Path, tmp_path: Path, make_media: Callable[..., Path]
) -> None:
    (tmp_path / "evil.sh").write_text("#!/bin/sh\n# do evil\n" * 100)
    words = ("-attach", str(tmp_path / "evil.sh"), "-metadata:s:t", "mimetype=../../text/x-sh")
    sound = "sine=frequency=440:sample_rate=8000"  # small: each seek sends what the sockets hold beyond it
    film = make_media(tmp_path / "film.mkv", sound=sound, seconds=40, extra=words)
    assert b"do evil" in film.read_bytes()
    site.pages["/film.mkv"] = sends(film.read_bytes(), "video/x-matroska")
    (tmp_path / "clip").mkdir()
    clip = session.fetch(site.page_of(f"{site.url}/film.mkv", duration_s=40), SPAN, 40.0, "both", tmp_path / "clip")
    assert list((tmp_path / "clip").iterdir()) == [clip]
    assert b"do evil" not in clip.read_bytes()


# --- ways into this machine and its network ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outside() -> Iterator[Site]:
    """A site at 127.0.0.2, which counts as the one public address of the world."""
    real = ipaddress.IPv4Address.is_global
    public = property(lambda self: str(self) == "127.0.0.2" or real.fget(self))  # type: ignore[attr-defined]
    site = Site("127.0.0.2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ipaddress.IPv4Address, "is_global", public)
        yield site
    site.close()


@pytest.fixture(scope="module")
def inside() -> Iterator[Site]:
    site = Site("127.0.0.1")
    yield site
    site.close()


@pytest.fixture(scope="module")
def strict(outside: Site) -> Iterator[Session]:
    """One that may go to public addresses alone."""
    with opened(Access(max_fetch_s=20.0, max_clip_bytes=3_000_000, request_pause_s=0.0)) as session:
        yield session


def test_a_public_site_is_fetched_from(strict: Session, outside: Site, secret: Path, tmp_path: Path) -> None:
    """So that what is refused below is refused for its address."""
    outside.pages["/film.mp4"] = sends(secret.read_bytes())
    clip = strict.fetch(outside.page_of(f"{outside.url}/film.mp4", duration_s=40), SPAN, 40.0, "both", tmp_path)
    assert clip.stat().st_size > 10_000


WAYS: dict[str, Callable[[Site, str], str]] = {
    "a page that moved": lambda site, to: at(site, "/moved", moved(to)),
    "a page that refreshes": lambda site, to: at(
        site, "/page", sends(f'<html><meta http-equiv="refresh" content="0; url={to}"></html>', "text/html")
    ),
    "a page that names it": lambda site, to: site.page_of(to),
    "media that moved": lambda site, to: site.page_of(at(site, "/film.mp4", moved(to))),
    "a link to media that moved": lambda site, to: at(site, "/film.mp4", moved(to)),
    "a playlist named mp4": lambda site, to: site.page_of(at(site, "/film.mp4", sends(playlist(to)))),
    "a playlist named mp4, linked": lambda site, to: at(site, "/film.mp4", sends(playlist(to))),
    "a playlist": lambda site, to: at(site, "/film.m3u8", sends(playlist(to), "application/vnd.apple.mpegurl")),
    "a master": lambda site, to: at(site, "/film.m3u8", sends(master(to), "application/vnd.apple.mpegurl")),
    "a key": lambda site, to: site.page_of(
        at(site, "/film.mp4", sends(playlist("a.ts", tag=f'#EXT-X-KEY:METHOD=AES-128,URI="{to}"\n')))
    ),
    "a playlist behind an ID3 tag": lambda site, to: site.page_of(
        at(site, "/film.mp4", sends(ID3 + playlist(to).encode()))
    ),
}


def at(site: Site, path: str, answer: Answer) -> str:
    site.pages[path] = answer
    return site.url + path


@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_from_a_public_site_into_this_machine(
    strict: Session, outside: Site, inside: Site, tmp_path: Path, way: str
) -> None:
    code, detail = ends(strict, WAYS[way](outside, f"{inside.url}/film.mp4"), tmp_path)
    assert inside.connections == 0
    assert code == "unsupported-link"
    assert detail == "127.0.0.1 is a private address; --allow-private lets such links pass"


@pytest.mark.parametrize("scheme", ["ftp", "ws", "rtmp", "gopher", "data", "file"])
def test_no_other_scheme_leads_there(strict: Session, outside: Site, inside: Site, tmp_path: Path, scheme: str) -> None:
    for name in ("film.mp4", "film.m3u8"):
        code, detail = ends(strict, outside.page_of(f"{scheme}://127.0.0.1:{inside.port}/{name}"), tmp_path)
        assert code in ("unsupported-link", "unavailable"), detail
    assert inside.connections == 0


def test_a_name_that_leads_inside_when_it_is_asked_for_again_gains_nothing(
    strict: Session, outside: Site, inside: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, addresses = socket.getaddrinfo, ["127.0.0.2", "127.0.0.1"]

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "flip.test":
            host = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    page = outside.page_of(f"http://flip.test:{inside.port}/film.mp4").removeprefix(outside.url)
    code, detail = ends(strict, f"http://flip.test:{outside.port}{page}", tmp_path)
    assert outside.seen[-1] == page
    assert inside.connections == 0
    assert (code, detail.split(";")[0]) == ("unsupported-link", "127.0.0.1 (flip.test) is a private address")


def test_links_into_this_machine_and_its_network_are_refused_before_anything_connects(
    strict: Session, inside: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, targets = socket.socket.connect, []

    def noting(self: socket.socket, address: Any) -> None:
        targets.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noting)
    port = inside.port
    hosts = {f"127.0.0.1:{port}": "127.0.0.1", f"localhost:{port}": "127.0.0.1 (localhost)", "10.0.0.1": "10.0.0.1"}
    hosts |= {
        f"[::1]:{port}": "::1",
        "169.254.169.254": "169.254.169.254",
        f"2130706433:{port}": "127.0.0.1 (2130706433)",
    }
    hosts |= {f"me:hush@127.0.0.1:{port}": "127.0.0.1", f"0.0.0.0:{port}": "0.0.0.0", "192.168.1.1": "192.168.1.1"}
    for host, known_as in hosts.items():
        code, detail = ends(strict, f"http://{host}/film.mp4", tmp_path)
        assert code == "unsupported-link"
        if host.startswith("localhost"):  # which may stand for ::1 as well
            assert detail.endswith("(localhost) is a private address; --allow-private lets such links pass")
        else:
            assert detail == f"{known_as} is a private address; --allow-private lets such links pass"
    assert inside.connections == 0
    assert {address[1] for address in targets} == {int(strict._proxy.url.rpartition(":")[2])}


# --- what yt-dlp passes over ---------------------------------------------------------------------------------------


def breaks_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/vnd.apple.mpegurl")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"#EXTM3U\n")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (sends("slow down", "text/plain", 429), "rate-limited"),
        (sends("", "text/plain", 503), "network"),
        (sends("", "text/plain", 403), "forbidden"),
        (missing, "unavailable"),
        (breaks_off, "network"),
    ],
    ids=["429", "503", "403", "404", "cut off"],
)
def test_a_playlist_that_fails_behind_a_page_is_the_reason_and_not_that_the_page_holds_nothing(
    session: Session, site: Site, answer: Answer, code: str
) -> None:
    """yt-dlp warns of the playlist, goes on, and then calls the page's address unsupported."""
    site.pages["/list.m3u8"] = answer
    body = f'<html><head><title>a</title></head><body><video><source src="{site.url}/list.m3u8"></video></body></html>'
    site.pages["/with-playlist"] = sends(body, "text/html")
    with pytest.raises((RejectedError, RateLimitedError)) as caught:
        session.resolve(f"{site.url}/with-playlist", "both")
    assert "/list.m3u8" in site.seen
    told = caught.value
    assert (told.code if isinstance(told, RejectedError) else "rate-limited") == code
    assert "Unsupported URL" not in str(told)


@pytest.mark.parametrize("method", ["entries", "resolve"])
def test_a_list_that_is_empty_since_its_site_has_enough_is_none(
    session: Session, site: Site, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def listed(link: str, *, download: bool) -> dict[str, object]:
        """As extractors do that can go on without a part."""
        with contextlib.suppress(Exception):
            session._ydl.urlopen(f"{site.url}/first-part")
        return {"_type": "playlist", "entries": []}

    def ask() -> object:
        return session.entries(site.url) if method == "entries" else session.resolve(site.url, "both")

    monkeypatch.setattr(session._ydl, "extract_info", listed)
    site.pages["/first-part"] = sends("slow down", "text/plain", 429)
    with pytest.raises(RateLimitedError):
        ask()
    site.pages["/first-part"] = sends("nothing yet", "text/plain")
    if method == "entries":
        assert ask() == []
    else:
        with pytest.raises(RejectedError, match="holds no video"):
            ask()


def test_a_page_that_holds_nothing_stays_unsupported(session: Session, site: Site) -> None:
    site.pages["/nothing"] = sends("<html><head><title>a</title></head><body>words</body></html>", "text/html")
    with pytest.raises(RejectedError) as caught:
        session.resolve(f"{site.url}/nothing", "both")
    assert caught.value.code == "unsupported-link"


# --- answers without end -------------------------------------------------------------------------------------------


def huge(site: Site, kind: str, head: bytes, piece: bytes, *, length: bool = True) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        if length:
            handler.send_header("Content-Length", str(10_000_000_000))
        handler.end_headers()
        site.send(handler, head)
        while not site.closing.is_set():
            site.send(handler, piece)

    return answer


def slow(site: Site, kind: str, head: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(head)
        while not site.closing.wait(0.1):
            handler.wfile.write(b" ")

    return answer


NULL_PACKETS = (b"\x47\x1f\xff\x10" + bytes(184)) * 400


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("what", ["page", "playlist", "film"])
def test_an_answer_of_10_gb_ends_at_the_limit(
    session: Session,
    site: Site,
    tmp_path: Path,
    make_media: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    length: bool,
) -> None:
    monkeypatch.setattr("pipeline.crawl.MAX_PAGE_BYTES", 1_000_000)
    film = make_media(tmp_path / "film.ts", seconds=27).read_bytes()
    kind, head, piece = {
        "page": ("text/html", b"<html>", b"<p>words</p>" * 5000),
        "playlist": ("application/vnd.apple.mpegurl", b"#EXTM3U\n", b"#x\n" * 20_000),
        "film": ("video/mp2t", film[: len(film) // 2], NULL_PACKETS),
    }[what]
    link = at(site, "/huge", huge(site, kind, head, piece, length=length))
    site.sent_bytes = 0
    (tmp_path / "clip").mkdir()
    code, detail = ends(session, site.page_of(link) if what == "film" else link, tmp_path / "clip")
    assert (code, detail) == ("too-large", f"more than {CAP_BYTES if what == 'film' else 1_000_000} bytes")
    assert site.sent_bytes < CAP_BYTES + 2_000_000  # buffers of sockets included
    assert sum(file.stat().st_size for file in (tmp_path / "clip").iterdir()) < CAP_BYTES


def endless_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:  # until the client has gone
        handler.wfile.write(b"X-A: b\r\n")
        time.sleep(0.1)


@pytest.mark.parametrize("what", ["page", "playlist", "film", "headers", "nothing"])
def test_an_answer_that_never_ends_is_left_in_time(site: Site, tmp_path: Path, what: str) -> None:
    answers = {
        "page": slow(site, "text/html", b"<html>"),
        "playlist": slow(site, "application/vnd.apple.mpegurl", b"#EXTM3U\n"),
        "film": slow(site, "video/mp4", b""),
        "headers": endless_head,
        "nothing": lambda handler: site.closing.wait(PATIENCE_S),
    }
    link = at(site, "/slow", answers[what])
    began_s = time.monotonic()
    with opened(Access(allow_private=True, request_pause_s=0.0, max_fetch_s=1.5)) as session:
        began_s = time.monotonic()
        assert ends(session, site.page_of(link) if what == "film" else link, tmp_path) == ("timeout", "more than 1.5 s")
    assert time.monotonic() - began_s < PATIENCE_S


def test_a_compressed_page_costs_no_more_than_its_limit_unpacked(
    session: Session, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.crawl.MAX_PAGE_BYTES", CAP_BYTES)
    packed = gzip.compress(b"<html>" + b" " * 30_000_000)
    assert len(packed) < 100_000
    answers = {
        "/once": sends(packed, "text/html", Content_Encoding="gzip"),
        "/twice": sends(gzip.compress(packed), "text/html", Content_Encoding="gzip, gzip"),
        "/deflated": sends(packed, "text/html", Content_Encoding="deflate, gzip"),
        "/list": sends(
            gzip.compress(b"#EXTM3U\n" + b"#" * 20_000_000), "application/vnd.apple.mpegurl", Content_Encoding="gzip"
        ),
    }
    for path, answer in answers.items():
        code, detail = ends(session, at(site, path, answer), tmp_path)
        wanted = ("network", "unavailable") if path == "/deflated" else ("too-large",)  # that one is damaged
        assert code in wanted, detail
    film = playlist("a.ts") + "#" * 20_000_000
    link = at(site, "/film.mp4", sends(gzip.compress(film.encode()), Content_Encoding="gzip"))
    code, detail = ends(session, site.page_of(link), tmp_path)
    assert code in ("too-large", "undecodable"), detail


@pytest.mark.slow
def test_what_still_fills_the_memory_ends_its_worker_alone(site: Site) -> None:
    """The body of a redirect is unpacked inside requests; with a limit of 500 MB, and 2 GB in 4 kB."""
    packed = gzip.compress(gzip.compress(bytes(100_000_000)) * 20)
    headers = {"Content_Encoding": "gzip, gzip", "Location": "/gone"}
    link = at(site, "/moved", sends(packed, "text/html", 302, **headers))
    script = (
        "import pipeline.crawl as c; c.MAX_MEMORY_BYTES = 500_000_000\n"
        "access = c.Access(allow_private=True, max_fetch_s=5.0, request_pause_s=0.0)\n"
        f"c.in_session(access, 'resolve', {link!r}, 'both')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1


def test_a_full_disk_is_no_fault_of_the_candidate(
    session: Session, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = site.page_of(at(site, "/film.mp4", sends("no film")))
    assert ends(session, link, tmp_path) == ("undecodable", "ffmpeg cannot read what the site sent")
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("pipeline.crawl.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="No space left"):
        session.fetch(link, SPAN, 60.0, "both", tmp_path)


# --- text ----------------------------------------------------------------------------------------------------------

NASTY = {
    "../../etc/passwd": "../../etc/passwd",
    "a\x00b\x1b[31mc\r\nd\te\x7ff\x9bg": "a b [31mc d e f g",
    "safe\u202egpj.exe\u2066\u200b\ufeff": "safe gpj.exe",
    '$(touch /tmp/x); rm -rf ~ | "`id`"': '$(touch /tmp/x); rm -rf ~ | "`id`"',
    "x" * 10_000: "x" * 500,
    "smile \U0001f600 \ud800 \udcff": "smile \U0001f600 ? ?",
    " \u2028\u2029\x85 ": None,
}


@pytest.mark.parametrize(("title", "kept"), NASTY.items())
def test_text_of_a_page_is_one_harmless_line(title: str, kept: str | None) -> None:
    assert clean_text(title) == kept


def test_the_beginning_of_a_pages_description_is_kept_as_one_harmless_line(session: Session, site: Site) -> None:
    linked = {"@context": "https://schema.org", "@type": "VideoObject", "name": "a song", "duration": "PT40S"}
    linked |= {"contentUrl": at(site, "/a.mp4", sends(b"media"))}
    linked |= {"description": "In this\nvideo \x1b[31m" + "x" * 10_000}
    script = f'<script type="application/ld+json">{json.dumps(linked)}</script>'
    page = f"<!doctype html><html><head><title>a</title>{script}</head><body></body></html>"
    found = session.resolve(at(site, "/described", sends(page, "text/html")), "both")
    assert found.description == "In this video [31m" + "x" * (1000 - len("In this video [31m"))
    assert found.categories == ()


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (["Music", "a\x00b\n", "", None, 7], ("Music", "a b", "7")),
        (["x"] * 500, ("x",) * 20),
        ("Music", ()),
        ({"Music": 1}, ()),
        (None, ()),
    ],
)
def test_categories_are_a_few_harmless_words_whatever_a_page_tells(told: object, kept: tuple[str, ...]) -> None:
    assert _words(told) == kept


@pytest.mark.parametrize("words", ["../../x", "a\x1b[31mb\nc", "x" * 10_000])
def test_what_a_site_says_is_no_more_than_a_line_in_a_verdict(
    session: Session, site: Site, tmp_path: Path, words: str
) -> None:
    """In a link, a playlist and an answer's status line."""
    name = quote(words, safe="/.")
    assert ends(session, f"{site.url}/{name}", tmp_path)[0] == "unavailable"
    ends(session, at(site, "/list.mp4", sends(playlist(f"file:{words}"))), tmp_path)

    def told(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(404, words.replace("\n", " ")[:5000])
        handler.end_headers()

    assert ends(session, at(site, "/told", told), tmp_path)[0] == "unavailable"
