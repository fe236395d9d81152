"""A cluster of Dask: what is sent to its scheduler, and how one is opened on this machine."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flows.cluster import DIED, LONELY_S, POLL_S, Cluster, Wrap, where_of
from pipeline import remote
from pipeline.errors import UserError
from pipeline.locations import Folder
from pipeline.workers import PoolClosedError, WorkerDiedError

CONNECT_S = 30.0  # for a scheduler's answer
FIRST_WORKER_S = 60.0


def probe(address: str) -> list[str]:
    """Command that ends with 0 if a scheduler answers at an address."""
    program = "import sys; from distributed import Client; Client(sys.argv[1], timeout=float(sys.argv[2])).close()"
    return [sys.executable, "-c", program, address, str(CONNECT_S)]


class DaskCluster(Cluster):
    """A scheduler of Dask and its workers."""

    def __init__(self, client: Any, wrap: Wrap, *, where: str) -> None:
        super().__init__(wrap, where=where)
        self._client = client

    def _num_slots(self) -> int:
        with self._or_lost():
            return sum(self._client.nthreads().values())

    def _send(self, call: remote.RemoteCall, name: str) -> Any:
        with self._or_lost():
            return self._client.submit(remote.execute, call, pure=False)

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


@contextmanager
def opened(address: str | None, num_workers: int, must_see: Sequence[Folder]) -> Iterator[Cluster]:
    """Connect to a scheduler, or start one with workers on this machine for as long as the context lasts.

    Raises
    ------
    UserError
        If no scheduler with a worker answers.
    """
    import dask
    from prefect_dask import DaskTaskRunner

    for name in ("distributed", "prefect.task_runner.dask"):  # of every connection, and of a dashboard that is off
        logging.getLogger(name).setLevel(logging.ERROR)
    local = {"n_workers": num_workers, "threads_per_worker": 1, "dashboard_address": None}
    runner = DaskTaskRunner(
        address=address, cluster_kwargs=None if address else local, client_kwargs={"timeout": CONNECT_S}
    )
    where = where_of("Dask", address)
    ours = {
        "distributed.scheduler.allowed-failures": 1,  # single clips are tried after that
        "distributed.deploy.lost-worker-timeout": f"{LONELY_S:g} s",  # a busy machine replaces one slowly
        # Worker processes log for themselves, as their environment says when they import Dask.
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "error",
    }
    with dask.config.set(ours), runner:
        try:
            client = runner.client
            client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise UserError(f"{where} has no scheduler with a worker that answers ({error})") from error
        wrap = functools.partial(remote.wrap, must_see=must_see, owns_process=address is None)
        yield DaskCluster(client, wrap, where=where)
