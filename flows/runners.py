"""Who carries out the stages: processes of this machine, or a cluster of Dask or Ray.

The tasks stay in the flow's process, where they wait for an answer: Prefect's book-keeping is the same whoever works,
and workers need the pipeline alone. Prefect's own runners open and close the clusters. That they run the tasks, too,
would have every worker report to Prefect's server, which is on this machine's loopback or only there for the run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from pipeline import remote
from pipeline.errors import UserError
from pipeline.storage import Folder
from pipeline.workers import PoolClosedError, WorkerDiedError, WorkerPool

Result = TypeVar("Result")
Runner = Literal["threads", "dask", "ray"]
Pack = Callable[[Callable[..., Any], Sequence[Any]], remote.Errand]

KNOCK_S = 10.0  # for a connection to an address
CONNECT_S = 30.0  # for a scheduler's answer
FIRST_WORKER_S = 60.0
LONELY_S = 300.0  # without any worker; a cluster that grows by itself takes minutes
POLL_S = 2.0
CLOSE_S = 5.0
OBJECT_STORE_BYTES = 80_000_000  # the least that Ray takes; rows are all that goes through it

DIED = "the worker process died, and another one on the same clip"


class Workers(Protocol):
    """Run functions elsewhere; safe to share between threads."""

    @property
    def num_workers(self) -> int:
        """How many functions run at the same time; a cluster may grow."""
        ...

    def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in some worker and wait for it; ``WorkerDiedError`` if that worker or another died."""
        ...

    def run_alone(self, function: Callable[..., Result], *args: Any) -> Result:
        """The same for a suspect, apart from other suspects; ``WorkerDiedError`` if it was its doing."""
        ...


def check(runner: Runner, address: str | None) -> None:
    """Check what can be checked without a network.

    Raises
    ------
    UserError
        If the extra is missing, or the address cannot be one.
    """
    if runner == "threads":
        if address is not None:
            raise UserError("--address is a cluster's; add --runner dask or --runner ray, or leave it out")
        return
    if importlib.util.find_spec(f"prefect_{runner}") is None:
        raise UserError(f'--runner {runner} needs the extra: pip install "music-video-emotion[{runner}]"')
    if address is not None:
        _host_and_port(address)


def knock(address: str | None) -> None:
    """See whether anything answers at an address.

    Raises
    ------
    UserError
        If nothing does, in a bounded time.
    """
    if address is not None:
        try:
            socket.create_connection(_host_and_port(address), timeout=KNOCK_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"--address {address}: nothing answers there ({reason}); start the cluster first"
            ) from error


@contextmanager
def opened(runner: Runner, address: str | None, *, num_workers: int, must_see: Sequence[Folder]) -> Iterator[Workers]:
    """Workers for as long as the context lasts.

    Parameters
    ----------
    num_workers
        Processes on this machine; a cluster with an address has its own.
    must_see
        What the machines of a cluster must share.

    Raises
    ------
    UserError
        If no cluster with a worker answers at the address.
    """
    if runner == "threads":
        with WorkerPool(num_workers) as pool:
            yield pool
        return
    knock(address)
    open_cluster = _dask if runner == "dask" else _ray
    with open_cluster(address, num_workers, must_see) as workers:
        try:
            yield workers
        finally:
            workers.close()


