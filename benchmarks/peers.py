"""Our pipeline beside what a user would pick: a plain script, and video2dataset 1.3.0.

    python -m benchmarks.peers --media FOLDER --video2dataset PYTHON

The same 30 s of the same files, in one run: videos of four minutes joined from clips of the folder, coded anew at 360p
and at 720p; what counts is CPU seconds a clip, all processes together, on one thread. Ours are those of a worker
process as builds have them, from the file to the shard; the plain script's (benchmarks/plain_script.py) those of its
loop; video2dataset's (benchmarks/video2dataset_job.py) those of a job of all clips less those of a job of one, by the
number of further clips, so that no start is counted. It ends with small mp4 and mp3 files where the others have
tensors.

PYTHON is that of an environment with the peer, which wants older packages than ours:

    python3.11 -m venv peer && peer/bin/pip install video2dataset==1.3.0 "pyarrow<19" pandas
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.environment import environment
from benchmarks.measure import cpu_s, spread, videos_of
from benchmarks.stages import FILTERS, pack_one
from pipeline import media, prepare, shards
from pipeline.clips import ClipSpan
from pipeline.filters.judge import Filters
from pipeline.prepare import Recipe
from pipeline.schema import Rejected
from pipeline.sources import Source
from pipeline.workers import WORKER_ENV, WorkerPool

RESULT = Path(__file__).with_name("results") / "peers.json"
SIZES_PX = {"360p": (640, 360), "720p": (1280, 720)}
NUM_JOINED = 8  # clips of 30 s in a video
FULL, BARE = "pipeline, all filters and denoising", "pipeline, bare"
PRECISIONS = {"video2dataset, quick": "low", "video2dataset, exact": "exact"}

Clips = Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path
    """Folder of music videos of about 30 s."""
    count: int = 5
    """Videos of four minutes made of them, and clips taken, one each."""
    video2dataset: Path | None = None
    """Python of an environment that holds video2dataset."""


def joined(paths: Sequence[Path], target: Path, size_px: tuple[int, int]) -> Path:
    """One video of several, coded anew at 25 frames a second."""
    width_px, height_px = size_px
    graph = "".join(
        f"[{i}:v:0]scale={width_px}:{height_px},setsar=1,fps=25,format=yuv420p[v{i}];"
        f"[{i}:a:0]aresample=44100,aformat=channel_layouts=stereo[a{i}];"
        for i in range(len(paths))
    )
    graph += "".join(f"[v{i}][a{i}]" for i in range(len(paths))) + f"concat=n={len(paths)}:a=1[v][a]"
    words = [media.ffmpeg_exe(), "-nostdin", "-v", "error"]
    words += [word for path in paths for word in ("-i", str(path))]
    words += ["-filter_complex", graph, "-map", "[v]", "-map", "[a]", "-c:v", "libx264", "-preset", "fast"]
    subprocess.run([*words, "-crf", "23", "-c:a", "aac", "-b:a", "128k", str(target)], check=True)
    return target


def by_pipeline(clips: Clips, *, bare: bool) -> list[float]:
    """CPU seconds of each clip, from the file to the shard; the first one is done once before."""
    recipe, filters = Recipe(denoise=not bare), (Filters(mode="off") if bare else FILTERS)
    took = []
    for path, start_s in [clips[0], *clips]:
        with tempfile.TemporaryDirectory() as folder:
            began = cpu_s()
            source = Source(
                source_id=path,
                link="",
                path=Path(path),
                title="clip",
                groups=(),
                video_id=path,
                span=ClipSpan(start_s=start_s),
            )
            sample = prepare.prepare(source, recipe=recipe, seed=0, filters=filters)
            assert not isinstance(sample, Rejected), sample
            (row,) = shards.write_part(Path(folder), [source], [shards.prepared(source, sample)])
            pack_one(row, Path(folder))
            took.append(cpu_s() - began)
    return took[1:]


def by_script(clips: Clips) -> dict[str, list[float]]:
    """CPU seconds of each clip by the plain script, both ways, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.plain_script", json.dumps(clips), folder]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | WORKER_ENV)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def by_video2dataset(python: Path, clips: Clips, precision: str) -> float:
    """CPU seconds of a job."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(__file__).with_name("video2dataset_job.py")
        words = [str(python), str(job), json.dumps(clips), folder, precision]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    if told["successes"] != len(clips):
        raise RuntimeError(f"video2dataset made {told['successes']} of {len(clips)} clips")
    return float(told["cpu_s"])


def measure(clips: Clips, python: Path | None) -> dict[str, Any]:
    """CPU seconds a clip of each way: median and middle half of the clips; for video2dataset the mean alone."""
    with WorkerPool(1) as worker:
        ways = {
            FULL: worker.run(_by_pipeline_full, clips),
            BARE: worker.run(_by_pipeline_bare, clips),
        }
    told = by_script(clips)
    ways |= {"plain script, every frame": told["all"], "plain script, 64 frames": told["some"]}
    result: dict[str, Any] = {name: spread(values) for name, values in ways.items()}
    for name, precision in PRECISIONS.items() if python else ():
        whole, one = (by_video2dataset(python, some, precision) for some in (clips, clips[:1]))
        result[name] = {"mean": round((whole - one) / (len(clips) - 1), 3)}
    return result


def _by_pipeline_full(clips: Clips) -> list[float]:
    return by_pipeline(clips, bare=False)


def _by_pipeline_bare(clips: Clips) -> list[float]:
    return by_pipeline(clips, bare=True)


def main(config: Config) -> int:
    """Make the videos, print the table, and write it down."""
    found = videos_of(config.media)
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"environment": environment(), "clips": config.count, "cpu_s": {}}
    for size, size_px in SIZES_PX.items():
        with tempfile.TemporaryDirectory() as folder:
            clips = []
            for number in range(config.count):
                chosen = [found[(number * NUM_JOINED + i) % len(found)] for i in range(NUM_JOINED)]
                path = joined(chosen, Path(folder) / f"{number}.mp4", size_px)
                clips.append((str(path), round(float(rng.uniform(30, 200)), 3)))
            result["cpu_s"][size] = measure(clips, config.video2dataset)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """CPU seconds a clip, and how many times that is of the pipeline with all that it does, and bare; in Markdown."""
    sizes = result["cpu_s"]
    names = list(next(iter(sizes.values())))
    lines = [["CPU seconds a clip", *(f"{size}" for size in sizes)], ["---"] * (1 + len(sizes))]
    for name in names:
        cells = []
        for found in sizes.values():
            ours = [found[way]["median"] for way in names[:2]]
            value = found[name].get("median", found[name].get("mean"))
            times = " and ".join(f"{value / own:.1f}x" for own in ours)
            cells.append(f"{value:.2f} ({times})")
        lines.append([name, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
