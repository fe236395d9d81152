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
from benchmarks.measure import make_media, videos_of
from pipeline import media

MADE = 24  # videos, where none are given


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
    yield ["reading", "--media", str(folder)]
    yield ["runners"]
    if config.long:
        yield ["memory"]
        yield ["scale"]


def main(config: Config) -> int:
    """Run all; 1 if one failed."""
    if config.media and not videos_of(config.media):
        print(f"bench: {config.media} holds no video ({media.PICTURE_SUFFIXES})", file=sys.stderr)
        return 2
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = config.media or make_media(Path(scratch), MADE)
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
