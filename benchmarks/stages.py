"""What a clip costs, stage by stage, beside the floor: one plain ffmpeg pass that gives the same frames and sound.

    python -m benchmarks.stages --media FOLDER --count 12 --rounds 3

CPU seconds of a worker process as builds have them and of its children, of each clip as it is and enlarged to 720p.
Preparation is all from the file to the part on disk: bare, without denoising and filters, and full, with both. Floor,
bare and full take turns, clip by clip, so that a busy machine slows all of them; the ratios are medians over clips of
each clip's fastest round. Stages are those whose functions a profile of ``prepare`` named: each is timed in place, in a
pass of its own; packing, which follows once for all, is the last.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tyro

from benchmarks.environment import environment
from benchmarks.measure import cpu_s, spread, videos_of
from pipeline import audio, denoise, fingerprint, media, prepare, shards
from pipeline.clips import ClipSpan
from pipeline.filters import motion, sound, speech
from pipeline.filters.judge import Filters
from pipeline.filters.text import DEFAULT_RULES, read_rules
from pipeline.prepare import Recipe
from pipeline.schema import Rejected
from pipeline.shards import Row
from pipeline.sources import Source
from pipeline.workers import WorkerPool

RESULT = Path(__file__).with_name("results") / "stages.json"
FILTERS = Filters(mode="score", rules=read_rules(DEFAULT_RULES))

STAGES: dict[str, list[tuple[Any, str]]] = {
    "hash": [(prepare, "_sha256")],
    "probe": [(media, "probe")],
    "seek": [(media, "_lead_s")],
    "decode": [(media, "_run")],
    "read": [(media, "_read_frames"), (media, "_read_audio")],
    "sound filters": [(sound, "scores")],
    "speech": [(speech, "scores")],
    "motion": [(motion, "scores")],
    "thumbnail": [(prepare, "thumbnail")],
    "denoise": [(denoise, "find_noise"), (denoise, "denoise")],
    "resample": [(audio, "at_rates")],
    "features": [(prepare, "mel_and_phase")],
    "picture print": [(fingerprint, "frame_hashes")],
    "moments": [(shards, "channel_moments")],
    "encode": [(shards, "encode")],
    "write": [(shards, "write_part")],
}
"""Functions timed, by the stage that they belong to; what they call that has a stage of its own counts there."""

ALL_STAGES = (*STAGES, "everything else", "pack")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path
    """Folder of videos of 30 s or more."""
    count: int = 12
    """Clips taken of it, evenly."""
    rounds: int = 3
    """How often each is prepared; the fastest round counts."""


def floor(path: Path, target: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames and sound of the first 30 s by one ffmpeg command that does nothing else."""
    graph = (
        "[0:v:0]tpad=stop_mode=clone:stop_duration=1,fps=64/30:round=up:start_time=0,trim=end_frame=64,"
        f"scale=128:128:flags={media.SCALE_FLAGS},format=rgb24[v];"
        "[0:a:0]aresample=32000:async=1:first_pts=0,aformat=sample_fmts=flt:channel_layouts=mono,"
        "atrim=end_sample=960000[a]"
    )
    words = [media.ffmpeg_exe(), "-nostdin", "-v", "error", "-y", "-threads", "1", "-i", str(path)]
    words += ["-filter_complex_threads", "1", "-filter_complex", graph]
    words += ["-map", "[v]", "-f", "rawvideo", "-fps_mode", "passthrough", str(target / "v")]
    words += ["-map", "[a]", "-f", "f32le", str(target / "a")]
    subprocess.run(words, check=True)
    frames = np.fromfile(target / "v", np.uint8).reshape(-1, 128, 128, 3)
    return frames, np.fromfile(target / "a", np.float32)


def spent(function: Callable[[], object]) -> float:
    """CPU seconds that a call takes."""
    began = cpu_s()
    function()
    return cpu_s() - began


def prepare_one(path: Path, folder: Path, *, bare: bool) -> Row:
    """From one file to its part on disk."""
    recipe, filters = Recipe(denoise=not bare), (Filters(mode="off") if bare else FILTERS)
    source = Source(source_id=path.name, path=path, title=path.stem, link="", groups=(), video_id=path.name)
    sample = prepare.prepare(source, recipe=recipe, seed=0, filters=filters)
    assert not isinstance(sample, Rejected), sample
    (row,) = shards.write_part(folder, [source], [shards.prepared(source, sample)])
    return row


def pack_one(row: Row, folder: Path) -> None:
    """From a part to a shard."""
    row |= {"split": "train", "source_group": row["key"], "shard": "train-000000.tar"}
    shards.pack_shard(folder, [row], parts=folder, labels=None, recipe_hash="")