class Cluster:
    """Sends work to a cluster, and waits for the answers as long as there is hope."""

    def __init__(self, pack: Pack, *, where: str) -> None:
        self._pack = pack
        self._where = where
        self._closed = False
        self._slots, self._slots_s = 0, -POLL_S  # as they were then, on the clock
        self._waiting = 0
        self._lock = threading.Condition()
        self._one_suspect = threading.Lock()
        self._suspect_runs = False

    @property
    def num_workers(self) -> int:
        """Functions that run at the same time, one at least."""
        return max(1, self._recent_slots())

    def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in some worker and wait for it.

        Raises
        ------
        WorkerDiedError
            If the workers that tried it died.
        UserError
            If the cluster is gone, or a worker is not like this process.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._closed or not self._suspect_runs)
            self._waiting += 1
        return self._asked(function, *args)

    def run_alone(self, function: Callable[..., Result], *args: Any) -> Result:
        """The same with nothing else under way: a cluster may blame all that waited on a worker for its death."""
        with self._one_suspect:
            with self._lock:
                self._suspect_runs = True
                self._lock.wait_for(lambda: self._closed or not self._waiting)
                self._waiting += 1
            try:
                return self._asked(function, *args)
            finally:
                with self._lock:
                    self._suspect_runs = False
                    self._lock.notify_all()

    def _asked(self, function: Callable[..., Result], *args: Any) -> Result:
        try:
            if self._closed:
                raise PoolClosedError("the cluster is closed")
            return self._answer(self._send(self._pack(function, args), function.__name__))  # type: ignore[no-any-return]
        except ModuleNotFoundError as error:
            raise UserError(f"{self._where}: this version of the software is not installed there ({error})") from error
        finally:
            with self._lock:
                self._waiting -= 1
                self._lock.notify_all()

    def close(self) -> None:
        """Let those who wait go, before the cluster does."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            self._lock.wait_for(lambda: not self._waiting, timeout=CLOSE_S)

    def _answer(self, sent: Any) -> Any:
        last_worker_s = time.monotonic()
        while not self._is_done(sent):
            if self._closed:
                raise PoolClosedError("the cluster is closed")
            if self._recent_slots():
                last_worker_s = time.monotonic()
            elif time.monotonic() - last_worker_s > LONELY_S:
                raise UserError(f"{self._where} has no worker left; the same command goes on where it was")
        return self._result(sent)

    def _recent_slots(self) -> int:
        """Ask the cluster now and then: every task wants to know."""
        if time.monotonic() - self._slots_s >= POLL_S:
            self._slots, self._slots_s = self._num_slots(), time.monotonic()
        return self._slots

    def _num_slots(self) -> int:
        raise NotImplementedError

    def _send(self, errand: remote.Errand, name: str) -> Any:
        raise NotImplementedError

    def _is_done(self, sent: Any) -> bool:
        """Wait a moment for it."""
        raise NotImplementedError

    def _result(self, sent: Any) -> Any:
        raise NotImplementedError


class DaskCluster(Cluster):
    """A scheduler of Dask and its workers."""

    def __init__(self, client: Any, pack: Pack, *, where: str) -> None:
        super().__init__(pack, where=where)
        self._client = client

    def _num_slots(self) -> int:
        with self._or_lost():
            return sum(self._client.nthreads().values())

    def _send(self, errand: remote.Errand, name: str) -> Any:
        with self._or_lost():
            return self._client.submit(remote.carry_out, errand, pure=False)

    def _is_done(self, sent: Any) -> bool:
        with self._or_lost(), contextlib.suppress(TimeoutError):
            sent.exception(timeout=POLL_S)
        return bool(sent.done())

    def _result(self, sent: Any) -> Any:
        from distributed import KilledWorker

        with self._or_lost():
            error = sent.exception()
            if error is None:
                try:  # the answer lies with the worker, which may die before it is fetched; the work is done again then
                    return sent.result()
                except KilledWorker as killed:
                    error = killed
        if isinstance(error, KilledWorker):
            raise WorkerDiedError(DIED) from error
        if isinstance(error, RuntimeError) and "deserializ" in str(error):  # Dask's words for a missing module
            raise ModuleNotFoundError("what was sent cannot be read there")
        raise error

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        """The client's own errors alone come out here: those of the work are its result."""
        from distributed.client import CancelledError

        try:
            yield
        except (OSError, CancelledError) as error:
            if self._closed:
                raise PoolClosedError("the cluster is closed") from error
            raise UserError(f"{self._where} is gone; the same command goes on where it was") from error


class RayCluster(Cluster):
    """A head of Ray and its workers."""

    def __init__(self, pack: Pack, *, where: str) -> None:
        import ray

        super().__init__(pack, where=where)
        self._carry_out = ray.remote(num_cpus=1, max_retries=1)(remote.carry_out)

    def _num_slots(self) -> int:
        import ray

        return int(ray.cluster_resources().get("CPU", 0))

    def _send(self, errand: remote.Errand, name: str) -> Any:
        return self._carry_out.options(name=name).remote(errand)

    def _is_done(self, sent: Any) -> bool:
        import ray

        return bool(ray.wait([sent], timeout=POLL_S)[0])

    def _result(self, sent: Any) -> Any:
        import ray
        from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError

        try:
            return ray.get(sent)
        except RayTaskError as error:
            raise (error.cause or error) from None
        except (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError) as error:
            raise WorkerDiedError(DIED) from error


@contextmanager
def _dask(address: str | None, num_workers: int, must_see: Sequence[Folder]) -> Iterator[Cluster]:
    import dask
    from prefect_dask import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells of every connection
    local = {"n_workers": num_workers, "threads_per_worker": 1, "dashboard_address": None}
    runner = DaskTaskRunner(
        address=address, cluster_kwargs=None if address else local, client_kwargs={"timeout": CONNECT_S}
    )
    where = _where("Dask", address)
    ours = {
        "distributed.scheduler.allowed-failures": 1,  # single clips are tried after that
        "distributed.deploy.lost-worker-timeout": f"{LONELY_S:g} s",  # a busy machine replaces one slowly
    }
    with dask.config.set(ours), runner:
        try:
            client = runner.client
            client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise UserError(f"{where} has no scheduler with a worker that answers ({error})") from error
        pack = functools.partial(remote.errand, must_see=must_see, owns_process=address is None)
        yield DaskCluster(client, pack, where=where)


@contextmanager
def _ray(address: str | None, num_workers: int, must_see: Sequence[Folder]) -> Iterator[Cluster]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is built here is nobody else's business
    from prefect_ray import RayTaskRunner

    quiet = {"log_to_driver": False, "logging_level": "warning"}
    local = {"address": "local", "num_cpus": num_workers, "include_dashboard": False}
    runner = RayTaskRunner(
        address=address, init_kwargs=quiet if address else quiet | local | {"object_store_memory": OBJECT_STORE_BYTES}
    )
    where = _where("Ray", address)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # Ray tells of lost workers on it
            stack.enter_context(runner)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{where} cannot be used: {' '.join(str(error).split())}") from error
        pack = functools.partial(remote.errand, must_see=must_see, owns_process=True)
        yield RayCluster(pack, where=where)


def _where(engine: str, address: str | None) -> str:
    return f"--address {address}" if address else f"{engine} on this machine"


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise UserError(f"--address {address}: give host and port, such as tcp://10.0.0.1:8786 (Dask), 10.0.0.1:6379 (Ray)")
