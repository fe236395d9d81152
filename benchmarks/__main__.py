"""All that tells how fast and how large the pipeline is, one after another, and the table of its aims.

    make bench MEDIA=folder PEER=python

MEDIA is a folder of music videos of about 30 s at 360p, 20 or more; without one, some are made. PEER is the Python of
an environment with video2dataset (``benchmarks.peers`` says how to make one); without it that row is left out. Each
benchmark writes its own result; one that fails is named at the end, and the others go on. Half an hour on two cores,
with nothing else to do; with LONG=1 another hour, for the builds of 2,000 clips and the 130,000 candidates.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import aims
from benchmarks.measure import videos_of
from pipeline import media

MADE = 24  # videos, where none are given
MADE_S = 30.5


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path | None = None
    """Folder of music videos; made where it is left out."""
    video2dataset: Path | None = None
    """Python of an environment that holds it."""
    long: bool = False
    """Run also what takes an hour."""


def commands(folder: Path, config: Config) -> Iterator[list[str]]:
    """Modules with their flags."""
    peer = ["--video2dataset", str(config.video2dataset)] if config.video2dataset else []
    yield ["stages", "--media", str(folder)]
    yield ["peers", "--media", str(folder), *peer]
    yield ["cores", "--media", str(folder)]
    yield ["frames", "--media", str(folder)]
    yield ["runners"]
    if config.long:
        yield ["memory"]
        yield ["scale"]


def make_media(folder: Path) -> Path:
    """Videos at 360p whose picture moves everywhere, each with chords of its own."""
    for number in range(MADE):
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


def main(config: Config) -> int:
    """Run all; 1 if one failed."""
    if config.media and not videos_of(config.media):
        print(f"bench: {config.media} holds no video ({media.PICTURE_SUFFIXES})", file=sys.stderr)
        return 2
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = config.media or make_media(Path(scratch))
        for name, *flags in commands(folder, config):
            print(f"$ python -m benchmarks.{name} {' '.join(flags)}", flush=True)
            if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags], check=False).returncode:
                failed.append(name)
    aims.main()
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
