"""The table of docs/operating.md: what 130,000 candidates take on 1, 4 and 16 machines, and what that costs.

    python -m benchmarks.operating --machine-hour 0.40 --gb-month 0.02

What was measured is read from ``benchmarks/results``; what is assumed, prices above all, are flags. Seconds of the CPU
are those of the processor on which they were measured.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.scale import SAMPLE_BYTES
from flows.crawling import CLIP_BYTES, FETCH_S
from pipeline.build import MAX_BATCH
from pipeline.schema import MEMBERS
from pipeline.sheet import QUALITY

RESULTS = Path(__file__).with_name("results")
HOUR_S = 3600.0
HOURS_A_MONTH = 730.0
PLAIN_CPU_S = 1.03  # of a clip at 360p, where benchmarks/results/stages.json is not there yet


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What nobody measured here: change it to what is true of you."""

    candidates: int = 130_000
    """Clips; all are taken to be kept, the largest case."""
    machines: tuple[int, ...] = (1, 4, 16)
    """Machines that prepare and pack."""
    cores: int = 8
    """Of a machine."""
    machine_hour: float = 0.40
    """Price of a machine for an hour."""
    gb_month: float = 0.02
    """Price of a gigabyte stored for a month."""
    disk_mb_s: float = 200.0
    """What a machine reads and writes of samples in a second, in all."""
    pause_s: float = 7.5
    """Between two candidates of one site, on average: --sleep-s 5 10."""
    sites: int = 1
    """Sites that are crawled at the same time."""
    samples_per_shard: int = 128
    """As asked of the build."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the benchmarks told."""

    clip_cpu_s: float
    """CPU seconds in which a clip is prepared."""
    global_h: float
    """CPU hours of what one process does alone: listing, plan, index and page, states."""
    tables_gb: float
    """Tables of parts and plan, while the build runs."""
    store_gb: float
    """The crawl's database."""
    index_gb: float
    """All of a set but its tars."""
    server_cpu_s: float
    """Of Prefect's server, a task."""
    task_bytes: float
    """Of Prefect's database, a task."""
    sample_bytes: float
    """Of a tar."""
    jpeg_bytes: float | None
    """The same with frames as JPEG; none where that was not measured."""

    @classmethod
    def read(cls, folder: Path, candidates: int) -> Measured:
        """Read the results; steps measured at another size are scaled."""
        scale = json.loads((folder / "scale.json").read_text())
        size = max(scale["sizes"], key=int)
        steps, share = scale["sizes"][size], candidates / int(size)
        alone = ("listing", "candidates", "resumed", "plan", "finish", "settle")
        return cls(
            clip_cpu_s=_clip_cpu_s(folder / "stages.json"),
            global_h=share * sum(steps[name]["cpu_s"] for name in alone) / HOUR_S,
            tables_gb=share * (steps["parts"]["parts, MB"] + steps["plan"]["plan, MB"]) / 1000,
            store_gb=share * steps["fetches"]["database, MB"] / 1000,
            index_gb=share * steps["finish"]["all but tars, MB"] / 1000,
            server_cpu_s=scale["prefect"]["server CPU ms a task"] / 1000,
            task_bytes=scale["prefect"]["SQLite bytes a task"],
            sample_bytes=SAMPLE_BYTES,
            jpeg_bytes=_jpeg_bytes(folder / "frames.json"),
        )


def _clip_cpu_s(file: Path) -> float:
    if not file.exists():
        return PLAIN_CPU_S
    return float(json.loads(file.read_text())["as they are"]["cpu_s"]["full"]["median"])


def _jpeg_bytes(file: Path) -> float | None:
    """Of a sample with the frames that ``--frames jpeg`` stores."""
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    frames = MEMBERS["frames"]
    lossless = frames.dtype.itemsize * frames.shape[0] * frames.shape[1] * frames.shape[2] * frames.shape[3]
    return float(SAMPLE_BYTES - lossless + found["frames"][f"jpeg {QUALITY} 4:4:4"]["bytes"]["median"])


def derive(assumed: Assumed, measured: Measured, machines: int) -> dict[str, float]:
    """Hours, gigabytes, load and cost of so many machines."""
    count, cores = assumed.candidates, machines * assumed.cores
    shards = -(-count // assumed.samples_per_shard)
    tasks = -(-count // MAX_BATCH) + shards
    set_gb = count * measured.sample_bytes / 1e9 + measured.index_gb
    clips_gb = count * CLIP_BYTES / 1e9
    hours = {
        "crawl, h": count / assumed.sites * (assumed.pause_s + FETCH_S) / HOUR_S,
        "prepare, h": count * measured.clip_cpu_s / cores / HOUR_S,
        "pack, h": 2 * count * measured.sample_bytes / 1e6 / (machines * assumed.disk_mb_s) / HOUR_S,
        "plan and finish, h": measured.global_h,
    }
    folder_h = hours["prepare, h"] + hours["pack, h"] + hours["plan and finish, h"]
    # A crawl prepares meanwhile; it is one machine's work however many there are.
    crawl_h = max(hours["crawl, h"], hours["prepare, h"]) + hours["pack, h"] + hours["plan and finish, h"]
    packing_gb = min(cores, shards) * assumed.samples_per_shard * measured.sample_bytes / 1e9  # a shard a worker
    peak_gb = set_gb + packing_gb + measured.tables_gb
    return {
        **hours,
        "from a folder, h": folder_h,
        "from a crawl, h": crawl_h,
        "clips fetched, GB": clips_gb + measured.store_gb,
        "set, npy frames, GB": set_gb,
        "set, jpeg frames, GB": (measured.jpeg_bytes or float("nan")) * count / 1e9 + measured.index_gb,
        "most at once without the clips, GB": peak_gb,
        "Prefect's tasks": tasks,
        "Prefect's database, GB": tasks * measured.task_bytes / 1e9,
        "share of a core for Prefect's server": cores / (MAX_BATCH * measured.clip_cpu_s) * measured.server_cpu_s,
        "machines, from a folder": folder_h * machines * assumed.machine_hour,
        "machine, while it crawls": crawl_h * assumed.machine_hour,
        "storage while it is built from a folder": peak_gb * assumed.gb_month * folder_h / HOURS_A_MONTH,
        "storage of the set, a month": set_gb * assumed.gb_month,
    }


def table(assumed: Assumed, measured: Measured) -> str:
    """In Markdown."""
    columns = [derive(assumed, measured, number) for number in assumed.machines]
    heads = [f"{number} machine{'s' if number > 1 else ''}" for number in assumed.machines]
    lines = [f"| {assumed.candidates:,} clips | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    rows = (f"| {name} | {' | '.join(_cell(column[name]) for column in columns)} |" for name in columns[0])
    return "\n".join([*lines, *rows])


def _cell(value: float) -> str:
    if math.isnan(value):
        return "to be measured"
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def main(assumed: Assumed) -> None:
    """Print what is assumed, what was measured, and the table."""
    measured = Measured.read(RESULTS, assumed.candidates)
    print(assumed)
    print(measured)
    print(table(assumed, measured))


if __name__ == "__main__":
    main(tyro.cli(Assumed, description=__doc__))
