"""The one door to the network: a loopback proxy that checks every address and counts every byte.

All fetching goes through it, in three ways: ``CONNECT`` (a tunnel), an absolute ``http://`` address (forwarded), and,
for ffmpeg, a relay: ``http://host.443.https.relay.invalid/path`` is answered with what ``open_url`` makes of
``https://host/path``. So cookies and headers stay out of ffmpeg's command line, and ffmpeg needs no TLS.
Nothing here writes an address, a header or the secret to a log.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import math
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Literal, Protocol
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

BUFFER_BYTES = 1 << 17  # a socket's, either way: of a file left in its middle, little more is pulled than was read
PIECE_BYTES = 1 << 16
MAX_PLAYLIST_BYTES = 4_000_000
HEAD_TIMEOUT_S = 10.0  # for a client to say what it wants
CONNECT_TIMEOUT_S = 15.0  # an address
LEAVE_S = 5.0  # for the threads of a budget to end when it is left
PLAYLIST_START = b"#EXTM3U"
RELAY_DOMAIN = "relay.invalid"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOP_BY_HOP = {"connection", "host", "keep-alive", "te", "trailer", "upgrade"}  # beside those named proxy-...
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV6_SITES = ipaddress.ip_network("2000::/3")
_NO_SITES = [
    ipaddress.ip_network(network)
    for network in (
        *("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3"),  # protocol assignments, 6to4 relays, multicast and reserved
        "168.63.129.16/32",  # Azure's host, to its guests
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and assignments, examples, 6to4, examples
    )
]
_ATTRIBUTE = re.compile(r'([^=:,\s]+)=("(?:\\.|[^"\\])*"|[^,\s]*)')  # as ffmpeg reads them: value quoted or not
_SCHEME = re.compile(r"([A-Za-z0-9+.-]*):|subfile,")  # ffmpeg's idea of one


class Response(Protocol):
    """What ``open_url`` gives, as yt-dlp and urllib do; ``url`` is the one that redirects led to."""

    status: int
    url: str
    headers: Mapping[str, str]

    def read(self, amount: int, /) -> bytes:
        """Give so many bytes of the body, or fewer; none at its end."""

    def close(self) -> None:
        """End the connection."""


OpenUrl = Callable[[str, dict[str, str]], Response]
"""GET an address, with these headers beside the caller's own, through this proxy; called by several threads at once.

An HTTP error is an exception with a ``status``; it may have ``headers``, or a ``response`` that has them."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """For all that is fetched under one budget."""

    max_bytes: int
    max_s: float

    def __post_init__(self) -> None:
        if self.max_bytes <= 0 or self.max_s <= 0:
            raise ValueError("limits must be above 0")


@dataclass(kw_only=True)
class Answer:
    """What a site said to one relayed request."""

    host: str
    status: int | None = None
    """None if it said nothing."""
    retry_after: str | None = None
    error: Exception | None = None
    """What ``open_url`` or reading raised; ``ConnectionError`` where the body ended early."""


@dataclass(kw_only=True)
class Budget:
    """What was fetched, and what came in the way."""

    limits: Limits
    num_bytes: int = 0
    """Received from the sites."""
    exceeded: Literal["bytes", "time"] | None = None
    refused: list[str] = field(default_factory=list)
    """A line for each address, port or scheme that was refused."""
    answers: list[Answer] = field(default_factory=list)
    """One for each relayed request."""


class _UnservedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def is_public(address: str) -> bool:
    """Whether an IP address is one at which a web site can be; those wrapped in IPv6 are unwrapped."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _IPV6_SITES or ip.scope_id:
            return False
    return ip.is_global and not any(ip in network for network in _NO_SITES)


def relay_url(url: str) -> str:
    """Where ffmpeg finds an http(s) address: the path is kept, so that relative references lead to the right place.

    Raises
    ------
    ValueError
        If it is of another scheme, or holds a password: that belongs in the headers that ``open_url`` sends.
    """
    parts = urlsplit(url)
    host, scheme = parts.hostname or "", parts.scheme
    if scheme not in _DEFAULT_PORTS or not host or "@" in parts.netloc or "%" in host:
        raise ValueError("only plain http(s) addresses can be relayed")
    if ":" in host:
        host, scheme = host.replace(":", "-"), f"{scheme}6"
    port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    name = f"{host.encode('idna').decode()}.{port}.{scheme}.{RELAY_DOMAIN}"
    return parts._replace(scheme="http", netloc=name).geturl()


def real_url(url: str) -> str:
    """Undo ``relay_url``, but for the host's case and the default port, which is left out."""
    parts = urlsplit(url)
    host, port, scheme = (parts.hostname or "").removesuffix(f".{RELAY_DOMAIN}").rsplit(".", 2)
    if scheme.endswith("6"):
        host, scheme = f"[{host.replace('-', ':')}]", scheme.removesuffix("6")
    netloc = host if int(port) == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    return parts._replace(scheme=scheme, netloc=netloc).geturl()


