from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from pipeline.workers import WorkerDiedError, WorkerPool


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def modules_and_threads() -> tuple[bool, str | None]:
    return "prefect" in sys.modules, os.environ.get("OMP_NUM_THREADS")


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


def test_workers_run_on_one_thread_and_know_nothing_of_prefect(pool):
    import prefect  # noqa: F401

    assert pool.run(modules_and_threads) == (False, "1")


def test_workers_are_kept_alive_between_calls(pool):
    pids = {pool.run(os.getpid) for _ in range(6)}
    assert len(pids) <= 2
    assert os.getpid() not in pids


def test_an_exception_comes_back_as_it_was(pool):
    with pytest.raises(ValueError, match="invalid literal"):
        pool.run(int, "x")


def test_a_dead_worker_is_told_and_replaced(pool):
    with pytest.raises(WorkerDiedError):
        pool.run(die)
    assert pool.run(max, 1, 2) == 2


def test_a_suspect_that_runs_alone_harms_nobody(pool):
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(pool.run(max, 1, 2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    with pytest.raises(WorkerDiedError):
        pool.run_alone(die)
    for thread in threads:
        thread.join()
    assert results == [2] * 4
