"""The proxy, on loopback: what it serves, what it refuses, and where it stops."""

from __future__ import annotations

import http.client
import os
import queue
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from pipeline import addresses, relay
from pipeline import proxy as proxy_module
from pipeline.media import ffmpeg_exe
from pipeline.proxy import SITE_BUFFER_BYTES, Budget, CheckingProxy, Limits
from pipeline.relay import PIECE_BYTES, relay_url
from tests.waiting import PATIENCE_S, wait_until

PLENTY = Limits(max_bytes=100_000_000, max_s=60)
Page = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A web site whose pages are functions; it keeps the headers of each request."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.folder: Path | None = None
        self.sent = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                site.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                path = unquote(self.path.partition("?")[0])
                with suppress(ConnectionError):
                    if path in site.pages:
                        site.pages[path](self)
                    elif site.folder and (site.folder / path[1:]).is_file():
                        site._send_file(self, (site.folder / path[1:]).read_bytes())
                    else:
                        self.send_error(404)

            do_POST = do_HEAD = do_GET

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def _send_file(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        first = 0
        if wanted := handler.headers.get("Range"):
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Length", str(len(data) - first))
        handler.end_headers()
        for start in range(first, len(data), 1 << 14):
            handler.wfile.write(data[start : start + (1 << 14)])
            self.sent += len(data[start : start + (1 << 14)])


def text(words: str, status: int = 200, **headers: str) -> Page:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(words)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(words.encode())

    return page


@pytest.fixture(autouse=True)
def no_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine's: urllib and ffmpeg would go past the proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Site, CheckingProxy, CheckingProxy]]:
    """For all tests: a server takes a moment to stop."""
    site = Site()
    with CheckingProxy(allow_private=True) as proxy, CheckingProxy() as strict:
        yield site, proxy, strict
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def site(servers: tuple[Site, CheckingProxy, CheckingProxy]) -> Site:
    site = servers[0]
    site.pages, site.seen, site.folder = {"/hello": text("hello")}, [], None
    return site


@pytest.fixture
def proxy(servers: tuple[Site, CheckingProxy, CheckingProxy]) -> CheckingProxy:
    servers[1].open_url = opener(servers[1])
    return servers[1]


@pytest.fixture
def strict(servers: tuple[Site, CheckingProxy, CheckingProxy]) -> CheckingProxy:
    """One that serves no private address."""
    servers[2].open_url = opener(servers[2])
    return servers[2]


def opener(proxy: CheckingProxy, **own: str) -> Callable[[str, dict[str, str]], Any]:
    through = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.url, "https": proxy.url}))

    def open_url(url: str, headers: dict[str, str]) -> Any:
        return through.open(urllib.request.Request(url, headers={**own, **headers}))

    return open_url


