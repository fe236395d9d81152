"""How fast the emotion of a whole video is told, in how much memory, and whether one decode gives what many give.

    python -m benchmarks.prediction --media FOLDER --run RUN

The folder's clips, one behind the other at 360p, make a video of 4 minutes; 45 times that, one of 3 hours. Each is
judged by the real command: time with the start of Python and torch in it, peak memory of its process. The floor is one
ffmpeg pass over the video that gives frames and sound and throws them away. ``apart`` judges the same windows one by
one, each sought and decoded for itself, as clips are when shards are built.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.environment import environment
from benchmarks.measure import spread, videos_of
from pipeline import media
from pipeline.clips import ClipSpan
from pipeline.prepare import Recipe, features
from trainer.inputs import Inputs
from trainer.trained import Trained, open_trained

RESULT = Path(__file__).with_name("results") / "prediction.json"
PART_S = 24
SONG_S = 240
LONG_TIMES = 45


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path
    """Folder of music videos of about 30 s."""
    run: Path
    """Fine-tuned run; its network decides what judging costs."""
    every: tuple[float, ...] = (30.0, 5.0)
    """Seconds between windows."""
    rounds: int = 3
    """Of each measurement, in turn."""
    hours: bool = True
    """Whether three hours are judged too, at the first of --every."""


def main(config: Config) -> int:
    """Measure, print, and write it down."""
    trained = open_trained(config.run)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        song = joined(videos_of(config.media)[: SONG_S // PART_S], folder / "song.mp4")
        duration_s = media.probe(song).duration_s("both")
        floors, took, peak_mb = [], {every: list[float]() for every in config.every}, 0.0
        for _ in range(config.rounds):
            floors.append(floor_s(song))
            for every in config.every:
                seconds, used = judged(song, config.run, every, folder / f"every-{every:g}")
                took[every].append(seconds)
                peak_mb = max(peak_mb, used) if every == config.every[0] else peak_mb
        result: dict[str, Any] = {
            "environment": environment(),
            "network": trained.config.name,
            "video_s": round(duration_s, 1),
            "floor_s": spread(floors),
            "predict_s": {f"{every:g}": spread(seconds) for every, seconds in took.items()},
            "times_real_time": {
                f"{every:g}": spread([duration_s / s for s in seconds]) for every, seconds in took.items()
            },
            "apart": apart(song, trained, folder / f"every-{config.every[0]:g}"),
            "peak_mb": {"4 minutes": round(peak_mb)},
        }
        if config.hours:
            long = looped(song, folder / "long.mp4")
            seconds, used = judged(long, config.run, config.every[0], folder / "long")
            result["peak_mb"] |= {"3 hours": round(used)}
            result["long"] = {"video_s": round(LONG_TIMES * duration_s), "predict_s": round(seconds, 1)}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


def table(result: dict[str, Any]) -> str:
    """Times and memory, in Markdown."""
    video_s, floor = result["video_s"], result["floor_s"]["median"]
    lines = ["| | seconds | times real time | peak memory, MB |", "| --- | --- | --- | --- |"]
    lines += [f"| {video_s:g} s, one ffmpeg pass alone | {floor:.1f} | {video_s / floor:.1f} | |"]
    for every, took in result["predict_s"].items():
        speed, used = result["times_real_time"][every]["median"], result["peak_mb"]["4 minutes"]
        memory = f"{used:,}" if every == next(iter(result["predict_s"])) else ""
        lines += [f"| {video_s:g} s, a window every {every} s | {took['median']:.1f} | {speed:.1f} | {memory} |"]
    if long := result.get("long"):
        speed, used = long["video_s"] / long["predict_s"], result["peak_mb"]["3 hours"]
        every = next(iter(result["predict_s"]))
        words = f"{long['video_s']:,} s, a window every {every} s"
        lines += [f"| {words} | {long['predict_s']:.1f} | {speed:.1f} | {used:,} |"]
    return "\n".join(lines)


def joined(parts: list[Path], target: Path) -> Path:
    """Put clips one behind the other, each at 640 x 360 and 25 frames a second."""
    words, filters, labels = [media.ffmpeg_exe(), "-nostdin", "-v", "error"], "", ""
    for number, part in enumerate(parts):
        words += ["-t", str(PART_S), "-i", str(part)]
        filters += f"[{number}:v]scale=640:360,fps=25,setsar=1[v{number}];"
        filters += f"[{number}:a]aresample=44100,aformat=channel_layouts=stereo,apad=whole_dur={PART_S}[a{number}];"
        labels += f"[v{number}][a{number}]"
    filters += f"{labels}concat=n={len(parts)}:v=1:a=1[v][a]"
    words += ["-filter_complex", filters, "-map", "[v]", "-map", "[a]", "-c:v", "libx264", "-preset", "veryfast"]
    subprocess.run([*words, "-c:a", "aac", str(target)], check=True)
    return target


def looped(song: Path, target: Path) -> Path:
    """Repeat a video without decoding it."""
    words = ["-nostdin", "-v", "error", "-stream_loop", str(LONG_TIMES - 1), "-i", str(song), "-c", "copy"]
    subprocess.run([media.ffmpeg_exe(), *words, str(target)], check=True)
    return target


def floor_s(song: Path) -> float:
    """Seconds of one pass over the video by ffmpeg, frames at 64 in 30 s and sound at 32 kHz."""
    words = ["-nostdin", "-v", "error", "-i", str(song), "-map", "0:v:0", "-map", "0:a:0"]
    words += ["-vf", "fps=64/30,scale=128:128,format=rgb24", "-ar", "32000", "-ac", "1", "-f", "null", "-"]
    start = time.perf_counter()
    subprocess.run([media.ffmpeg_exe(), *words], check=True)
    return time.perf_counter() - start


def judged(video: Path, run: Path, every: float, out: Path) -> tuple[float, float]:
    """Run the command; seconds, and MB of its process at the highest."""
    flags = ["--run", str(run), "--every", str(every), "--out", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "trainer.predict", str(video), *flags], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"prediction: trainer.predict ended with {process.returncode}")
    return time.perf_counter() - start, used.ru_maxrss / 1000


def apart(song: Path, trained: Trained, out: Path) -> dict[str, float]:
    """Judge the windows of a curve one by one: the largest differences, and seconds for decoding alone."""
    curve = json.loads((out / "curve.json").read_text())
    specs = trained.classifier.encoder.inputs
    to_inputs = Inputs(specs, trained.config.normalization, torch.device("cpu"))
    found, recipe = media.probe(song), Recipe(**trained.config.recipe)
    decode_s, said = 0.0, []
    for start_s in curve["starts_s"]:
        start = time.perf_counter()
        clip = media.decode_clip(song, ClipSpan(start_s=start_s), found, with_small=False, with_print=False)
        decode_s += time.perf_counter() - start
        arrays, _ = features(clip, recipe=recipe)
        with torch.inference_mode():
            logits = trained.classifier(to_inputs({name: torch.from_numpy(a[None]) for name, a in arrays.items()}))
        said.append(logits.double().softmax(1).numpy()[0])
    probabilities = np.array(said)
    return {
        "probability": float(np.abs(probabilities - curve["probabilities"]).max()),
        "score": float(np.abs(trained.sigmoids["both"](probabilities) - curve["scores"]).max()),
        "decode_s": round(decode_s, 2),
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
