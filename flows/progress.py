"""How far a build is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

LINE_EVERY_S = 15.0


class Progress:
    """Count candidates as they are done; shows kept, rejected, failed, rate and time left."""

    def __init__(self, total: int, log: Callable[[str], None]) -> None:
        self._bar = tqdm(total=total, unit="clip", desc="prepare", disable=None, file=sys.stderr)
        self._log = log
        self._total = total
        self._counts: Counter[str] = Counter()
        self._start_s = self._logged_s = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Count the rows of a finished batch."""
        self._counts.update(row["status"] for row in rows)
        self._bar.set_postfix(self._shown(), refresh=False)
        self._bar.update(len(rows))
        now_s = time.monotonic()
        done = self._counts.total()
        if self._bar.disable and (now_s - self._logged_s >= LINE_EVERY_S or done == self._total):
            self._logged_s = now_s
            rate = done / (now_s - self._start_s)
            words = ", ".join(f"{n} {name}" for name, n in self._shown().items())
            left_s = (self._total - done) / rate
            self._log(f"{done} of {self._total} clips: {words}; {rate:.2f} clips/s, {left_s:.0f} s left")

    def _shown(self) -> dict[str, int]:
        return {name: self._counts[name] for name in ("kept", "rejected", "failed")}
