"""A long body asked for in growing steps, so that little of it is under way when its reader leaves.

ffmpeg asks for a file from some place to its end, and hangs up where its section ends; by then a site, its kernel and
ours have sent and buffered much more. A step is a request for a range of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.relay import OpenUrl, Response

FIRST_STEP_BYTES = 1 << 16
MAX_STEP_BYTES = 1 << 19

_OPEN_RANGE = re.compile(r"bytes=(\d+)-")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def open_in_steps(open_url: OpenUrl, url: str, headers: dict[str, str]) -> Response:
    """Open an address, in steps if an open range is asked for and the site gives ranges; else as it is."""
    asked = _OPEN_RANGE.fullmatch(headers.get("Range", ""))
    if asked is None:
        return open_url(url, headers)
    start = int(asked[1])
    first = open_url(url, headers | {"Range": f"bytes={start}-{start + FIRST_STEP_BYTES - 1}"})
    told = _CONTENT_RANGE.fullmatch(first.headers.get("Content-Range") or "")
    if first.status != 206 or told is None or int(told[1]) != start:
        return first
    return _Steps(open_url, url, headers, first, start=start, end=int(told[3]))


class _Steps:
    """One body of several responses."""

    headers: Mapping[str, str]

    def __init__(
        self, open_url: OpenUrl, url: str, headers: dict[str, str], first: Response, *, start: int, end: int
    ) -> None:
        self._open_url = open_url
        self._asked = (url, headers)
        self._response = first
        self._place = start
        self._end = end
        self._step_end = min(start + FIRST_STEP_BYTES, end)
        self._step_bytes = FIRST_STEP_BYTES
        self.status = first.status
        self.url = first.url
        self.headers = dict(first.headers.items()) | {
            "Content-Range": f"bytes {start}-{end - 1}/{end}",
            "Content-Length": str(end - start),
        }

    def read(self, amount: int, /) -> bytes:
        """Give so many bytes, or fewer; none at the end, or where a site breaks off."""
        if self._place == self._step_end < self._end:
            self._next_step()
        piece = self._response.read(min(amount, self._step_end - self._place))
        self._place += len(piece)
        return piece

    def _next_step(self) -> None:
        self._response.close()
        self._step_bytes = min(2 * self._step_bytes, MAX_STEP_BYTES)
        is_rest = self._end - self._place <= MAX_STEP_BYTES  # a segment of HLS, say
        self._step_end = self._end if is_rest else self._place + self._step_bytes
        url, headers = self._asked
        self._response = self._open_url(url, headers | {"Range": f"bytes={self._place}-{self._step_end - 1}"})
        told = _CONTENT_RANGE.fullmatch(self._response.headers.get("Content-Range") or "")
        if self._response.status != 206 or told is None or int(told[1]) != self._place:
            raise ConnectionError("the site gave another range than was asked for")

    def close(self) -> None:
        """End the connection."""
        self._response.close()
