"""The relay's addresses, and what it makes of playlists and other answers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.addresses import RefusedError
from pipeline.relay import Answer, real_url, relay_playlist, relay_url, reply

_hosts = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?){0,3}\.?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"),
)
_segments = st.from_regex(r"[A-Za-z0-9._~%:@!$&'()*+,;=-]{0,8}", fullmatch=True)
_paths = st.lists(_segments, max_size=4).map(lambda parts: "/" + "/".join(parts)).filter(lambda p: "//" not in p)
_queries = st.one_of(st.just(""), st.from_regex(r"\?[A-Za-z0-9=&/?:.%-]{1,9}", fullmatch=True))
_urls = st.builds(
    lambda scheme, host, port, path, query: f"{scheme}://{host}{port}{path}{query}",
    st.sampled_from(["http", "https"]),
    _hosts,
    st.one_of(st.just(""), st.integers(1, 65535).filter(lambda n: n not in (80, 443)).map(lambda n: f":{n}")),
    _paths,
    _queries,
)
_references = st.one_of(
    _queries,
    st.builds(
        lambda up, parts, query: up + "/".join(parts) + query,
        st.sampled_from(["", "./", "../", "../../", "/"]),
        st.lists(st.from_regex(r"[A-Za-z0-9._~-]{1,6}", fullmatch=True), max_size=3),
        _queries,
    ),
)


@given(_urls)
def test_a_relayed_address_can_be_led_back(url: str) -> None:
    assert real_url(relay_url(url)) == url


@given(_urls, _references)
def test_relative_references_lead_to_the_same_place_through_the_relay(url: str, reference: str) -> None:
    assert urljoin(relay_url(url), reference) == relay_url(urljoin(url, reference))


def test_default_ports_are_the_same_address() -> None:
    assert (
        relay_url("https://A.test:443/x") == relay_url("https://a.test/x") == "http://a.test.443.https.relay.invalid/x"
    )
    assert relay_url("https://a.test:8443/a/b.m3u8?q") == "http://a.test.8443.https.relay.invalid/a/b.m3u8?q"
    assert relay_url("https://bücher.test/") == "http://xn--bcher-kva.test.443.https.relay.invalid/"


@pytest.mark.parametrize(
    "url", ["ftp://a.test/", "file:///x", "https://me:pw@a.test/", "https:///x", "x", "http://a:b/"]
)
def test_only_plain_http_addresses_are_relayed(url: str) -> None:
    with pytest.raises(ValueError, match=r"relayed|[Pp]ort"):
        relay_url(url)


PLAYLIST = """#EXTM3U
#EXT-X-KEY:METHOD=AES-128,URI="https://keys.test/k?a=1,2",IV=0x1
#EXT-X-MAP:URI=http://b.test/init.mp4
#EXTINF:4.0,
https://cdn.test:8443/seg/1.ts?x=1
#EXTINF:4.0,
//cdn.test/2.ts
#EXTINF:4.0,
seg/3.ts
#EXTINF:4.0,
/top/4.ts
#EXT-X-ENDLIST
"""


def test_addresses_in_a_playlist_are_led_through_the_relay() -> None:
    lines = relay_playlist(PLAYLIST, "https://a.test/x/y.m3u8").split("\n")
    assert lines[1] == '#EXT-X-KEY:METHOD=AES-128,URI="http://keys.test.443.https.relay.invalid/k?a=1,2",IV=0x1'
    assert lines[2] == '#EXT-X-MAP:URI="http://b.test.80.http.relay.invalid/init.mp4"'
    assert lines[4] == "http://cdn.test.8443.https.relay.invalid/seg/1.ts?x=1"
    assert lines[6] == "http://cdn.test.443.https.relay.invalid/2.ts"
    assert (lines[8], lines[10]) == ("seg/3.ts", "/top/4.ts")
    moved = relay_playlist(PLAYLIST, "https://a.test/x/y.m3u8", moved=True).split("\n")
    assert moved[8] == "http://a.test.443.https.relay.invalid/x/seg/3.ts"


@pytest.mark.parametrize(
    "line",
    [
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        " file:/etc/passwd",
        "concat:a.ts|file:///etc/passwd",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "data:text/plain,x",
        "crypto+https://a.test/x",
        "ftp://a.test/x",
        "udp://127.0.0.1:1",
        ":x",
        "http://me:pw@a.test/",
        '#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"',
        "#EXT-X-KEY:METHOD=AES-128,URI=file:///etc/passwd",
        '#EXT-X-KEY:METHOD=AES-128,URI="f\\ile:///etc/passwd"',
        '#EXT-X-KEY:NAME="a,URI=" ,URI="file:///etc/passwd"',
        '#EXT-X-MAP:URI="file:///etc/passwd',
        "#EXTINF:4,\rfile:///etc/passwd",
        "#EXTINF:4,\0file:///etc/passwd",
    ],
)
def test_a_playlist_that_leads_anywhere_else_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"a playlist leads to|only plain http\(s\)") as caught:
        relay_playlist(f"#EXTM3U\n#EXTINF:4,\n{line}\n", "http://a.test/list.m3u8")
    assert "\n" not in str(caught.value)


class Page:
    """A response, a byte at a time."""

    status = 206
    url = "http://a.test/list.m3u8"

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._body = io.BytesIO(body)
        self.headers = headers

    def read(self, amount: int, /) -> bytes:
        return self._body.read(1)

    def close(self) -> None: ...


def test_a_playlist_is_known_by_its_first_bytes_and_its_length_is_made_anew() -> None:
    found = b"#EXTM3U\nhttp://b.test/\xff"
    page = Page(found, {"Content-Length": str(len(found)), "Content-Range": "bytes 0-1/2", "X": "y"})
    status, headers, pieces = reply(page, page.url, Answer(host="a.test"), lambda: False)
    body = b"".join(pieces)
    assert (status, body) == (200, b"#EXTM3U\nhttp://b.test.80.http.relay.invalid/\xff")
    assert headers == {"Content-Type": "application/vnd.apple.mpegurl", "Content-Length": str(len(body))}


@pytest.mark.parametrize("body", [b"", b"#EXT", b"#EXTM4U and more"])
def test_anything_else_is_passed_on_as_it_came(body: bytes) -> None:
    page = Page(body, {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", "Set-Cookie": "a=b"})
    answer = Answer(host="a.test")
    status, headers, pieces = reply(page, page.url, answer, lambda: False)
    assert (status, b"".join(pieces), answer.error) == (206, body, None)
    assert headers == {"Content-Length": str(len(body)), "Accept-Ranges": "bytes"}


def test_the_length_of_what_was_packed_says_nothing() -> None:
    page = Page(b"unpacked", {"Content-Length": "50", "Content-Encoding": "gzip"})
    answer = Answer(host="a.test")
    _, headers, pieces = reply(page, page.url, answer, lambda: False)
    assert (b"".join(pieces), headers, answer.error) == (b"unpacked", {}, None)


def test_a_refused_playlist_is_told_from_one_cut_short() -> None:
    page = Page(b"#EXTM3U\nfile:///etc/passwd", {})
    with pytest.raises(RefusedError, match=r"^a playlist leads to file:$"):
        reply(page, page.url, Answer(host="a.test"), lambda: False)
    page = Page(b"#EXTM3U\nfile", {"Content-Length": "50"})
    with pytest.raises(ConnectionError, match="cut short"):
        reply(page, page.url, Answer(host="a.test"), lambda: False)