@contextlib.contextmanager
def timed(totals: dict[str, float]) -> Iterator[None]:
    """Add up what each stage takes itself, without the stages that it calls."""
    inner_s = [0.0]

    def wrapped(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **words: Any) -> Any:
            began, _ = cpu_s(), inner_s.append(0.0)
            try:
                return function(*args, **words)
            finally:
                took_s = cpu_s() - began
                totals[stage] += took_s - inner_s.pop()
                inner_s[-1] += took_s

        return call

    with contextlib.ExitStack() as stack:
        for stage, functions in STAGES.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, wrapped(stage, getattr(owner, name))))
        yield


def enlarged(path: Path, folder: Path) -> Path:
    """The video at 720p, coded anew."""
    target = folder / f"{path.stem}.mp4"
    words = [media.ffmpeg_exe(), "-nostdin", "-v", "error", "-i", str(path), "-vf", "scale=1280:720"]
    words += ["-c:v", "libx264", "-preset", "medium", "-crf", "23", "-c:a", "aac", "-b:a", "128k", str(target)]
    subprocess.run(words, check=True)
    return target


def measure(paths: list[Path], rounds: int) -> dict[str, Any]:
    """Medians over clips: CPU seconds of the three ways, their ratios to the floor, and of each stage."""
    check_floor(paths[0])
    fastest: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, list[float]] = defaultdict(list)
    for path in paths:
        takes: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for name, call in (
                ("floor", floor),
                ("bare", functools.partial(prepare_one, bare=True)),
                ("full", functools.partial(prepare_one, bare=False)),
            ):
                with tempfile.TemporaryDirectory() as scratch:
                    takes[name].append(spent(functools.partial(call, path, Path(scratch))))
        for name, seconds in takes.items():
            fastest[name].append(min(seconds))
        totals: dict[str, float] = defaultdict(float)
        with tempfile.TemporaryDirectory() as scratch:
            with timed(totals):
                began = cpu_s()
                row = prepare_one(path, Path(scratch), bare=False)
                whole = cpu_s() - began
            totals["everything else"] = whole - sum(totals.values())
            totals["pack"] = spent(functools.partial(pack_one, row, Path(scratch)))
        for name in ALL_STAGES:
            stages[name].append(totals.get(name, 0.0))
    over = [full - 1.5 * low for full, low in zip(fastest["full"], fastest["floor"], strict=True)]
    ratio = [bare / low for bare, low in zip(fastest["bare"], fastest["floor"], strict=True)]
    return {
        "clips": len(paths),
        "cpu_s": {name: spread(values) for name, values in fastest.items()},
        "bare_over_floor": spread(ratio),
        "full_minus_1.5_floor_s": spread(over),
        "stages_s": {name: spread(values) for name, values in stages.items()},
    }


def check_floor(path: Path) -> None:
    """Fail unless the floor gives the same; imports, models and tables are loaded on the way, once a worker."""
    with tempfile.TemporaryDirectory() as scratch:
        pack_one(prepare_one(path, Path(scratch), bare=False), Path(scratch))
        clip = media.decode_clip(path, ClipSpan(start_s=0), media.probe(path))
        frames, heard = floor(path, Path(scratch))
    assert np.array_equal(frames, clip.frames_THWC), "the floor gives other frames"
    assert np.array_equal(heard, clip.audio), "the floor gives another sound"


def main(config: Config) -> int:
    """Print the table, and write it down."""
    paths = videos_of(config.media)
    paths = [path for path in paths if media.probe(path).duration_s("both") >= 30][
        :: max(1, len(paths) // config.count)
    ]
    paths = paths[: config.count]
    began = time.monotonic()
    result: dict[str, Any] = {"environment": environment(), "rounds": config.rounds}
    with tempfile.TemporaryDirectory() as folder, WorkerPool(1) as worker:
        result["as they are"] = worker.run(measure, paths, config.rounds)
        result["720p"] = worker.run(measure, [enlarged(path, Path(folder)) for path in paths], config.rounds)
    result["took_s"] = round(time.monotonic() - began)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """Both sizes side by side, in Markdown."""
    sizes = ("as they are", "720p")
    lines = [["CPU seconds a clip, median (middle half)", *sizes], ["---"] * 3]
    for kind, names in (
        ("cpu_s", ("floor", "bare", "full")),
        (None, ("bare_over_floor", "full_minus_1.5_floor_s")),
        ("stages_s", ALL_STAGES),
    ):
        for name in names:
            found = (result[size][kind] if kind else result[size] for size in sizes)
            lines.append([name, *(cell(one[name]) for one in found)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(found: dict[str, float]) -> str:
    """A median with its spread."""
    return f"{found['median']:.3f} ({found['quarter']:.3f} to {found['three_quarters']:.3f})"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
