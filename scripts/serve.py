"""A folder on a loopback HTTP server that answers range requests, as sites with videos do.

Python's own file server has no ranges, and yt-dlp asks for them when it goes on with a download.
"""

from __future__ import annotations

import errno
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

HOST = "127.0.0.1"

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class PortTakenError(Exception):
    """The port is in use; the message says which."""


class RangeHandler(SimpleHTTPRequestHandler):
    """Serve files, or the one range of bytes asked for; say nothing."""

    left_bytes: int | None = None
    """Bytes of the range under way; None for a whole file."""

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Send the headers and return the open file, at the range's start."""
        self.left_bytes = None
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().send_head()
        size = path.stat().st_size
        first = int(wanted[1])
        last = min(int(wanted[2] or size), size - 1)
        if first > last:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        file = path.open("rb")
        file.seek(first)
        self.left_bytes = last - first + 1
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(self.left_bytes))
        self.end_headers()
        return file

    def end_headers(self) -> None:
        """Say that ranges are served."""
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]
        """Send the file or its range; a client that goes away early is no error."""
        try:
            if self.left_bytes is None:
                shutil.copyfileobj(source, outputfile)
            else:
                outputfile.write(source.read(self.left_bytes))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """Stay silent."""


@contextmanager
def serving(folder: Path, port: int, *, any_port: bool = False) -> Iterator[int]:
    """Serve a folder on the loopback address in the background.

    Parameters
    ----------
    folder
        What is served, as http://127.0.0.1:<port>/<name>.
    port
        The port wanted.
    any_port
        Take another, free one where that is in use.

    Yields
    ------
    int
        The port in use.

    Raises
    ------
    PortTakenError
        If the port is in use.
    """
    handler = partial(RangeHandler, directory=str(folder))
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        if not any_port:
            raise PortTakenError(f"port {port} of {HOST} is in use") from error
        server = ThreadingHTTPServer((HOST, 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
