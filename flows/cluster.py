"""What clusters have in common: work is sent, and waited for as long as there is hope."""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline import remote
from pipeline.errors import UserError
from pipeline.workers import PoolClosedError

Result = TypeVar("Result")
Wrap = Callable[[Callable[..., Any], Sequence[Any]], remote.RemoteCall]

LONELY_S = 300.0  # without any worker; a cluster that grows by itself takes minutes
POLL_S = 2.0
CLOSE_S = 5.0

DIED = "the worker process died, and another one on the same clip"


class Cluster(abc.ABC):
    """Sends work to a cluster, and waits for the answers as long as there is hope."""

    def __init__(self, wrap: Wrap, *, where: str) -> None:
        self._wrap = wrap
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
            answer: Result = self._answer(self._send(self._wrap(function, args), function.__name__))
            return answer
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

    @abc.abstractmethod
    def _num_slots(self) -> int:
        """Functions that its workers take at a time; 0 while it has none."""

    @abc.abstractmethod
    def _send(self, call: remote.RemoteCall, name: str) -> Any:
        """Send it, and return what the two below ask by."""

    @abc.abstractmethod
    def _is_done(self, sent: Any) -> bool:
        """Wait a moment for it."""

    @abc.abstractmethod
    def _result(self, sent: Any) -> Any:
        """Return what came of it, or raise what it raised."""


def where_of(engine: str, address: str | None) -> str:
    """Words for a cluster that the user knows."""
    return f"--address {address}" if address else f"{engine} on this machine"


def host_and_port(address: str) -> tuple[str, int]:
    """Where something is to listen.

    Raises
    ------
    UserError
        If the address does not say.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise UserError(f"--address {address}: give host and port, such as tcp://10.0.0.1:8786 (Dask), 10.0.0.1:6379 (Ray)")
