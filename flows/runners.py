"""Who carries out the stages: processes of this machine, or a cluster of Dask or Ray (dask_cluster.py, ray_cluster.py).

The tasks stay in the flow's process, where they wait for an answer: Prefect's book-keeping is the same whoever works,
and workers need the pipeline alone. Prefect's own runners open and close the clusters. That they run the tasks, too,
would have every worker report to Prefect's server, which is on this machine's loopback or only there for the run.
"""

from __future__ import annotations

import functools
import importlib.util
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar

from flows import dask_cluster, ray_cluster
from flows.cluster import host_and_port
from pipeline.errors import UserError
from pipeline.locations import Folder
from pipeline.workers import WorkerPool

Result = TypeVar("Result")
Runner = Literal["threads", "dask", "ray"]

ENGINES: dict[str, Any] = {"dask": dask_cluster, "ray": ray_cluster}

TOUCH_S = 10.0  # for a connection to an address
PROBE_S = 40.0  # for an answer of what is to be a cluster; a busy machine imports slowly


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
        host_and_port(address)


@functools.cache  # the command asks before it starts Prefect, and the flow again
def check_reachable(runner: Runner, address: str | None) -> None:
    """See whether a cluster of this engine answers at an address.

    A process of its own asks: the engines' clients wait for minutes, or for ever, where something else listens.

    Raises
    ------
    UserError
        If none does, in a bounded time.
    """
    if address is None:
        return
    try:
        socket.create_connection(host_and_port(address), timeout=TOUCH_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--address {address}: nothing answers there ({reason}); start the cluster first") from error
    told = f"--address {address}: what listens there does not answer as {runner.capitalize()} does"
    mend = "give the address of a running cluster"
    wants_token = "set RAY_AUTH_MODE=token if the cluster was started with a token"
    try:
        asked = subprocess.run(ENGINES[runner].probe(address), capture_output=True, text=True, timeout=PROBE_S)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{told} ({PROBE_S:g} s); {mend}") from error
    if asked.returncode:
        last = (asked.stderr.strip() or asked.stdout.strip() or f"exit code {asked.returncode}").splitlines()[-1]
        raise UserError(f"{told} ({last}); {wants_token if 'RAY_AUTH_MODE' in last else mend}")


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
    check_reachable(runner, address)
    with ENGINES[runner].opened(address, num_workers, must_see) as workers:
        try:
            yield workers
        finally:
            workers.close()