def relay_playlist(text: str, url: str, *, moved: bool = False) -> str:
    """Lead absolute addresses in an HLS playlist at ``url`` through the relay; relative ones too if it has moved there.

    Raises
    ------
    ValueError
        If it leads anywhere but to http(s), in one line.
    """

    def lead(uri: str) -> str:
        scheme = _SCHEME.match(uri)
        if "\\" in uri or (scheme and (scheme[1] or "").lower() not in _DEFAULT_PORTS):
            raise ValueError(f"a playlist leads to {(scheme[1] if scheme else None) or 'an odd address'}:")
        return relay_url(urljoin(url, uri)) if moved or scheme or uri.startswith("//") else uri

    def attribute(match: re.Match[str]) -> str:
        uri = match[2].strip('" ')
        return f'{match[1]}="{lead(uri)}"' if match[1].upper() == "URI" else match[0]

    lines = (line.strip() for line in re.split(r"\r\n|[\r\n\0]", text))  # where ffmpeg ends a line
    return "\n".join(_ATTRIBUTE.sub(attribute, line) if line[:1] in ("", "#") else lead(line) for line in lines)


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
        self._allow_private = allow_private
        self._upstream = _parse_upstream(upstream) if upstream else None
        self._secret = secrets.token_urlsafe(24)
        self._authorization = _basic("crawl", self._secret)
        self._budget: Budget | None = None
        self._sockets: set[socket.socket] = set()
        self._changed = threading.Condition()

    relay_url = staticmethod(relay_url)

    def __repr__(self) -> str:
        return "<CheckingProxy>"

    def __enter__(self) -> CheckingProxy:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)  # accepted ones inherit it
        self.url = f"http://crawl:{self._secret}@127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        addresses = self._checked(host, port, budget)
        if self._upstream:
            try:
                addresses = _resolve(self._upstream.hostname or "", self._upstream.port or 80)
            except (OSError, ValueError) as error:
                raise _UnservedError(502, "cannot resolve the name of the proxy in use") from error
        reason = "it has no address"
        for family, address in addresses:
            with socket.socket(family) as site, self._tracked(site, budget):
                site.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
                site.settimeout(CONNECT_TIMEOUT_S)
                try:
                    site.connect(address)
                    if not (self._allow_private or self._upstream) and site.getpeername()[0] == site.getsockname()[0]:
                        raise self._refusal(budget, f"{host} is this machine")
                    extra = self._greet(site, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tunnel=tunnel)
                except OSError as error:
                    reason = error.strerror or str(error) or type(error).__name__
                    continue
                self._require(budget)  # it may have ended before there was a connection to close
                site.settimeout(None)  # from here the budget bounds it
                yield site, extra
                return
        raise _UnservedError(502, f"cannot connect to {host}: {reason}")

    def _checked(self, host: str, port: int, budget: Budget) -> list[tuple[int, tuple[str, int]]]:
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", host):
            raise self._refusal(budget, "the host's name is none")
        if not self._allow_private and port not in (80, 443) and not 1024 <= port <= 65535:
            # Sites are on these or, unprivileged, above; nobody is to speak to mail and login servers from here.
            raise self._refusal(budget, f"{host} at port {port} is no web site")
        try:
            addresses = _resolve(host, port)
        except (OSError, ValueError) as error:
            if self._upstream:
                return []
            raise _UnservedError(502, f"cannot resolve {host}: {error}") from error
        for _, (address, *_rest) in addresses:
            if not self._allow_private and not is_public(address):
                known_as = "" if host == address else f" ({host})"
                raise self._refusal(budget, f"{address}{known_as} is a private address")
        return addresses

    def _greet(self, site: socket.socket, target: str, *, tunnel: bool) -> str | None:
        """Ask the upstream proxy, if there is one, for a tunnel; return its share of a forwarded request's head."""
        if self._upstream is None:
            return None
        extra = ""
        if self._upstream.username is not None:
            user, password = unquote(self._upstream.username), unquote(self._upstream.password or "")
            extra = f"Proxy-Authorization: {_basic(user, password)}\r\n"
        if tunnel:
            site.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{extra}\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n") and len(head) < PIECE_BYTES and (byte := site.recv(1)):
                head += byte  # one by one: what follows is the tunnel's
            if not re.match(rb"HTTP/1\.\d 2\d\d", head):
                raise ConnectionError(f"the proxy in use answered {head[9:12].decode(errors='replace') or 'nothing'}")
        return extra

    @staticmethod
    def _refusal(budget: Budget, text: str) -> _UnservedError:
        budget.refused.append(text)
        return _UnservedError(403, text)


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

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
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
                parts = _split(f"//{self.path}" if self.command == "CONNECT" else self.path)
                if self.command == "CONNECT":
                    self._tunnel(parts, budget)
                elif (parts.hostname or "").endswith(f".{RELAY_DOMAIN}"):
                    self._relay(budget)
                else:
                    self._forward(parts, budget)
        except _UnservedError as error:
            self._say_no(error)
        except OSError:
            pass  # the client has gone
        except Exception as error:
            self._say_no(_UnservedError(500, f"the proxy failed: {type(error).__name__}"))
            raise

    do_CONNECT = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

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
            budget.refused.append(f"{parts.scheme or 'no scheme'}: is not http")
            raise _UnservedError(403, "only http and tunnels are served")
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
            self._pass(site, budget, int(length))

    def _pass(self, site: socket.socket, budget: Budget, left_bytes: float) -> None:
        """Pass on what the client sends, so many bytes of it, and all that the site sends, until the client goes."""
        down = threading.Thread(target=self._pass_down, args=(site, budget), daemon=True)
        down.start()
        with suppress(OSError):
            while left_bytes and (piece := self.rfile.read1(int(min(PIECE_BYTES, left_bytes)))):
                left_bytes -= len(piece)
                with suppress(OSError):  # a site that does not listen may still have something to say
                    site.sendall(piece)
            self.rfile.read1(1)  # until it goes: a second request is not served
        _shut(site, socket.SHUT_RDWR)
        down.join()

    def _pass_down(self, site: socket.socket, budget: Budget) -> None:
        with suppress(OSError):
            while (piece := site.recv(PIECE_BYTES)) and self.server.proxy._count(budget, len(piece)):
                self.connection.sendall(piece)
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
            answer.error = error
            _read_error(error, answer)
            status = answer.status or 502
            raise _UnservedError(status if 400 <= status <= 599 and status != 407 else 502, "not given") from error
        with closing(response):
            answer.status = response.status
            self._answer(response, url, answer, budget)

    def _answer(self, response: Response, url: str, answer: Answer, budget: Budget) -> None:
        names = ["Content-Type", "Accept-Ranges", "Content-Range", "Content-Length"]
        headers = {name: response.headers[name] for name in names if response.headers.get(name)}
        if response.headers.get("Content-Encoding", "identity") != "identity":
            headers.pop("Content-Length", None)
        length = headers.get("Content-Length", "")
        pieces = self._pieces(response, answer, int(length) if length.isdecimal() else None)
        start = b""
        while len(start) < len(PLAYLIST_START) and (piece := next(pieces, b"")):
            start += piece
        status = response.status
        if start.startswith(PLAYLIST_START):
            text = bytearray(start)
            for piece in pieces:
                text += piece
                if len(text) > MAX_PLAYLIST_BYTES:
                    raise _UnservedError(502, "the playlist is too long")
            if answer.error:
                raise _UnservedError(502, "the playlist is cut short")
            try:
                found = text.decode(errors="surrogateescape")
                found = relay_playlist(found, response.url, moved=response.url != url)
                start = found.encode(errors="surrogateescape")
            except ValueError as error:
                budget.refused.append(str(error))
                raise _UnservedError(403, str(error)) from error
            headers, status = {"Content-Type": "application/vnd.apple.mpegurl", "Content-Length": str(len(start))}, 200
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(start)
        for piece in pieces:
            self.wfile.write(piece)

    def _pieces(self, response: Response, answer: Answer, length: int | None) -> Iterator[bytes]:
        """Pieces of a body until it ends or the client has gone; ``answer`` is told of a bad end."""
        num_bytes = 0
        while not self._is_alone():
            try:
                piece = response.read(PIECE_BYTES)
            except Exception as error:  # as above
                answer.error = error
                return
            if not piece:
                if length is not None and num_bytes < length:
                    answer.error = ConnectionError(f"ended early: {num_bytes} of {length} bytes")
                return
            num_bytes += len(piece)
            yield piece

    def _is_alone(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # closed already
        connection.shutdown(how)


def _resolve(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _parse_upstream(upstream: str) -> SplitResult:
    parts = urlsplit(upstream if "://" in upstream else f"http://{upstream}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the proxy must be http://[user:password@]host[:port]; {parts.scheme}:// is not served")
    return parts


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _UnservedError(400, "no address") from error
    return parts


def _read_error(error: Exception, answer: Answer) -> None:
    status = getattr(error, "status", None)
    answer.status = status if isinstance(status, int) else None
    headers = getattr(getattr(error, "response", error), "headers", None)
    answer.retry_after = headers.get("Retry-After") if isinstance(headers, Mapping | Message) else None
    with suppress(Exception):
        error.close()  # type: ignore[attr-defined]  # the answer that came with it
