from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.workers import WorkerDiedError, WorkerPool, WorkerTimeoutError
from tests.waiting import wait_until


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(note: Path) -> None:
    """Start a child, write down its number and our own, and never answer."""
    child = subprocess.Popen(["sleep", "600"])
    note.write_text(f"{os.getpid()} {child.pid}")
    child.wait()


def linger(folder: Path) -> str:
    """Say that we have begun, then wait to be let go."""
    (folder / "begun").touch()
    for _ in range(600):
        if (folder / "go").exists():
            break
        time.sleep(0.1)
    return "done"


def run_out_of_time() -> None:
    raise TimeoutError("the function's own")


def load_libraries() -> int:
    """Hold on to 400 MB, as libraries and models do once they are loaded."""
    time.sleep(1.1)  # it is looked at once a second
    sys.modules["held"] = bytearray(os.urandom(1 << 20) * 400)
    return os.getpid()


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


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


def test_a_worker_that_gives_no_answer_in_time_is_killed_with_all_it_started_and_replaced(tmp_path):
    with WorkerPool(1) as pool:
        pool.run(modules_and_threads)  # a worker takes a second to start and to read this file
        began_s = time.monotonic()
        with pytest.raises(WorkerTimeoutError, match="no answer in 2 s"):
            pool.run(hang, tmp_path / "pids", timeout_s=2)
        assert 2 <= time.monotonic() - began_s < 20
        assert pool.run(max, 1, 2, timeout_s=60) == 2
        pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
        wait_until(lambda: not any(map(is_running, pids)))


def test_who_shared_the_pool_with_one_that_timed_out_is_told_of_a_dead_worker_and_one_new_pool_takes_over(tmp_path):
    with WorkerPool(2) as pool:
        told: list[str] = []

        def work() -> None:
            try:
                told.append(pool.run(linger, tmp_path))
            except WorkerDiedError as error:
                told.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        wait_until((tmp_path / "begun").exists)
        with pytest.raises(WorkerTimeoutError):
            pool.run(time.sleep, 600, timeout_s=0.2)
        thread.join(timeout=30)
        assert told == ["the worker was killed together with another that gave no answer in time"]
        assert pool.run(max, 1, 2) == 2


def test_two_that_time_out_at_once_leave_one_pool_behind(pool):
    replaced: list[object] = []
    fresh = pool._fresh

    def counted(num_workers: int) -> object:
        replaced.append(num_workers)
        return fresh(num_workers)

    pool._fresh = counted
    try:
        barrier = threading.Barrier(2)

        def work() -> None:
            barrier.wait()
            with pytest.raises(WorkerDiedError):
                pool.run(time.sleep, 600, timeout_s=1)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
    finally:
        del pool._fresh
    assert replaced == [2]


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_a_timeout_of_the_functions_own_is_not_taken_for_the_pools(pool, timeout_s):
    with pytest.raises(TimeoutError, match="the function's own"):
        pool.run(run_out_of_time, timeout_s=timeout_s)


def test_an_answer_in_time_is_an_answer(pool):
    pids = {pool.run(os.getpid, timeout_s=60) for _ in range(6)}
    assert len(pids) <= 2  # and nobody was replaced


def test_a_closed_pool_says_so():
    with WorkerPool(1) as pool:
        pass
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.run(max, 1, 2)
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.run_alone(max, 1, 2)


def test_a_worker_that_loads_its_libraries_after_its_first_task_is_not_replaced(capfd):
    with WorkerPool(1) as pool:
        first = pool.run(os.getpid)
        assert [pool.run(load_libraries), pool.run(load_libraries), pool.run(os.getpid)] == [first] * 3
    assert "memory leak" not in capfd.readouterr().err


def test_packing_a_shard_loads_no_torch_and_hides_it_from_nobody_else():
    told = (
        "import io, sys; from pipeline.shards import _tar_writer; "
        "_tar_writer(io.BytesIO()); print('torch' in sys.modules, end=' '); import torch; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
