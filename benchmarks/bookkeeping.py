"""What Prefect's book-keeping costs a task: its server, its database, and the flow's own process.

The server is the one that the command starts for the time of a run, on a fresh SQLite file. Tasks do nothing, but take
and return what those that prepare a batch do: 16 candidates, and 16 rows with fingerprints and pictures. What a task
costs is the difference of a long and a short run, by the difference of their numbers of tasks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHORT, LONG = 200, 1_000  # tasks
BATCH = 16
WORKERS = 2
IDLE_CPU_S = 0.1  # in five seconds


def measure() -> dict[str, Any]:
    """Costs a task."""
    runs = {num: _in_fresh_home(num) for num in (SHORT, LONG)}
    costs = {name: (runs[LONG][name] - runs[SHORT][name]) / (LONG - SHORT) for name in runs[LONG]}
    return {
        "tasks": [SHORT, LONG],
        "ms a task": 1000 * costs["wall_s"],
        "server CPU ms a task": 1000 * costs["server_cpu_s"],
        "client CPU ms a task": 1000 * costs["client_cpu_s"],
        "SQLite bytes a task": costs["database_bytes"],
        "server memory bytes a task": costs["server_rss_bytes"],
        "client memory bytes a task": costs["client_rss_bytes"],
        "server MB after the long run": runs[LONG]["server_rss_bytes"] / 1e6,
        "start and stop s": runs[SHORT]["whole_s"] - runs[SHORT]["wall_s"],
    }


def _in_fresh_home(num_tasks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        words = [sys.executable, "-m", "benchmarks.bookkeeping", str(num_tasks)]
        done = subprocess.run(
            words,
            env=os.environ | {"PREFECT_HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        files = Path(home).glob("prefect.db*")
        return found | {
            "whole_s": time.perf_counter() - began,
            "database_bytes": sum(file.stat().st_size for file in files),
        }


def wait_until_idle(server: Any) -> None:
    """Wait for the server to have written down what it was told: it does next to nothing for five seconds."""
    for _ in range(60):
        spent = sum(server.cpu_times()[:2])
        time.sleep(5)
        if sum(server.cpu_times()[:2]) - spent < IDLE_CPU_S:
            break


def _run(num_tasks: int) -> dict[str, float]:
    """A flow of so many tasks in this process, and what it took."""
    import flows.settings  # isort: skip  # noqa: F401  before prefect is imported

    import numpy as np
    import psutil
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    from benchmarks import made_up
    from flows.tasks import windowed
    from pipeline.filters.judge import Filters
    from pipeline.prepare import Recipe
    from pipeline.queries import candidates_of

    videos = [video for query in made_up.searches(50) for video in made_up.listed(query, 50)][:BATCH]
    sources = candidates_of(videos, None, clips_per_video=1)
    prints, rng, filters = list(made_up.prints(BATCH, None)), np.random.default_rng(0), Filters()
    found: dict[str, float] = {}

    @task(name="prepare-batch", cache_policy=NO_CACHE)
    def prepare(batch: list[Any], recipe: Recipe, seed: int, filters: Filters) -> list[dict[str, Any]]:
        return [made_up.row(source, one, rng) for source, one in zip(batch, prints, strict=True)]

    @flow(name="build-shards")
    def empty(num: int) -> None:
        me = psutil.Process()
        (server,) = [child for child in me.children() if "prefect" in " ".join(child.cmdline())]
        began, server_s = time.perf_counter(), sum(server.cpu_times()[:2])
        client_s = time.process_time()
        jobs = (prepare.submit(list(sources), Recipe(), 0, filters) for _ in range(num))
        for _ in windowed(jobs, size=lambda: 2 * WORKERS):
            pass
        found["wall_s"] = time.perf_counter() - began
        wait_until_idle(server)  # events are written a little later
        found["server_cpu_s"] = sum(server.cpu_times()[:2]) - server_s
        found["client_cpu_s"] = time.process_time() - client_s
        found["server_rss_bytes"], found["client_rss_bytes"] = server.memory_info().rss, me.memory_info().rss

    empty(num_tasks)
    return found


if __name__ == "__main__":
    print(json.dumps(_run(int(sys.argv[1]))))
