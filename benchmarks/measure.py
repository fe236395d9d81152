"""What the benchmarks share: which clips they take or make, how CPU time is read, how many values become one."""

from __future__ import annotations

import resource
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipeline import media

MADE_S = 30.5


def videos_of(folder: Path) -> list[Path]:
    """Videos of a folder and its folders, by name."""
    suffixes = media.PICTURE_SUFFIXES.split()
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def make_media(folder: Path, count: int) -> Path:
    """Stand-ins for music videos: 360p, with a picture that moves everywhere and chords of its own."""
    for number in range(count):
        tones = "+".join(
            f"0.15*sin(2*PI*{110 * 2 ** ((number * 5 + step) % 24 / 12):.2f}*t)*(0.6+0.4*sin({step}*t))"
            for step in (1, 5, 8)
        )
        words = [media.ffmpeg_exe(), "-nostdin", "-v", "error"]
        words += ["-f", "lavfi", "-i", f"mandelbrot=size=640x360:rate=25:start_x=-0.7{number:02d}:end_pts=900"]
        words += ["-f", "lavfi", "-i", f"aevalsrc={tones}:s=44100", "-t", str(MADE_S)]
        words += ["-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p", "-c:a", "aac"]
        subprocess.run([*words, str(folder / f"{number:02d}.mp4")], check=True)
    return folder


def cpu_s() -> float:
    """CPU seconds of this process and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the middle half of the values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 4), "quarter": round(low, 4), "three_quarters": round(high, 4)}
