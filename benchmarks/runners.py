"""What a task costs beside its work, by who carries it out: the flow's processes, or a local cluster of Dask or Ray.

    python -m benchmarks.runners --count 300          writes benchmarks/results/runners.json

Tasks with nothing to do, each of which asks a worker and waits for its answer as the flow's own tasks do, against the
server that Prefect starts for the run. Wall seconds, after a warm-up, and the time until a first worker answered.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import flows.settings  # isort: skip  # noqa: F401  before prefect is imported

import tyro
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from benchmarks.environment import environment
from flows.runners import Runner, Workers, opened
from flows.tasks import windowed

RESULT = Path(__file__).parent / "results" / "runners.json"
RUNNERS: tuple[Runner, ...] = ("threads", "dask", "ray")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    count: int = 300
    """Tasks of each runner."""
    workers: int = 2
    """Worker processes."""


@task(cache_policy=NO_CACHE)
def nothing(workers: Workers) -> None:
    """Ask a worker for nothing."""
    workers.run(time.sleep, 0)


@flow
def measured(runner: Runner, config: Config) -> dict[str, float]:
    """Seconds a task, and until the workers were there."""
    began_s = time.monotonic()
    with opened(runner, None, num_workers=config.workers, must_see=[Path(__file__).absolute()]) as workers:
        workers.run(time.sleep, 0)
        ready_s = time.monotonic()
        for count in (4 * config.workers, config.count):  # the first are the warm-up
            begin_s = time.monotonic()
            for _ in windowed((nothing.submit(workers) for _ in range(count)), size=lambda: 2 * workers.num_workers):
                pass
        return {"task_s": (time.monotonic() - begin_s) / config.count, "start_s": ready_s - began_s}


def main(config: Config) -> int:
    results = {runner: measured(runner, config) for runner in RUNNERS}
    for runner, result in results.items():
        print(f"{runner:8} {1000 * result['task_s']:6.1f} ms a task, {result['start_s']:5.1f} s to start")
    RESULT.write_text(
        json.dumps({"environment": environment(), "tasks": config.count, "runners": results}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
