"""What pipeline and trainer aim at, and whether it gets there; and all tables that are made from the results.

    python -m benchmarks.aims

writes those tables anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import operating, peers, prediction, reading, stages

RESULTS = Path(__file__).with_name("results")
DOCUMENTS = (Path(__file__).with_name("README.md"), Path(__file__).parents[1] / "docs" / "operating.md")
SECTION = re.compile(r"(<!-- (?P<name>\w+): from the results -->\n).*?(<!-- end -->\n)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A figure, and what it should be."""

    what: str
    file: str
    """Of the result, without its suffix: that of the benchmark."""
    measured: Callable[[dict[str, Any]], float]
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""
    if_missed: str = ""
    """Why, where it is missed."""

    def is_met(self, value: float) -> bool:
        """Tell whether a figure is good enough."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


def times(way: str, ours: str, size: str) -> Callable[[dict[str, Any]], float]:
    """How many times our CPU seconds another way takes."""

    def ratio(result: dict[str, Any]) -> float:
        found = result["cpu_s"][size]
        return float(found[way].get("median", found[way].get("mean")) / found[ours]["median"])

    return ratio


def growth(role: str) -> Callable[[dict[str, Any]], float]:
    """Peak memory of a process at the most clips over that at the fewest."""

    def ratio(result: dict[str, Any]) -> float:
        few, many = (result["builds"][count]["memory, MB"][role]["peak"] for count in ("200", "2000"))
        return float(many / few)

    return ratio


def as_fast(form: str, compared: tuple[str, str]) -> Callable[[dict[str, Any]], float]:
    """How many times as fast as another way of reading one is."""
    return lambda result: float(result[form]["times_as_fast"][" / ".join(compared)]["median"])


def aims() -> Iterator[Aim]:
    """All of them, in the order of the table."""
    for size, named in (("as they are", "360p"), ("720p", "720p")):
        yield Aim(
            what=f"{named}: preparing without denoising and filters, over the floor",
            file="stages",
            measured=lambda result, size=size: float(result[size]["bare_over_floor"]["median"]),
            at_most=1.25,
            unit="x",
        )
        yield Aim(
            what=f"{named}: preparing with both, beyond 1.5 times the floor",
            file="stages",
            measured=lambda result, size=size: float(result[size]["full_minus_1.5_floor_s"]["median"]),
            at_most=0.35,
            unit=" s",
        )
    for size in ("360p", "720p"):
        for script in ("every frame", "64 frames"):
            yield Aim(
                what=f"{size}: a plain script ({script}), in CPU time of ours that does the same work",
                file="peers",
                measured=times(f"plain script, {script}", peers.BARE, size),
                at_least=4,
                unit="x",
                if_missed="out of reach: one ffmpeg pass, the floor, takes more than a quarter of the script's time",
            )
        for mode, limit in (("quick", 2), ("exact", 15)):
            yield Aim(
                what=f"{size}: video2dataset ({mode}), in CPU time of ours with filters and denoising",
                file="peers",
                measured=times(f"video2dataset, {mode}", peers.FULL, size),
                at_least=limit,
                unit="x",
            )
    yield Aim(
        what="200 clips, 2 workers on 2 cores: time over CPU work / cores",
        file="cores",
        measured=lambda result: float(result["wall_over_work"]),
        at_most=1.15,
        unit="x",
        if_missed="while clips are prepared both cores work, but Prefect and its server take 16 s before a worker runs",
    )
    for role in ("worker", "flow"):
        yield Aim(
            what=f"2,000 clips after 200: peak memory of the largest {role} process",
            file="memory",
            measured=growth(role),
            at_most=1.1,
            unit="x",
        )
    yield Aim(
        what="2,000 clips, 2 workers: worker processes started",
        file="memory",
        measured=lambda result: float(result["builds"]["2000"]["processes"]["worker"]),
        at_most=2,
    )
    for form in reading.FORMS:
        for words, compared in (
            ("in one process, over a loop that decodes the same and keeps nothing", reading.IN_ONE),
            (f"by {reading.SOME}, over the same loop in workers of torch's DataLoader", reading.IN_SOME),
        ):
            yield Aim(
                what=f"training reads {form} frames: {words}",
                file="reading",
                measured=as_fast(form, compared),
                at_least=0.8,
                unit="x",
            )
    yield Aim(
        what="the curve of 4 minutes at 360p, a window every 30 s (paper's slow-fast network): times real time",
        file="prediction",
        measured=lambda result: float(result["times_real_time"]["30"]["median"]),
        at_least=10,
        unit="x",
    )
    yield Aim(
        what="the curve of 3 hours after that of 4 minutes: peak memory",
        file="prediction",
        measured=lambda result: float(result["peak_mb"]["3 hours"] / result["peak_mb"]["4 minutes"]),
        at_most=1.1,
        unit="x",
    )


def table() -> str:
    """The aims with their figures, in Markdown; a result that is not there yet leaves a dash."""
    lines = ["| aim | wanted | measured | |", "|---|---|---|---|"]
    for aim in aims():
        wanted = f"at most {aim.at_most:g}" if aim.at_most is not None else f"at least {aim.at_least:g}"
        result = read(aim.file)
        if result is None:
            lines.append(f"| {aim.what} | {wanted}{aim.unit} | - | run `benchmarks.{aim.file}` |")
            continue
        value = aim.measured(result)
        end = "met" if aim.is_met(value) else f"**missed**: {aim.if_missed}" if aim.if_missed else "**missed**"
        lines.append(f"| {aim.what} | {wanted}{aim.unit} | {value:.2f}{aim.unit} | {end} |")
    return "\n".join(lines)


def read(name: str) -> dict[str, Any] | None:
    """A result, if there is one."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _of(module: Any, name: str) -> str:
    result = read(name)
    return module.table(result) if result else "not measured yet"


def _of_operating() -> str:
    assumed = operating.Assumed()
    return operating.table(assumed, operating.Measured.read(RESULTS, assumed.candidates))


SECTIONS: dict[str, Callable[[], str]] = {
    "aims": table,
    "stages": lambda: _of(stages, "stages"),
    "peers": lambda: _of(peers, "peers"),
    "reading": lambda: _of(reading, "reading"),
    "prediction": lambda: _of(prediction, "prediction"),
    "operating": _of_operating,
}


def with_tables(text: str) -> str:
    """A text with its tables made anew."""

    def section(found: re.Match[str]) -> str:
        made = SECTIONS[found["name"]]()
        return f"{found[1]}\n{made}\n\n{found[3]}"

    return SECTION.sub(section, text)


def main() -> int:
    """Write the tables."""
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text()))
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
