"""The relay's side of things: an address of its own for every http(s) address, and what it answers.

``https://host/path`` is ``http://host.443.https.relay.invalid/path``. ffmpeg is given the latter and asks the proxy for
it, which opens the former by ``open_url`` (``proxy.py``). A playlist on the way leads on through the relay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from itertools import chain
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from pipeline.addresses import RefusedError

RELAY_DOMAIN = "relay.invalid"
PIECE_BYTES = 1 << 16
MAX_PLAYLIST_BYTES = 4_000_000

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PLAYLIST_START = b"#EXTM3U"
_KEPT = ("Content-Type", "Accept-Ranges", "Content-Range", "Content-Length")
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


@dataclass(kw_only=True)
class Answer:
    """What a site said to one relayed request."""

    host: str
    status: int | None = None
    """None if it said nothing."""
    retry_after: str | None = None
    error: Exception | None = None
    """What ``open_url`` or reading raised; ``ConnectionError`` where the body ended early."""


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


def reply(
    response: Response, url: str, answer: Answer, is_alone: Callable[[], bool]
) -> tuple[int, dict[str, str], Iterator[bytes]]:
    """Status, headers and body for who asked the relay for ``url``, until ``is_alone`` says that nobody reads on.

    Raises
    ------
    RefusedError
        If it is a playlist that leads anywhere but to http(s).
    ConnectionError
        If it is a playlist that is too long, or was cut short.
    """
    headers = {name: response.headers[name] for name in _KEPT if response.headers.get(name)}
    if response.headers.get("Content-Encoding", "identity") != "identity":
        headers.pop("Content-Length", None)
    length = headers.get("Content-Length", "")
    pieces = _pieces(response, answer, int(length) if length.isdecimal() else None, is_alone)
    start = b""
    while len(start) < len(_PLAYLIST_START) and (piece := next(pieces, b"")):
        start += piece
    if not start.startswith(_PLAYLIST_START):
        return response.status, headers, chain([start], pieces)
    text = bytearray(start)
    for piece in pieces:
        text += piece
        if len(text) > MAX_PLAYLIST_BYTES:
            raise ConnectionError("the playlist is too long")
    if answer.error:
        raise ConnectionError("the playlist is cut short")
    try:
        found = relay_playlist(text.decode(errors="surrogateescape"), response.url, moved=response.url != url)
        body = found.encode(errors="surrogateescape")
    except ValueError as error:
        raise RefusedError(str(error)) from error
    return 200, {"Content-Type": "application/vnd.apple.mpegurl", "Content-Length": str(len(body))}, iter([body])


def _pieces(response: Response, answer: Answer, length: int | None, is_alone: Callable[[], bool]) -> Iterator[bytes]:
    """Pieces of a body; ``answer`` is told of a bad end."""
    num_bytes = 0
    while not is_alone():
        try:
            piece = response.read(PIECE_BYTES)
        except Exception as error:  # whatever it is, the caller finds it in the answer
            answer.error = error
            return
        if not piece:
            if length is not None and num_bytes < length:
                answer.error = ConnectionError(f"ended early: {num_bytes} of {length} bytes")
            return
        num_bytes += len(piece)
        yield piece


def note_error(error: Exception, answer: Answer) -> None:
    """Write down what ``open_url`` raised, and close what came with it."""
    answer.error = error
    status = getattr(error, "status", None)
    answer.status = status if isinstance(status, int) else None
    headers = getattr(getattr(error, "response", error), "headers", None)
    answer.retry_after = headers.get("Retry-After") if isinstance(headers, Mapping | Message) else None
    with suppress(Exception):
        error.close()  # type: ignore[attr-defined]
