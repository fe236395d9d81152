"""Waiting for what another process or thread does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 180  # a busy machine is no failing test
POLL_S = 0.02

T = TypeVar("T")


def wait_until(met: Callable[[], T], *, runs: subprocess.Popen | None = None, every_s: float = POLL_S) -> T:
    """Ask until the answer is true, and return it; the process ``runs``, if given, must not end before."""
    end_s = time.monotonic() + PATIENCE_S
    while not (found := met()):
        assert runs is None or runs.poll() is None, "it ended before"
        assert time.monotonic() < end_s, f"nothing came of it in {PATIENCE_S:g} s"
        time.sleep(every_s)
    return found
