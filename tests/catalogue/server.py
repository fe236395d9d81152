"""How the catalogue answers: its HTTP server, a thread a connection."""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.catalogue.bodies import HLS, MASTER, MP4, STREAM_TYPES, TYPES, Body, Text, Zeros, media_body
from tests.catalogue.pages import list_html, listing, watch_html
from tests.catalogue.videos import STATUS_FAULTS, WORD_FAULTS, Video

if TYPE_CHECKING:
    from tests.catalogue.site import Catalogue

RETRY_AFTER_S = 2
TRICKLE_EVERY_S = 0.2
CHUNK_BYTES = 16_384
SEND_BUFFER_BYTES = 32_768
"""The kernel's share of what counts as served: small, or megabytes would count that nobody read."""

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(kw_only=True)
class Request:
    """A request as it came, and what became of it."""

    at_s: float  # time.monotonic(), which all processes of a Linux machine share
    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    room: str  # search, watch, page, playlist, channel, media or nothing
    video: str | None
    status: int | None = None
    sent_bytes: int = 0  # of the body
    ended_s: float | None = None


class Server(ThreadingHTTPServer):
    """Threads that end when the site closes, whatever they wait for."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.connections: set[socket.socket] = set()
        self.threads: set[threading.Thread] = set()
        self.lock = threading.Lock()
        super().__init__(address, Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self.connections.add(request)
            self.threads.add(threading.current_thread())
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.lock:
                self.connections.discard(request)
                self.threads.discard(threading.current_thread())

    def server_close(self) -> None:
        super().server_close()
        with self.lock:
            threads = list(self.threads)
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # gone already
        for thread in threads:
            thread.join(timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):  # clients go away as they like
            self.catalogue.broke(error)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    request_record: Request
    rooms: ClassVar = ("search", "watch", "page", "playlist", "channel", "media")

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """Stay silent."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        site = self.server.catalogue
        parts = urlsplit(self.path)
        room, _, rest = parts.path.removeprefix("/").partition("/")
        room = room if room in self.rooms else ""
        video_id = None
        if room in ("watch", "page"):
            video_id = rest
        elif room == "media" and (m := HLS.fullmatch(rest) or MASTER.fullmatch(rest) or MP4.fullmatch(rest)):
            video_id = m["id"]
        self.request_record = Request(
            at_s=time.monotonic(),
            method=self.command,
            path=parts.path,
            query=parts.query,
            headers={name.lower(): value for name, value in self.headers.items()},
            room=room,
            video=video_id,
        )
        site.begin(self.request_record)
        try:
            if site.storms_on(room):
                self.refuse(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(RETRY_AFTER_S)})
            elif room in site.guarded and not self.has_cookie(site.cookie):
                self.refuse(HTTPStatus.FORBIDDEN)
            elif room == "search":
                self.give(Text(json.dumps(self.found(parse_qs(parts.query))).encode()), "application/json")
            elif room in site.lists:
                self.give_list(room, rest)
            elif video_id is None or video_id not in site.videos:
                self.refuse(HTTPStatus.NOT_FOUND)
            else:
                self.give_video(site.videos[video_id], room, rest)
        finally:
            self.request_record.ended_s = time.monotonic()

    # What there is.

    def found(self, query: Mapping[str, Sequence[str]]) -> dict[str, object]:
        site = self.server.catalogue
        ids = site.searches.get(query.get("q", [""])[0], [])
        page = int(query.get("page", ["1"])[0])
        first = (page - 1) * site.page_size
        results = [listing(site.videos[i]) for i in ids[first : first + site.page_size]]
        return {"page": page, "more": first + site.page_size < len(ids), "results": results}

    def give_list(self, kind: str, name: str) -> None:
        site = self.server.catalogue
        name = unquote(name)
        if name not in site.lists[kind]:
            self.refuse(HTTPStatus.NOT_FOUND)
            return
        self.give(Text(list_html(name, [site.videos[i] for i in site.lists[kind][name]]).encode()), "text/html")

    def give_video(self, video: Video, room: str, rest: str) -> None:
        fault = video.fault_of("media" if room == "media" else "page")
        if fault == "flaky":
            fault = "broken" if self.server.catalogue.fails_again(video) else None
        if fault in STATUS_FAULTS:
            self.refuse(STATUS_FAULTS[fault])
        elif fault == "redirect":
            self.refuse(HTTPStatus.FOUND, {"Location": video.redirect_to})
        elif fault == "never":
            self.hold()
        elif room != "media":
            page = Zeros() if fault == "huge" else Text(watch_html(video, WORD_FAULTS.get(fault or "")).encode())
            self.give(page, "text/html; charset=utf-8", fault=fault, cut_at=video.cut_at)
        elif (body := media_body(video, rest, fault)) is None:
            self.refuse(HTTPStatus.NOT_FOUND)
        else:
            kind = TYPES[Path(rest).suffix]
            self.give(body, kind, fault=fault if kind in STREAM_TYPES else None, cut_at=video.cut_at)

    def has_cookie(self, cookie: str | None) -> bool:
        sent = [pair.strip() for pair in self.headers.get("Cookie", "").split(";")]
        return cookie is None or cookie in sent

    # How it is told.

    def head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.request_record.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def refuse(self, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        """Answer with a status alone."""
        text = f"<html><head><title>{status} {status.phrase}</title></head></html>".encode()
        self.head(status, {"Content-Type": "text/html", "Content-Length": str(len(text)), **(headers or {})})
        if self.command != "HEAD":
            self.send(text)

    def give(self, body: Body, kind: str, *, fault: str | None = None, cut_at: float | None = None) -> None:
        """Send a body, or the range of it asked for, as its fault allows."""
        headers = {"Content-Type": kind}
        first, last, status = 0, body.size - 1, HTTPStatus.OK
        if fault != "huge" and not kind.startswith("text/"):
            headers["Accept-Ranges"] = "bytes"
            if wanted := _RANGE.fullmatch(self.headers.get("Range", "")):
                first = int(wanted[1])
                last = min(int(wanted[2] or last), last)
                if first > last:
                    range_header = {"Content-Range": f"bytes */{body.size}"}
                    self.refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, range_header)
                    return
                status = HTTPStatus.PARTIAL_CONTENT
                headers["Content-Range"] = f"bytes {first}-{last}/{body.size}"
        self.head(status, {**headers, "Content-Length": str(last - first + 1)})
        if self.command == "HEAD":
            return
        if fault == "slow":
            self.trickle(body, first, last)
            return
        broken_off = fault in ("truncated", "reset")
        end = min(last + 1, int(body.size * (cut_at or 1 / 8))) if broken_off else last + 1
        while first < end and not self.server.catalogue.closing.is_set():
            first += self.send(body.read(first, min(CHUNK_BYTES, end - first)))
        if broken_off and end <= last:
            self.close_connection = True
            if fault == "reset":  # what is under way arrives; then closing with a linger time of zero sends a reset
                self.server.catalogue.closing.wait(TRICKLE_EVERY_S)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def send(self, chunk: bytes) -> int:
        """Write a piece of a body and count it as far as it went."""
        view = memoryview(chunk)
        while view:
            sent = self.connection.send(view)
            self.request_record.sent_bytes += sent
            view = view[sent:]
        return len(chunk)

    def trickle(self, body: Body, first: int, last: int) -> None:
        while first <= last and not self.left(TRICKLE_EVERY_S):
            first += self.send(body.read(first, 1))
        self.close_connection = True

    def hold(self) -> None:
        """Never answer."""
        while not self.left(TRICKLE_EVERY_S):
            pass
        self.close_connection = True

    def left(self, seconds: float) -> bool:
        """Wait, and tell whether the client went away or the site closes."""
        if self.server.catalogue.closing.wait(seconds):
            return True
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
