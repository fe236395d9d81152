"""How far a build is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from tqdm import tqdm

LINE_EVERY_S = 15.0


class Progress:
    """Count candidates as they are done; shows how they ended, rate and time left."""

    def __init__(self, total: int, log: Callable[[str], None], *, doing: str, ends: Sequence[str]) -> None:
        self._bar = tqdm(total=total, unit="clip", desc=doing, disable=None, file=sys.stderr)
        self._log = log
        self._total = total
        self._ends = ends
        self._counts: Counter[str] = Counter()
        self._start_s = self._logged_s = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, ended: Iterable[str]) -> None:
        """Count candidates by how they ended, one of ``ends`` each."""
        before = self._counts.total()
        self._counts.update(ended)
        done = self._counts.total()
        self._bar.set_postfix(self._shown(), refresh=False)
        self._bar.update(done - before)
        now_s = time.monotonic()
        if self._bar.disable and (now_s - self._logged_s >= LINE_EVERY_S or done == self._total):
            self._logged_s = now_s
            rate = done / max(now_s - self._start_s, 1e-6)
            words = ", ".join(f"{n} {name}" for name, n in self._shown().items())
            left_s = round((self._total - done) / rate)
            left = str(datetime.timedelta(seconds=left_s))
            self._log(f"{done} of {self._total} clips: {words}; {rate:.2f} clips/s, {left} left")

    def _shown(self) -> dict[str, int]:
        return {name: self._counts[name] for name in self._ends}
