"""The one door to the network: a loopback proxy that checks every address and counts every byte.

All fetching goes through it, in three ways: ``CONNECT`` (a tunnel), an absolute ``http://`` address (forwarded), and,
for ffmpeg, a relay: ``http://host.443.https.relay.invalid/path`` is answered with what ``open_url`` makes of
``https://host/path``. So cookies and headers stay out of ffmpeg's command line, and ffmpeg needs no TLS.
Nothing here writes an address, a header or the secret to a log.
"""

from __future__ import annotations

import hmac
import math
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import SplitResult, quote, urlsplit

from pipeline.addresses import NoWayError, RefusedError, Way, basic_auth
from pipeline.relay import PIECE_BYTES, RELAY_DOMAIN, Answer, OpenUrl, note_error, real_url, relay_url, reply

# Of a file left in its middle, little more is pulled than was read.
SITE_BUFFER_BYTES = 1 << 17  # of a socket to a site: as much as is under way on a long road
CLIENT_BUFFER_BYTES = 1 << 14  # to a client on loopback
HEAD_TIMEOUT_S = 10.0  # for a client to say what it wants
CONNECT_TIMEOUT_S = 15.0  # an address
LEAVE_S = 5.0  # for the threads of a budget to end when it is left

_HOP_BY_HOP = {"connection", "host", "keep-alive", "te", "trailer", "upgrade"}  # beside those named proxy-...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """For all that is fetched under one budget."""

    max_bytes: int
    max_s: float

    def __post_init__(self) -> None:
        if self.max_bytes <= 0 or self.max_s <= 0:
            raise ValueError("limits must be above 0")


@dataclass(kw_only=True)
class Budget:
    """What was fetched, and what came in the way."""

    limits: Limits
    num_bytes: int = 0
    """Received from the sites."""
    exceeded: Literal["bytes", "time"] | None = None
    refused: list[str] = field(default_factory=list)
    """A line for each address, port or scheme that was refused."""
    unreachable: list[str] = field(default_factory=list)
    """A line for each time that no connection could be made: to a site, or to the user's own proxy on the way there."""
    answers: list[Answer] = field(default_factory=list)
    """One for each relayed request."""
    last_failure: Exception | None = None
    """Of what yt-dlp asked for itself, and may have passed over, in hope to do without."""


