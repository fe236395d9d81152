"""How the command ends at Ctrl-C and SIGTERM, from its first moments on: this imports nothing that takes long."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_without_libraries = False


def heed_signals() -> None:
    """End at once when asked to; Prefect may have put its own answers in the place of these."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def end_without_libraries() -> None:
    """Have ``leave`` end the command without what libraries do at the end of a process."""
    global _without_libraries
    _without_libraries = True


def leave(code: int) -> NoReturn:
    """End the command."""
    if not _without_libraries:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    end_now(None, code=code)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    end_now("stopped; the same command goes on from here", code=128 + number)


def end_now(line: str | None, *, code: int) -> NoReturn:
    """End at once: a half-written part is cleared by the next run, the workers follow, Prefect's server is told to."""
    servers = getattr(sys.modules.get("prefect.server.api.server"), "SubprocessASGIServer", None)  # imported by now?
    for server in list(servers._instances.values()) if servers else ():
        server.stop()
    if line is not None:
        os.write(2, f"build-shards: {line}\n".encode())
    os._exit(code)
