"""What the benchmarks share: which clips they take, how CPU time is read, how many values become one."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Sequence
from pathlib import Path

from pipeline import media


def videos_of(folder: Path) -> list[Path]:
    """Videos of a folder and its folders, by name."""
    suffixes = media.PICTURE_SUFFIXES.split()
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def cpu_s() -> float:
    """CPU seconds of this process and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the middle half of the values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 4), "quarter": round(low, 4), "three_quarters": round(high, 4)}