class _UnservedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class CheckingProxy:
    """A proxy on 127.0.0.1 for as long as it is entered; it serves whoever knows its secret, while a budget is open.

    Parameters
    ----------
    allow_private
        Serve sites on this machine and in its network, on any port: for tests and demos.
    upstream
        The user's own proxy, ``http://[user:password@]host[:port]``. Names that do not resolve here are left to it.
    open_url
        What the relay asks; it may be set later.

    Raises
    ------
    ValueError
        If ``upstream`` is no http proxy.
    """

    url: str
    """``http://crawl:<secret>@127.0.0.1:<port>``, once entered."""

    def __init__(
        self, *, allow_private: bool = False, upstream: str | None = None, open_url: OpenUrl | None = None
    ) -> None:
        self.open_url = open_url
        self._way = Way(allow_private=allow_private, upstream=upstream)
        self._secret = secrets.token_urlsafe(24)
        self._authorization = basic_auth("crawl", self._secret)
        self._budget: Budget | None = None
        self._sockets: set[socket.socket] = set()
        self._changed = threading.Condition()

    relay_url = staticmethod(relay_url)

    def __repr__(self) -> str:
        return "<CheckingProxy>"

    def __enter__(self) -> CheckingProxy:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._server.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, CLIENT_BUFFER_BYTES
        )  # accepted ones inherit it
        self.url = f"http://crawl:{self._secret}@127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._close_all()

    @contextmanager
    def budget(self, limits: Limits) -> Iterator[Budget]:
        """Let requests through; when a limit is exceeded or the budget is left, every connection is closed.

        Raises
        ------
        RuntimeError
            If another is open.
        """
        budget = Budget(limits=limits)
        with self._changed:
            if self._budget is not None:
                raise RuntimeError("one budget at a time")
            self._budget = budget
        timer = threading.Timer(limits.max_s, self._exceed, (budget, "time"))
        timer.daemon = True
        timer.start()
        try:
            yield budget
        finally:
            timer.cancel()
            with self._changed:
                self._budget = None
            self._close_all()
            with self._changed:  # what open_url uses may be closed next
                self._changed.wait_for(lambda: not self._sockets, LEAVE_S)

    def _count(self, budget: Budget, num_bytes: int) -> bool:
        """Add bytes that came from a site; False if they are too many."""
        with self._changed:
            budget.num_bytes += num_bytes
        if budget.num_bytes > budget.limits.max_bytes:
            self._exceed(budget, "bytes")
        return budget.exceeded is None

    def _current(self, authorization: str | None) -> Budget:
        """The budget that a request goes to, if it may be served."""
        if not hmac.compare_digest((authorization or "").encode(), self._authorization.encode()):
            raise _UnservedError(407, "this proxy is not for you")
        with self._changed:
            if self._budget is None:
                raise _UnservedError(403, "nothing is to be fetched now")
            return self._budget

    @contextmanager
    def _tracked(self, connection: socket.socket, budget: Budget) -> Iterator[None]:
        """Have a connection closed when its budget ends."""
        with self._changed:
            self._require(budget)
            self._sockets.add(connection)
        try:
            yield
        finally:
            with self._changed:
                self._sockets.discard(connection)
                self._changed.notify_all()

    def _require(self, budget: Budget) -> None:
        if self._budget is not budget or budget.exceeded:
            raise _UnservedError(403, "what may be fetched has been fetched")

    def _exceed(self, budget: Budget, limit: Literal["bytes", "time"]) -> None:
        with self._changed:
            if self._budget is budget and budget.exceeded is None:
                budget.exceeded = limit
                self._close_all()

    def _close_all(self) -> None:
        with self._changed:
            for connection in self._sockets:
                _shut(connection, socket.SHUT_RDWR)

    @contextmanager
    def _connected(
        self, host: str, port: int, budget: Budget, *, tunnel: bool
    ) -> Iterator[tuple[socket.socket, str | None]]:
        """Connect to a site, or to the upstream proxy in its stead, and give what that wants in a request's head.

        A name is resolved once, and the addresses that were checked are those connected to.
        """
        reason = "it has no address"
        for family, address in self._way.addresses(host, port):
            with socket.socket(family) as site, self._tracked(site, budget):
                site.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SITE_BUFFER_BYTES)
                site.settimeout(CONNECT_TIMEOUT_S)
                try:
                    extra = self._way.connect(site, address, host, port, tunnel=tunnel)
                except OSError as error:
                    reason = error.strerror or str(error) or type(error).__name__
                    continue
                self._require(budget)  # it may have ended before there was a connection to close
                site.settimeout(None)  # from here the budget bounds it
                yield site, extra
                return
        self._require(budget)  # its end cuts connecting off too
        raise NoWayError(f"cannot connect to {host}: {reason}")


