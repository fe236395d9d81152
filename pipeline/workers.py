"""Worker processes: they import the pipeline alone, run on one thread each, and are replaced when they die."""

from __future__ import annotations

import importlib.abc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from loky import ProcessPoolExecutor
from loky.process_executor import ShutdownExecutorError, TerminatedWorkerError

Result = TypeVar("Result")

WORKER_ENV = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")} | {
    # glibc keeps the memory of arrays for the next clip, in place of mapping and clearing it anew: 40 ms a clip.
    "MALLOC_MMAP_THRESHOLD_": str(512 << 20),  # bytes; an array is 3 to 16 MB
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    # loky puts a new worker in place of one that grew by 300 MB since its first task. A first batch of which nothing is
    # decoded loads no library, and the next one loads them all; what is kept for the next clip comes on top.
    "LOKY_MAX_MEMORY_LEAK_SIZE": str(2 << 30),
}
"""Environment of a worker: one thread, since there is a worker for every core."""

PARENT_CHECK_EVERY_S = 1.0


class WorkerDiedError(Exception):
    """A worker process ended without an answer: killed, out of memory, or crashed in native code."""


class PoolClosedError(RuntimeError):
    """The pool is closed: the run is ending."""


class WorkerTimeoutError(WorkerDiedError):
    """A worker gave no answer in time, and was killed."""


class WorkerPool:
    """Run functions in worker processes; safe to share between threads.

    A death breaks a pool for all that runs in it, so whoever is told of one cannot know that it was his doing: ``run``
    puts a new pool in place, and ``run_alone`` tries a suspect in a process of its own.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._lock = threading.Lock()
        self._closed = False
        self._executor = self._fresh(num_workers)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=kind is None, kill_workers=kind is not None)

    @property
    def num_workers(self) -> int:
        """How many functions run at the same time."""
        return self._num_workers

    def run(self, function: Callable[..., Result], *args: Any, timeout_s: float | None = None) -> Result:
        """Call a function in some worker and wait for it.

        Raises
        ------
        WorkerDiedError
            If a worker died meanwhile, this one or another.
        WorkerTimeoutError
            If it took longer than ``timeout_s``; all workers of the pool are killed then.
        """
        executor = self._executor
        try:
            return _result(executor, function, *args, timeout_s=timeout_s)
        except WorkerDiedError as error:
            if isinstance(error, WorkerTimeoutError):
                executor.shutdown(wait=False, kill_workers=True)
            with self._lock:
                if self._closed:
                    raise PoolClosedError("the pool is closed") from None
                if self._executor is executor:
                    self._executor = self._fresh(self._num_workers)
            raise

    def run_alone(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in a process of its own and wait for it.

        Raises
        ------
        WorkerDiedError
            If that process died.
        """
        with self._lock:
            if self._closed:
                raise PoolClosedError("the pool is closed")
        executor = self._fresh(1)
        try:
            return _result(executor, function, *args)
        finally:
            executor.shutdown(wait=False, kill_workers=True)

    @staticmethod
    def _fresh(num_workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=num_workers, env=WORKER_ENV, initializer=_begin_worker, initargs=(os.getpid(),)
        )


class _NoTorch(importlib.abc.MetaPathFinder):
    """Hides torch from libraries that load it where it is installed and never use it here: 300 MB a worker."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torch":
            raise ModuleNotFoundError("torch is kept out of pipeline workers", name="torch")


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch from what is imported meanwhile, unless it is loaded already."""
    finder = _NoTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def keep_torch_out() -> None:
    """Keep out what no stage needs."""
    if not any(isinstance(finder, _NoTorch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoTorch())


def _begin_worker(parent_pid: int) -> None:
    """Keep out what no stage needs, and do not outlive the flow: a killed parent cannot say goodbye."""
    keep_torch_out()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(PARENT_CHECK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _result(
    executor: ProcessPoolExecutor, function: Callable[..., Result], *args: Any, timeout_s: float | None = None
) -> Result:
    try:
        future = executor.submit(function, *args)
        try:
            return future.result(timeout_s)  # type: ignore[no-any-return]
        except TimeoutError as error:
            if future.done():  # it is the function's own, or the answer came at the last moment
                return future.result()  # type: ignore[no-any-return]
            raise WorkerTimeoutError(f"no answer in {timeout_s:g} s") from error
    except ShutdownExecutorError as error:
        raise WorkerDiedError("the worker was killed together with another that gave no answer in time") from error
    except TerminatedWorkerError as error:
        codes = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
        raise WorkerDiedError(f"the worker process died: {codes[1] if codes else error}") from error
