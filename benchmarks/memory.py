"""Memory of a real build, process by process, while 200 and then 2,000 clips go through the real command.

    python -m benchmarks.memory                 writes benchmarks/results/memory.json; 10 GB of disk for a while

Clips are 50 of each of some hour-long videos that are cheap to decode (128 x 72 pixels, 5 frames a second, sound at
8 kHz), with the filters off, so that book-keeping weighs as much as it can. Resident memory is read twice a second, and
told at 10, 50 and 100% of the clips prepared, and at its peak until the command's end. CPU seconds of a worker are with
those of the ffmpeg that it ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import tyro

from benchmarks.environment import environment
from pipeline import media
from pipeline.build import Build
from pipeline.prepare import Recipe
from pipeline.sources import list_sources
from pipeline.stages import prepare_samples
from pipeline.workers import WorkerPool

RESULT = Path(__file__).parent / "results" / "memory.json"
START = "start of a worker, CPU s"
EVERY_S = 0.5
SHARES = (0.1, 0.5, 1.0)
PER_VIDEO = 50  # clips, of an hour: none overlaps another
DISTINCT = 2  # videos; others are further names of these, whose clips lie elsewhere


def make_videos(folder: Path, count: int) -> None:
    """Hour-long videos: test pictures that move, and a tone that wanders over noise."""
    folder.mkdir()
    for number in range(count):
        video = folder / f"video {number:03d}.mkv"
        if number >= DISTINCT:
            os.link(folder / f"video {number % DISTINCT:03d}.mkv", video)
            continue
        tone = f"0.3*sin(2*PI*t*({200 + 50 * number}+100*sin(t/{3 + number})))+0.1*(random({number})-0.5)"
        words = [media.ffmpeg_exe(), "-nostdin", "-v", "error"]
        words += ["-f", "lavfi", "-i", f"testsrc2=size=128x72:rate=5:duration=3600,hue=h={90 * number}"]
        words += ["-f", "lavfi", "-i", f"aevalsrc={tone}:s=8000:d=3600"]
        subprocess.run([*words, "-c:v", "mpeg4", "-g", "25", "-c:a", "pcm_mulaw", str(video)], check=True)


def role_of(process: psutil.Process, parent: psutil.Process) -> str:
    """What a process of the run does."""
    words = " ".join(process.cmdline())
    if process == parent:
        return "flow"
    if process.ppid() != parent.pid:  # ffmpeg, or a worker's copy that is about to become one
        return "helper"
    return "worker" if "LokyProcess" in words else "server" if "prefect" in words else "helper"


class Watch:
    """What the processes of a command take, sampled until it ends."""

    def __init__(self, parent: psutil.Process, work: Path, num_parts: int) -> None:
        self.parent, self.work, self.num_parts = parent, work, num_parts
        self.roles: dict[psutil.Process, str] = {}
        self.cpu_s: dict[psutil.Process, float] = {}
        self.samples: list[tuple[float, dict[str, list[float]]]] = []
        """Share of the clips that are prepared, and the memory of each process by its role."""
        self.share = 0.0
        self.began_s = time.perf_counter()
        self.at_s: dict[str, float] = {}
        """When something was seen first, in seconds from the start."""

    def look(self) -> None:
        """Take one sample."""
        here: dict[str, list[float]] = defaultdict(list)
        with contextlib.suppress(psutil.Error):
            for process in [self.parent, *self.parent.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    role = self.roles.setdefault(process, role_of(process, self.parent))
                    times = process.cpu_times()
                    own = times.user + times.system
                    # Those of the flow's children are told by themselves.
                    of_ffmpeg = times.children_user + times.children_system if role == "worker" else 0.0
                    self.cpu_s[process] = own + of_ffmpeg
                    here[role].append(process.memory_info().rss / 1e6)
        self.share = max(self.share, len(list(self.work.glob("part-*.parquet"))) / self.num_parts)
        self.samples.append((self.share, here))
        for what, is_so in (("a worker runs", here["worker"]), ("all is prepared", self.share >= 1)):
            if is_so:
                self.at_s.setdefault(what, time.perf_counter() - self.began_s)

    def told(self) -> dict[str, Any]:
        """Memory of the largest process of each role, in MB, and CPU seconds by role."""
        found: dict[str, Any] = {"processes": {}, "cpu_s": {}, "memory, MB": {}, "at_s": self.at_s}
        for role in ("flow", "server", "worker"):
            of_role = [process for process, its in self.roles.items() if its == role]
            found["processes"][role] = len(of_role)
            found["cpu_s"][role] = sum(self.cpu_s[process] for process in of_role)
            largest = [(share, max(here[role])) for share, here in self.samples if here[role]]
            at = {f"at {mark:.0%}": next((mb for share, mb in largest if share >= mark), None) for mark in SHARES}
            found["memory, MB"][role] = at | {"peak": max((mb for _, mb in largest), default=None)}
        return found


def build(folder: Path, count: int, workers: int) -> dict[str, Any]:
    """One build of cheap clips, watched."""
    videos = folder / "videos"
    make_videos(videos, -(-count // PER_VIDEO))
    flags = ["--source", str(videos), "--clips-per-video", str(PER_VIDEO), "--limit", str(count), "--filters", "off"]
    return watched(folder, flags, count=count, workers=workers)


def watched(folder: Path, flags: list[str], *, count: int, workers: int) -> dict[str, Any]:
    """A build of ``count`` candidates by the real command: seconds, CPU seconds and memory by role, clips kept."""
    out = folder / "set"
    began = time.perf_counter()
    with (folder / "log").open("w") as log:
        command = psutil.Popen(
            [sys.executable, "-m", "flows.build_shards", *flags, "--out", str(out), "--workers", str(workers)],
            env=os.environ | {"PREFECT_HOME": str(folder / "prefect")},
            stdout=log,
            stderr=log,
        )
        watch = Watch(command, out / ".build", len(Build.batches(range(count), workers)))
        while command.poll() is None:
            watch.look()
            time.sleep(EVERY_S)
    assert command.returncode == 0, (folder / "log").read_text()[-2000:]
    seconds = time.perf_counter() - began
    database = sum(file.stat().st_size for file in (folder / "prefect").glob("prefect.db*"))
    counts = json.loads((out / "dataset.json").read_text())["counts"]
    spent = {"seconds": seconds, "Prefect's database, MB": database / 1e6}
    return {**spent, **watch.told(), "kept": counts["kept"]}


def start_of_worker() -> dict[str, float]:
    """CPU seconds of a fresh worker until it answers, and of its first and second clip, without ffmpeg's."""
    with tempfile.TemporaryDirectory() as scratch, WorkerPool(1) as pool:
        make_videos(Path(scratch, "videos"), 1)
        sources = list_sources(str(Path(scratch, "videos")), clips_per_video=2)
        worker = psutil.Process(pool.run(os.getpid))
        spent = {"until it answers": sum(worker.cpu_times()[:2])}
        for which, source in zip(("first clip", "second clip"), sources, strict=True):
            before_s = sum(worker.cpu_times()[:2])
            pool.run(prepare_samples, Path(scratch), [source], Recipe(), 0)
            spent[which] = sum(worker.cpu_times()[:2]) - before_s
    return spent


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The table, in Markdown."""
    yield "| clips | process | at 10%, MB | 50% | 100% | peak | CPU s | processes |\n|---|---|---|---|---|---|---|---|"
    for count, told in found["builds"].items():
        for role, memory in told["memory, MB"].items():
            cells = " | ".join(f"{mb:.0f}" for mb in memory.values())
            yield f"| {count} | {role} | {cells} | {told['cpu_s'][role]:.0f} | {told['processes'][role]} |"
        yield f"| {count} | all, in {told['seconds']:.0f} s | | | | | {sum(told['cpu_s'].values()):.0f} | |"
    yield f"a worker's CPU seconds: {found[START]}"


def main(counts: tuple[int, ...] = (200, 2_000), workers: int = 2) -> None:
    """Run the benchmark.

    Args:
        counts: Clips of each build.
        workers: Worker processes.
    """
    found: dict[str, Any] = {"environment": environment(), "workers": workers, "builds": {}}
    found[START] = {what: round(s, 2) for what, s in start_of_worker().items()}
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            found["builds"][str(count)] = build(Path(scratch), count, workers)
        print("\n".join(lines(found)), flush=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