def get(proxy: CheckingProxy, url: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of what an ordinary client gets through the proxy."""
    try:
        with opener(proxy)(url, headers) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@contextmanager
def tunnel(proxy: CheckingProxy, port: int, host: str = "127.0.0.1") -> Iterator[http.client.HTTPConnection]:
    told = urlsplit(proxy.url)
    connection = http.client.HTTPConnection("127.0.0.1", told.port)
    connection.set_tunnel(host, port, {"Proxy-Authorization": proxy._authorization})
    with closing(connection):
        yield connection


# --- plain requests and tunnels ------------------------------------------------------------------------------------


def test_a_plain_request_is_forwarded_and_its_bytes_are_counted(proxy: CheckingProxy, site: Site) -> None:
    with proxy.budget(PLENTY) as budget:
        assert get(proxy, f"{site.url}/hello", X_Own="1") == (200, b"hello")
    assert 5 < budget.num_bytes < 500
    assert (budget.exceeded, budget.refused, budget.answers) == (None, [], [])
    _, _, headers = site.seen[0]
    assert headers["x_own"] == "1"
    assert headers["host"] == f"127.0.0.1:{site.port}"
    assert not [name for name in headers if name.startswith("proxy")]


def test_a_posted_body_arrives_whole(proxy: CheckingProxy, site: Site) -> None:
    def echo(handler: BaseHTTPRequestHandler) -> None:
        text(str(len(handler.rfile.read(int(handler.headers["Content-Length"])))))(handler)

    site.pages["/echo"] = echo
    with proxy.budget(PLENTY):
        through = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.url}))
        with through.open(f"{site.url}/echo", data=b"x" * 300_000) as answer:
            assert answer.read() == b"300000"


def test_a_chunked_answer_arrives_whole_and_one_cut_short_is_seen_to_be(proxy: CheckingProxy, site: Site) -> None:
    def chunked(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nhello\r\n" + (b"" if handler.path.endswith("cut") else b"0\r\n\r\n"))

    site.pages["/chunked"] = site.pages["/chunked/cut"] = chunked
    with proxy.budget(PLENTY):
        assert get(proxy, f"{site.url}/chunked") == (200, b"hello")
        with pytest.raises(http.client.IncompleteRead):
            get(proxy, f"{site.url}/chunked/cut")


def test_a_head_request_is_answered_without_a_body(proxy: CheckingProxy, site: Site) -> None:
    with proxy.budget(PLENTY):
        through = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy.url}))
        with through.open(urllib.request.Request(f"{site.url}/hello", method="HEAD")) as answer:
            assert answer.headers["Content-Length"] == "5"


def test_a_tunnel_carries_several_requests_both_ways(proxy: CheckingProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as echo:

        def serve() -> None:
            connection, _ = echo.accept()
            with connection:
                while piece := connection.recv(1 << 16):
                    connection.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        with proxy.budget(PLENTY) as budget, tunnel(proxy, echo.getsockname()[1]) as client:
            client.connect()
            for _ in range(3):
                client.sock.sendall(b"ping" * 1000)
                got = b""
                while len(got) < 4000:
                    got += client.sock.recv(4000)
                assert got == b"ping" * 1000
    assert budget.num_bytes == 12_000


def test_a_second_request_on_a_connection_goes_nowhere(proxy: CheckingProxy, site: Site) -> None:
    more: queue.Queue[bytes] = queue.Queue()

    def stubborn(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        handler.connection.settimeout(5)
        more.put(handler.connection.recv(1000))

    site.pages["/stubborn"] = stubborn
    request = f"GET {site.url}/stubborn HTTP/1.1\r\nProxy-Authorization: {proxy._authorization}\r\n\r\n".encode()
    with proxy.budget(PLENTY), socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0)) as client:
        client.settimeout(5)
        client.sendall(request)
        with client.makefile("rb") as answer:
            assert [answer.readline() for _ in range(4)][-2:] == [b"Connection: close\r\n", b"\r\n"]
            assert answer.read(2) == b"ok"
            client.sendall(request)
            assert answer.read() == b""
    assert more.get(timeout=5) == b""  # the site saw the end, and not the secret


def test_who_does_not_know_the_secret_is_asked_for_it(proxy: CheckingProxy, site: Site) -> None:
    with proxy.budget(PLENTY):
        wrong = proxy.url.replace("crawl:", "crawl:not")
        for url in (f"{site.url}/hello", relay_url(f"{site.url}/hello")):
            through = urllib.request.build_opener(urllib.request.ProxyHandler({"http": wrong}))
            with pytest.raises(urllib.error.HTTPError) as caught:
                through.open(url)
            with caught.value as error:
                assert (error.code, error.headers["Proxy-Authenticate"][:5]) == (407, "Basic")
    assert not site.seen


def test_nothing_is_fetched_without_a_budget(proxy: CheckingProxy, site: Site) -> None:
    assert get(proxy, f"{site.url}/hello")[0] == 403
    with proxy.budget(PLENTY):
        assert get(proxy, f"{site.url}/hello")[0] == 200
        with pytest.raises(RuntimeError, match="one budget"), proxy.budget(PLENTY):
            pass
    assert get(proxy, f"{site.url}/hello")[0] == 403
    assert get(proxy, relay_url(f"{site.url}/hello"))[0] == 403
    assert len(site.seen) == 1


def test_a_tunnel_does_not_outlive_its_budget(proxy: CheckingProxy, site: Site) -> None:
    with tunnel(proxy, site.port) as client:
        with proxy.budget(PLENTY):
            client.connect()
        assert client.sock.recv(1) == b""


def test_neither_secret_nor_password_is_shown(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    with CheckingProxy(allow_private=True, upstream="http://me:hush@127.0.0.1:1") as proxy:
        secret = urlsplit(proxy.url).password
        assert secret
        with proxy.budget(PLENTY) as budget:
            assert get(proxy, f"{site.url}/hello?token=x")[0] == 502
        shown = repr(proxy) + repr(budget) + str(capfd.readouterr())
    assert not [word for word in ("hush", secret, "token") if word in shown]


# --- addresses -----------------------------------------------------------------------------------------------------

SPELLINGS = """
    127.0.0.1 127.1 127.0.1 0x7f000001 2130706433 017700000001 0x7f.1 0 localhost localhost. LOCALHOST 127.0.0.1.
    10.1 169.254.169.254 [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::]
    [0:0:0:0:0:0:0:1]
""".split()  # noqa: SIM905


@pytest.mark.parametrize("host", SPELLINGS)
def test_however_a_private_address_is_spelt_it_is_refused(strict: CheckingProxy, site: Site, host: str) -> None:
    with strict.budget(PLENTY) as budget:
        status, words = get(strict, f"http://{host}:{site.port}/hello")
        # Where the resolver takes a spelling for a name, there is no such name.
        assert status == 403 or (status == 502 and b"resolve" in words)
        with tunnel(strict, site.port, host) as client, pytest.raises(OSError, match=str(status)):
            client.connect()
        assert get(strict, relay_url(f"http://{host}:{site.port}/hello"))[0] in (status, 502)
    assert not site.seen
    assert status == 502 or (words.count(b"\n") == 1 and words.decode().strip() in budget.refused)


def resolving(monkeypatch: pytest.MonkeyPatch, **names: list[list[str]]) -> list[str]:
    """Have names resolve, call by call, to lists of addresses; every name asked for is noted."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        key = host.replace(".", "_")
        if key not in names:
            return real(host, port, *args, **kwargs)
        addresses = names[key].pop(0) if len(names[key]) > 1 else names[key][0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for address in addresses for found in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_is_refused_if_any_of_its_addresses_is_private(
    strict: CheckingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, two_test=[["1.1.1.1", "10.0.0.1"]])
    with strict.budget(PLENTY) as budget:
        assert get(strict, "http://two.test/")[0] == 403
    assert budget.refused == ["10.0.0.1 (two.test) is a private address"]


def test_the_address_that_was_checked_is_the_one_connected_to(
    strict: CheckingProxy, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolving(monkeypatch, rebinding_test=[["1.1.1.1"], ["127.0.0.1"]])
    connect, connected = socket.socket.connect, []

    def noting(self: socket.socket, address: Any) -> None:
        if address[1] == site.port:
            connected.append(address[0])
            raise ConnectionRefusedError
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noting)
    with strict.budget(PLENTY):
        assert get(strict, f"http://rebinding.test:{site.port}/hello")[0] == 502
        assert connected == ["1.1.1.1"]
        assert asked.count("rebinding.test") == 1
        assert get(strict, f"http://rebinding.test:{site.port}/hello")[0] == 403
    assert connected == ["1.1.1.1"]


def test_this_machine_under_a_public_address_is_refused_too(
    strict: CheckingProxy, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "is_public", lambda address: True)
    with strict.budget(PLENTY) as budget:
        assert get(strict, f"{site.url}/hello")[0] == 403
    assert budget.refused == ["127.0.0.1 is this machine"]


def test_the_port_of_another_service_is_refused(strict: CheckingProxy) -> None:
    with strict.budget(PLENTY) as budget:
        assert get(strict, "http://1.1.1.1:25/")[0] == 403
    assert budget.refused == ["1.1.1.1 at port 25 is no web site"]


def test_other_schemes_and_nonsense_are_refused(strict: CheckingProxy) -> None:
    with strict.budget(PLENTY) as budget:
        for target in (
            "ftp://1.1.1.1/",
            "file:///etc/passwd",
            "/etc/passwd",
            "http://[::1/",
            "http://a:b/",
            "http:///x",
        ):
            with socket.create_connection(("127.0.0.1", urlsplit(strict.url).port or 0)) as client:
                client.sendall(
                    f"GET {target} HTTP/1.1\r\nProxy-Authorization: {strict._authorization}\r\n\r\n".encode()
                )
                assert client.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 403"), target
        assert get(strict, "http://ex%20ample/")[0] in (400, 403)
    assert "ftp: is not http" in budget.refused


def test_a_redirect_to_a_private_address_is_refused(
    strict: CheckingProxy, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/go"] = text("", 302, Location=f"http://127.0.0.1:{site.port}/hello")
    # The site itself is let through once, as if it were public.
    answers = iter([True])
    monkeypatch.setattr(addresses, "is_public", lambda address: next(answers, False))
    monkeypatch.setattr(socket.socket, "getpeername", lambda self: ("", 0))
    with strict.budget(PLENTY) as budget:
        assert get(strict, relay_url(f"{site.url}/go"))[0] == 403
    assert [path for _, path, _ in site.seen] == ["/go"]
    assert budget.refused == ["127.0.0.1 is a private address"]
    assert budget.answers[0].status == 403


# --- no way there --------------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("way", ["plain", "tunnel", "relay"])
def test_a_closed_port_is_unreachable(proxy: CheckingProxy, closed_port: int, way: str) -> None:
    url = f"http://127.0.0.1:{closed_port}/"
    with proxy.budget(PLENTY) as budget:
        if way == "tunnel":
            with tunnel(proxy, closed_port) as client, pytest.raises(OSError, match="502"):
                client.connect()
        else:
            assert get(proxy, url if way == "plain" else relay_url(url))[0] == 502
    assert budget.unreachable == ["cannot connect to 127.0.0.1: Connection refused"]


def test_a_name_that_does_not_resolve_is_unreachable_each_time(
    strict: CheckingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, gone_test=[[]])
    with strict.budget(PLENTY) as budget:
        for url in ("http://gone.test/", relay_url("http://gone.test/"), f"http://{'x' * 70}.test/"):
            assert get(strict, url)[0] == 502
    assert [line.partition(": ")[0] for line in budget.unreachable] == [
        "cannot resolve gone.test",
        "cannot resolve gone.test",
        f"cannot resolve {'x' * 70}.test",
    ]


def test_a_site_that_does_not_take_the_connection_in_time_is_unreachable(
    proxy: CheckingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "CONNECT_TIMEOUT_S", 0.2)
    with full() as port:
        with proxy.budget(PLENTY) as budget:
            assert get(proxy, f"http://127.0.0.1:{port}/")[0] == 502
        with proxy.budget(PLENTY) as other:
            monkeypatch.setattr(proxy_module, "CONNECT_TIMEOUT_S", 30)
            threading.Timer(0.2, proxy._exceed, (other, "time")).start()
            with pytest.raises(OSError, match=r"closed connection|reset"):
                get(proxy, f"http://127.0.0.1:{port}/")
    assert budget.unreachable == ["cannot connect to 127.0.0.1: timed out"]
    assert other.unreachable == []  # its own end cut the connecting off


@contextmanager
def full() -> Iterator[int]:
    """Port of a server that takes no more connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_connection_that_breaks_off_is_not_unreachable(proxy: CheckingProxy, site: Site) -> None:
    site.pages["/short"] = text("hello", Content_Length="50")
    site.pages["/nothing"] = lambda handler: None
    with proxy.budget(PLENTY) as budget:
        for url in (f"{site.url}/short", f"{site.url}/nothing", relay_url(f"{site.url}/short")):
            with pytest.raises((OSError, http.client.HTTPException)):
                get(proxy, url)
        assert get(proxy, f"{site.url}/none")[0] == 404
    assert budget.unreachable == []


def test_a_proxy_of_the_users_that_is_not_there_is_unreachable(
    site: Site, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, gone_test=[[]])
    for upstream, line in {
        "http://gone.test:3128": "cannot resolve the name of the proxy in use",
        f"http://127.0.0.1:{closed_port}": "cannot connect to 127.0.0.1: Connection refused",
    }.items():
        with CheckingProxy(allow_private=True, upstream=upstream) as second, second.budget(PLENTY) as budget:
            assert get(second, f"{site.url}/hello")[0] == 502
        assert budget.unreachable == [line]
    assert not site.seen


# --- limits --------------------------------------------------------------------------------------------------------


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "10000000000")
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(b"x" * 10_000)
            SENT.append(10_000)


SENT: list[int] = []


@pytest.mark.parametrize("way", ["plain", "tunnel", "relay"])
def test_ten_gigabytes_are_cut_at_the_limit(proxy: CheckingProxy, site: Site, way: str) -> None:
    site.pages["/endless"] = endless
    SENT.clear()
    with proxy.budget(Limits(max_bytes=2_000_000, max_s=60)) as budget:
        url = f"{site.url}/endless"
        if way == "tunnel":
            with tunnel(proxy, site.port) as client:
                client.request("GET", "/endless")
                with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                    client.getresponse().read()
        else:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                get(proxy, url if way == "plain" else relay_url(url))
        assert budget.exceeded == "bytes"
        assert get(proxy, url)[0] == 403
    time.sleep(0.05)
    assert 2_000_000 < budget.num_bytes <= 2_000_000 + PIECE_BYTES
    assert sum(SENT) < 2_000_000 + 8 * SITE_BUFFER_BYTES  # buffers, the site's own too


@pytest.mark.parametrize("way", ["plain", "tunnel", "relay"])
@pytest.mark.parametrize("kind", ["slow", "mute"])
def test_a_server_that_takes_for_ever_is_left_in_time(proxy: CheckingProxy, site: Site, way: str, kind: str) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        if kind == "slow":
            handler.send_response(200)
            handler.end_headers()
        with suppress(OSError):
            while True:
                if kind == "slow":
                    handler.wfile.write(b"x")
                elif not handler.connection.recv(1):
                    return
                time.sleep(0.05)

    site.pages["/slow"] = slow
    began_s = time.monotonic()
    with proxy.budget(Limits(max_bytes=1000_000, max_s=0.5)) as budget:
        with suppress(OSError, http.client.HTTPException):
            if way == "tunnel":
                with tunnel(proxy, site.port) as client:
                    client.request("GET", "/slow")
                    client.getresponse().read()
            else:
                get(proxy, f"{site.url}/slow" if way == "plain" else relay_url(f"{site.url}/slow"))
        assert budget.exceeded == "time"
        assert 0.4 < time.monotonic() - began_s < PATIENCE_S
        assert get(proxy, f"{site.url}/hello")[0] == 403
    assert time.monotonic() - began_s < PATIENCE_S


def test_a_connection_made_as_the_budget_ends_is_not_used(
    strict: CheckingProxy, proxy: CheckingProxy, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.socket.connect

    def late(self: socket.socket, address: Any) -> None:
        if address[1] == site.port:
            proxy._exceed(budget, "time")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", late)
    with proxy.budget(PLENTY) as budget:
        with pytest.raises(OSError, match=r"closed connection|reset"):
            get(proxy, f"{site.url}/hello")
    assert not site.seen


def test_limits_must_let_something_through() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Limits(max_bytes=0, max_s=1)


# --- the user's own proxy ------------------------------------------------------------------------------------------


def test_the_users_own_proxy_is_gone_through_with_its_password(site: Site, proxy: CheckingProxy) -> None:
    upstream = proxy.url.replace("127.0.0.1", "localhost")
    with CheckingProxy(allow_private=True, upstream=upstream) as second, proxy.budget(PLENTY) as behind:
        with second.budget(PLENTY) as budget:
            assert get(second, f"{site.url}/hello") == (200, b"hello")
            with tunnel(second, site.port) as client:
                client.request("GET", "/hello")
                assert client.getresponse().read() == b"hello"
    # The one in front is told besides that the connection of its forwarded answer ends.
    assert behind.num_bytes + len("Connection: close\r\n") == budget.num_bytes


def test_behind_the_users_own_proxy_private_addresses_are_refused_still(
    site: Site, proxy: CheckingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The name resolves for the other alone, who asks second.
    resolving(monkeypatch, far_test=[[], ["127.0.0.1"]])
    with CheckingProxy(upstream=proxy.url) as second, proxy.budget(PLENTY), second.budget(PLENTY) as budget:
        assert get(second, f"{site.url}/hello")[0] == 403
        assert get(second, f"http://localhost:{site.port}/hello")[0] == 403
        assert not site.seen
        assert get(second, f"http://far.test:{site.port}/hello") == (200, b"hello")
    assert len(budget.refused) == 2


def test_a_refusing_proxy_of_the_users_is_named(site: Site, proxy: CheckingProxy) -> None:
    with CheckingProxy(allow_private=True, upstream=proxy.url.replace("crawl:", "x")) as second, proxy.budget(PLENTY):
        with second.budget(PLENTY) as budget, tunnel(second, site.port) as client:
            with pytest.raises(OSError, match="502"):
                client.connect()
    assert budget.unreachable == ["cannot connect to 127.0.0.1: the proxy in use answered 407"]


def test_a_proxy_of_another_kind_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="socks5:// is not served"):
        CheckingProxy(upstream="socks5://127.0.0.1:1080")


# --- the relay -----------------------------------------------------------------------------------------------------


def test_the_relay_sends_cookies_and_ranges_and_tells_what_it_got(
    proxy: CheckingProxy, site: Site, tmp_path: Path
) -> None:
    site.folder = tmp_path
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 1000)
    proxy.open_url = opener(proxy, Cookie="session=1")
    with proxy.budget(PLENTY) as budget:
        through = opener(proxy)
        with through(relay_url(f"{site.url}/a.mp4?x=%20|"), {"Range": "bytes=255000-"}) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == "bytes 255000-255999/256000"
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert len(answer.read()) == 1000
    _, path, headers = site.seen[0]
    assert path == "/a.mp4?x=%20%7C"
    assert (headers["cookie"], headers["range"], headers["accept-encoding"]) == (
        "session=1",
        "bytes=255000-",
        "identity",
    )
    assert [(a.host, a.status, a.error) for a in budget.answers] == [("127.0.0.1", 206, None)]
    assert 1000 < budget.num_bytes < 2000  # once, though it went through the proxy twice


def test_the_relay_tells_why_a_site_did_not_answer(proxy: CheckingProxy, site: Site) -> None:
    site.pages["/busy"] = text("", 429, Retry_After="120")
    site.pages["/short"] = text("hello", Content_Length="50")
    with proxy.budget(PLENTY) as budget:
        assert get(proxy, relay_url(f"{site.url}/busy"))[0] == 429
        assert get(proxy, relay_url(f"{site.url}/none"))[0] == 404
        assert get(proxy, relay_url("http://127.0.0.1:9/x"))[0] == 502
        with pytest.raises(http.client.IncompleteRead):
            get(proxy, relay_url(f"{site.url}/short"))
    busy, none, down, short = budget.answers
    assert (busy.status, busy.retry_after) == (429, "120")
    assert none.status == 404
    assert down.error is not None
    assert str(short.error) == "ended early: 5 of 50 bytes"


def rests(budget: Budget) -> bool:
    before = budget.num_bytes
    time.sleep(0.2)
    return budget.num_bytes == before


def test_the_relay_stops_reading_when_its_client_has_gone(proxy: CheckingProxy, site: Site) -> None:
    site.pages["/endless"] = endless
    SENT.clear()
    with proxy.budget(PLENTY) as budget:
        with opener(proxy)(relay_url(f"{site.url}/endless"), {}) as answer:
            answer.read(1_000_000)
        wait_until(lambda: rests(budget))
        assert budget.num_bytes < 4_000_000
    assert budget.exceeded is None


def test_a_playlist_that_leads_anywhere_else_is_refused(proxy: CheckingProxy, site: Site) -> None:
    site.pages["/list"] = text("#EXTM3U\n#EXTINF:4,\0file:///etc/passwd\n")
    with proxy.budget(PLENTY) as budget:
        status, words = get(proxy, relay_url(f"{site.url}/list"))
    assert status == 403
    assert budget.refused == [words.decode().strip()] == ["a playlist leads to file:"]


def test_a_playlist_that_has_moved_leads_where_it_is_now(proxy: CheckingProxy, site: Site) -> None:
    site.pages["/old/list.m3u8"] = text("", 302, Location=f"{site.url}/new/list.m3u8")
    site.pages["/new/list.m3u8"] = text("#EXTM3U\n1.ts\n")
    with proxy.budget(PLENTY):
        _, words = get(proxy, relay_url(f"{site.url}/old/list.m3u8"), Range="bytes=0-")
    assert words.decode() == f"#EXTM3U\n{relay_url(site.url + '/new/1.ts')}\n"


def test_a_playlist_cut_short_is_not_passed_on(proxy: CheckingProxy, site: Site) -> None:
    site.pages["/list"] = text("#EXTM3U\n1.ts\nfile", Content_Length="50")
    with proxy.budget(PLENTY) as budget:
        assert get(proxy, relay_url(f"{site.url}/list"))[0] == 502
    assert "ended early" in str(budget.answers[0].error)


def test_the_real_yt_dlp_opens_what_the_relay_is_asked_for(proxy: CheckingProxy, site: Site, tmp_path: Path) -> None:
    import yt_dlp

    site.folder = tmp_path
    (tmp_path / "a.mp4").write_bytes(b"x" * 200_000)
    site.pages["/busy"] = text("", 429, Retry_After="120")
    site.pages["/short"] = text("hello", Content_Length="50")
    site.pages["/old/list.m3u8"] = text("", 302, Location=f"{site.url}/new/list.m3u8")
    site.pages["/new/list.m3u8"] = text("#EXTM3U\n1.ts\n")
    with yt_dlp.YoutubeDL({"proxy": proxy.url, "quiet": True}) as ydl:
        proxy.open_url = lambda url, headers: ydl.urlopen(yt_dlp.networking.Request(url, headers=headers))
        with proxy.budget(PLENTY) as budget:
            assert get(proxy, relay_url(f"{site.url}/a.mp4"), Range="bytes=100-") == (206, b"x" * 199_900)
            assert get(proxy, relay_url(f"{site.url}/busy"))[0] == 429
            _, words = get(proxy, relay_url(f"{site.url}/old/list.m3u8"))
            with pytest.raises(http.client.IncompleteRead):
                get(proxy, relay_url(f"{site.url}/short"))
    assert words.decode() == f"#EXTM3U\n{relay_url(site.url + '/new/1.ts')}\n"
    assert [a.status for a in budget.answers] == [206, 429, 200, 200]
    assert budget.answers[1].retry_after == "120"
    assert budget.answers[3].error is not None


def test_a_playlist_without_end_is_refused(proxy: CheckingProxy, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_PLAYLIST_BYTES", 1000)
    site.pages["/list"] = text("#EXTM3U\n" + "1.ts\n" * 100_000)
    with proxy.budget(PLENTY):
        assert get(proxy, relay_url(f"{site.url}/list"))[0] == 502


# --- ffmpeg --------------------------------------------------------------------------------------------------------


def remux(proxy: CheckingProxy, url: str, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "http_proxy": proxy.url, "HTTP_PROXY": proxy.url}
    command = [ffmpeg_exe(), "-nostdin", "-y", "-loglevel", "error", *options, "-i", relay_url(url), "-c", "copy"]
    return subprocess.run([*command, str(target)], env=env, capture_output=True, text=True, timeout=60, check=False)


def duration_s(path: Path) -> float:
    from pipeline.media import probe

    return probe(path).container_s or 0.0


def test_ffmpeg_copies_a_section_of_a_file_through_the_relay(
    proxy: CheckingProxy, site: Site, tmp_path: Path, make_media: Any
) -> None:
    site.folder = tmp_path / "site"
    noise = "geq=random(1)*255:128:128"  # not to be compressed, so that there is something to leave
    whole = make_media(
        site.folder / "a b.mp4",
        picture=f"nullsrc=size=320x180:rate=15,{noise}",
        seconds=20,
        extra=("-movflags", "+faststart", "-q:v", "2"),
    )
    proxy.open_url = opener(proxy, Cookie="session=1", Referer="http://page.test/")
    with proxy.budget(PLENTY) as budget:
        done = remux(proxy, f"{site.url}/a%20b.mp4", tmp_path / "cut.mp4", "-ss", "8", "-t", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert duration_s(tmp_path / "cut.mp4") == pytest.approx(3, abs=1)
    assert all(headers["cookie"] == "session=1" and "referer" in headers for _, _, headers in site.seen)
    assert not [headers for _, _, headers in site.seen if "Lavf" in str(headers)]
    assert budget.num_bytes < whole.stat().st_size * 0.5
    assert {a.status for a in budget.answers} == {206}
    assert not [a.error for a in budget.answers if a.error]


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_ffmpeg_copies_a_section_of_a_playlist_through_the_relay(
    proxy: CheckingProxy, site: Site, tmp_path: Path, make_media: Any, kind: str
) -> None:
    folder = site.folder = tmp_path / "site"
    base = ("-hls_base_url", f"{site.url}/hls/") if kind == "absolute" else ()
    hls = ("-f", "hls", "-g", "15", "-hls_time", "2", "-hls_list_size", "0", *base)
    make_media(folder / "hls/list.m3u8", seconds=20, extra=hls)
    assert ("http://" in (folder / "hls/list.m3u8").read_text()) == (kind == "absolute")
    (folder / "main.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n/hls/list.m3u8\n")
    proxy.open_url = opener(proxy, Cookie="session=1")
    with proxy.budget(PLENTY) as budget:
        done = remux(proxy, f"{site.url}/main.m3u8", tmp_path / "cut.ts", "-ss", "8", "-t", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert duration_s(tmp_path / "cut.ts") == pytest.approx(3, abs=2.5)
    assert all(headers["cookie"] == "session=1" for _, _, headers in site.seen)
    fetched = {path for _, path, _ in site.seen if path.endswith(".ts")}
    assert 2 <= len(fetched) < 8
    assert not [a.error for a in budget.answers if a.error]


def test_ffmpeg_gets_no_playlist_that_reads_local_files(proxy: CheckingProxy, site: Site, tmp_path: Path) -> None:
    site.pages["/list.m3u8"] = text("#EXTM3U\n#EXTINF:4,\nconcat:file:///etc/passwd|x\n#EXT-X-ENDLIST\n")
    with proxy.budget(PLENTY) as budget:
        done = remux(proxy, f"{site.url}/list.m3u8", tmp_path / "cut.mkv")
    assert done.returncode != 0
    assert budget.refused == ["a playlist leads to concat:"]
