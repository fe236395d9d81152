"""What comes in: a body becomes a file, no longer than allowed; a name becomes a title, and nothing but a title."""

import asyncio
import contextlib
import re
import unicodedata
from pathlib import Path

from starlette.requests import Request

IDLE_S = 30.0  # for which nothing may come
MAX_UPLOAD_S = 3600.0
DRAIN_S = 5.0  # a body that is refused is still read for so long: a browser that writes does not see the answer
MAX_TITLE_CHARS = 120
NO_TITLE = "video"


class TooLargeError(Exception):
    """More came than is allowed."""


async def receive(request: Request, path: Path, *, max_bytes: int) -> int:
    """Write a request's body to a new file as it comes, and return its length.

    Raises
    ------
    TooLargeError
        Once more than ``max_bytes`` came, whatever the request's head said.
    TimeoutError
        If it stands still, or drips.
    starlette.requests.ClientDisconnect
        If it breaks off.
    OSError
        If the disk is full.
    """
    length = 0
    pieces = request.stream()
    with path.open("xb") as file:
        async with asyncio.timeout(MAX_UPLOAD_S):
            while True:
                async with asyncio.timeout(IDLE_S):
                    piece = await anext(pieces, b"")
                if not piece:
                    return length
                length += len(piece)
                if length > max_bytes:
                    raise TooLargeError
                await asyncio.to_thread(file.write, piece)


async def drain(request: Request) -> None:
    """Read on for a while what is thrown away."""
    with contextlib.suppress(Exception):  # whatever ends it, the visitor gets the answer that is due
        async with asyncio.timeout(DRAIN_S):
            async for _ in request.stream():
                pass


def title_of(name: str) -> str:
    """Make a title of a file's name as a stranger tells it: one line, no folders, nothing that is not shown.

    Controls go, and the marks that turn text round; no file is ever named by it.
    """
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in unicodedata.normalize("NFC", last))
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", " ".join(shown.split()))
    return stem[:MAX_TITLE_CHARS].strip(" .") or NO_TITLE
