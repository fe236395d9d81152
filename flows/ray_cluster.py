"""A cluster of Ray: what is sent to its head, and how one is opened on this machine."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flows.cluster import DIED, POLL_S, Cluster, Wrap, host_and_port, where_of
from flows.stopping import end_now, end_without_libraries
from pipeline import remote
from pipeline.errors import UserError
from pipeline.locations import Folder
from pipeline.workers import WorkerDiedError

OBJECT_STORE_BYTES = 80_000_000  # the least that Ray takes; rows are all that goes through it
GONE_S = 10.0  # without a listener, until a head is taken for lost
END_S = 20.0  # for the flow to end by itself then


def probe(address: str) -> list[str]:
    """Command that ends with 0 if a head answers at an address."""
    if address.startswith("ray://"):  # Ray's client, which has no other way to ask
        return [sys.executable, "-c", "import sys, ray; ray.init(sys.argv[1]); ray.shutdown()", address]
    return [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]


class RayCluster(Cluster):
    """A head of Ray and its workers."""

    def __init__(self, wrap: Wrap, *, where: str, head: tuple[str, int] | None) -> None:
        import ray

        super().__init__(wrap, where=where)
        self._head = head
        self.is_lost = False
        self._execute = ray.remote(num_cpus=1, max_retries=1)(remote.execute)

    def _num_slots(self) -> int:
        import ray

        self._require_head()
        return int(ray.cluster_resources().get("CPU", 0))

    def watch(self) -> None:
        """End the command where it could not by itself, a while after the head was lost: a call of Ray may hang."""
        while not self._closed:
            time.sleep(POLL_S)
            try:
                self._require_head()
            except UserError as error:
                time.sleep(END_S)
                end_now(str(error), code=2)

    def _require_head(self) -> None:
        """See that somebody listens where the head was: Ray ends this process, a minute after it has lost it."""
        if self._head is None:
            return
        begun_s = time.monotonic()
        while True:
            try:
                socket.create_connection(self._head, timeout=GONE_S).close()
                return
            except OSError as error:
                if time.monotonic() - begun_s >= GONE_S:
                    self.is_lost = True
                    raise UserError(f"{self._where} is gone; the same command goes on where it was") from error
            time.sleep(1.0)

    def _send(self, call: remote.RemoteCall, name: str) -> Any:
        return self._execute.options(name=name).remote(call)

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
def opened(address: str | None, num_workers: int, must_see: Sequence[Folder]) -> Iterator[Cluster]:
    """Connect to a head, or start one with workers on this machine for as long as the context lasts.

    Raises
    ------
    UserError
        If it cannot be used.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is built here is nobody else's business
    from prefect_ray import RayTaskRunner

    quiet = {"log_to_driver": False, "logging_level": "warning"}
    local = {"address": "local", "num_cpus": num_workers, "include_dashboard": False}
    runner = RayTaskRunner(
        address=address, init_kwargs=quiet if address else quiet | local | {"object_store_memory": OBJECT_STORE_BYTES}
    )
    where = where_of("Ray", address)
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:  # Ray tells of lost workers on it
        try:
            stack.enter_context(runner)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{where} cannot be used: {' '.join(str(error).split())}") from error
        wrap = functools.partial(remote.wrap, must_see=must_see, owns_process=True)
        cluster = RayCluster(wrap, where=where, head=None if address is None else host_and_port(address))
        if address is not None:
            threading.Thread(target=cluster.watch, daemon=True).start()
        try:
            yield cluster
        finally:
            if cluster.is_lost:  # Ray would ask it to take leave, until it ends this process
                stack.pop_all()
                end_without_libraries()
