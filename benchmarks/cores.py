"""Do all cores work? A build of 200 real clips by the real command: its time beside the work that it holds.

    python -m benchmarks.cores --media FOLDER --clips 200 --workers 2

The folder's videos are copied, each time with another comment in the file, until there are enough, and scored, so that
none is dropped as a copy. Work is the CPU seconds of the workers, with those of the ffmpeg that they run; what the flow
and Prefect's server take is none. Were all cores busy with clips from the first instant to the last, the build would
take work / cores; the start of Prefect and of the workers, the plan and the index are in its time, and told by
themselves beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.environment import environment
from benchmarks.measure import videos_of
from benchmarks.memory import watched

RESULT = Path(__file__).with_name("results") / "cores.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path
    """Folder of music videos of about 30 s."""
    clips: int = 200
    """Candidates of the build."""
    workers: int = 2
    """Worker processes; this machine should have as many cores and nothing else to do."""


def main(config: Config) -> int:
    """Build, print, and write it down."""
    found = videos_of(config.media)
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        for number in range(config.clips):
            path = found[number % len(found)]
            words = ["-i", str(path), "-map", "0:v:0", "-map", "0:a:0", "-c", "copy", "-metadata", f"comment={number}"]
            subprocess.run(["ffmpeg", "-v", "error", *words, str(videos / f"{number:04d}{path.suffix}")], check=True)
        flags = ["--source", str(videos), "--filters", "score"]
        told = watched(Path(folder), flags, count=config.clips, workers=config.workers)
    work_s = told["cpu_s"]["worker"]
    starting_s, prepared_s = (told["at_s"][moment] for moment in ("a worker runs", "all is prepared"))
    result: dict[str, Any] = {
        "environment": environment(),
        "clips": config.clips,
        "workers": config.workers,
        "wall_s": {
            "whole": round(told["seconds"], 1),
            "until a worker runs": round(starting_s, 1),
            "preparing": round(prepared_s - starting_s, 1),
            "plan, packing, index, end": round(told["seconds"] - prepared_s, 1),
        },
        "cpu_s": {role: round(seconds, 1) for role, seconds in told["cpu_s"].items()},
        "wall_over_work": round(told["seconds"] / (work_s / config.workers), 3),
        "kept": told["kept"],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
