"""How the command ends at Ctrl-C and SIGTERM, from its first moments on: this imports nothing that takes long."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def heed_signals() -> None:
    """End at once when asked to; Prefect may have put its own answers in the place of these."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: a half-written part is cleared by the next run, the workers follow, Prefect's server is told to."""
    servers = getattr(sys.modules.get("prefect.server.api.server"), "SubprocessASGIServer", None)  # imported by now?
    for server in list(servers._instances.values()) if servers else ():
        server.stop()
    os.write(2, b"build-shards: stopped; the same command goes on from here\n")
    os._exit(128 + number)