_HEAD_END = b"\r\n\r\n"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64
    proxy: CheckingProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is no news, and nothing is written anywhere."""


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = HEAD_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """Nothing is logged."""

    def handle_expect_100(self) -> bool:
        """The site says it."""
        return True

    def do_GET(self) -> None:
        """Serve a request of any method."""
        self.close_connection = True
        proxy = self.server.proxy
        try:
            budget = proxy._current(self.headers.get("Proxy-Authorization"))
            with proxy._tracked(self.connection, budget):
                self.connection.settimeout(None)
                self._serve(budget)
        except _UnservedError as error:
            self._say_no(error)
        except OSError:
            pass  # the client has gone
        except Exception as error:
            self._say_no(_UnservedError(500, f"the proxy failed: {type(error).__name__}"))
            raise

    do_CONNECT = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def _serve(self, budget: Budget) -> None:
        parts = _split(f"//{self.path}" if self.command == "CONNECT" else self.path)
        try:
            if self.command == "CONNECT":
                self._tunnel(parts, budget)
            elif (parts.hostname or "").endswith(f".{RELAY_DOMAIN}"):
                self._relay(budget)
            else:
                self._forward(parts, budget)
        except RefusedError as error:
            budget.refused.append(str(error))
            raise _UnservedError(403, str(error)) from error
        except NoWayError as error:
            budget.unreachable.append(str(error))
            raise _UnservedError(502, str(error)) from error

    def _say_no(self, error: _UnservedError) -> None:
        text = f"{error}\n".encode()
        self.send_response_only(error.status)
        if error.status == 407:
            self.send_header("Proxy-Authenticate", 'Basic realm="crawl"')  # ffmpeg wants to be asked
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text if self.command != "HEAD" else b"")
        _shut(self.connection, socket.SHUT_WR)
        self.connection.settimeout(HEAD_TIMEOUT_S)
        while self.rfile.read1(PIECE_BYTES):  # closed with a body unread, it would lose the answer
            pass

    def _tunnel(self, parts: SplitResult, budget: Budget) -> None:
        port = 443 if parts.port is None else parts.port
        with self.server.proxy._connected(parts.hostname or "", port, budget, tunnel=True) as (site, _):
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self._pass(site, budget, math.inf)

    def _forward(self, parts: SplitResult, budget: Budget) -> None:
        if parts.scheme != "http":
            raise RefusedError(f"{parts.scheme or 'no scheme'}: is not http")
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            raise _UnservedError(411, "a request's body must have a length")
        host, port = parts.hostname or "", 80 if parts.port is None else parts.port
        netloc = parts.netloc.rpartition("@")[2]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        left_out = _HOP_BY_HOP | {name.strip().lower() for name in self.headers.get("Connection", "").split(",")}
        kept = "".join(
            f"{name}: {value}\r\n"
            for name, value in self.headers.items()
            if name.lower() not in left_out and not name.lower().startswith("proxy-")
        )
        with self.server.proxy._connected(host, port, budget, tunnel=False) as (site, extra):
            target = f"http://{netloc}{path}" if extra is not None else path
            head = f"{self.command} {target} HTTP/1.1\r\nHost: {netloc}\r\n{kept}{extra or ''}Connection: close\r\n\r\n"
            site.sendall(head.encode("latin-1"))
            self._pass(site, budget, int(length), saying=_say_close)

    def _pass(
        self, site: socket.socket, budget: Budget, left_bytes: float, *, saying: Callable[[bytes], bytes] | None = None
    ) -> None:
        """Pass on what the client sends, so many bytes of it, and all that the site sends, until the client goes.

        ``saying`` changes the head of the site's answer.
        """
        down = threading.Thread(target=self._pass_down, args=(site, budget, saying), daemon=True)
        down.start()
        with suppress(OSError):
            while left_bytes and (piece := self.rfile.read1(int(min(PIECE_BYTES, left_bytes)))):
                left_bytes -= len(piece)
                with suppress(OSError):  # a site that does not listen may still have something to say
                    site.sendall(piece)
            self.rfile.read1(1)  # until it goes: a second request is not served
        _shut(site, socket.SHUT_RDWR)
        down.join()

    def _pass_down(self, site: socket.socket, budget: Budget, saying: Callable[[bytes], bytes] | None) -> None:
        head = b""
        with suppress(OSError):
            while (piece := site.recv(PIECE_BYTES)) and self.server.proxy._count(budget, len(piece)):
                if saying is not None:
                    head += piece
                    if _HEAD_END not in head and len(head) < PIECE_BYTES:
                        continue
                    piece, saying = saying(head), None
                self.connection.sendall(piece)
            if saying is not None and head:  # cut off in its head
                self.connection.sendall(head)
        _shut(self.connection, socket.SHUT_WR)

    def _relay(self, budget: Budget) -> None:
        proxy = self.server.proxy
        try:
            url = real_url(quote(self.path.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]", encoding="latin-1"))
            host = urlsplit(url).hostname or ""
        except (KeyError, ValueError) as error:
            raise _UnservedError(400, "no relayed address") from error
        if self.command != "GET" or proxy.open_url is None:
            raise _UnservedError(405, "the relay gets, and does no more")
        asked = {"Accept-Encoding": "identity"}  # so that lengths are those of what is read
        if "Range" in self.headers:
            asked["Range"] = self.headers["Range"]
        answer = Answer(host=host)
        budget.answers.append(answer)
        try:
            response = proxy.open_url(url, asked)
        except Exception as error:  # whatever it is, the caller finds it in the budget
            note_error(error, answer)
            status = answer.status or 502
            raise _UnservedError(status if 400 <= status <= 599 and status != 407 else 502, "not given") from error
        with closing(response):
            answer.status = response.status
            try:
                status, headers, pieces = reply(response, url, answer, self._is_alone)
            except ConnectionError as error:
                raise _UnservedError(502, str(error)) from error
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)

    def _is_alone(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def _say_close(answer: bytes) -> bytes:
    """Tell the client of a forwarded answer that its connection ends: a site that ends one need not say so."""
    head, end, rest = answer.partition(_HEAD_END)
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([*kept, b"Connection: close"]) + end + rest if end else answer


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # closed already
        connection.shutdown(how)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _UnservedError(400, "no address") from error
    return parts
