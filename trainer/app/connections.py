"""Connections that ask nothing are closed: each is an open file of the server, and those are few.

uvicorn closes one that falls silent after an answer, and can answer 503 beyond a number of them; but one that sends
nothing, or half a head, it keeps for ever. Where too many are open, the one that has waited longest goes for the next.
"""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0  # for which the whole head of a request may be awaited
MAX_OPEN = 250
AT_ONCE = 16  # taken from the kernel before any of them is looked at
QUEUED = 2048  # that the kernel holds meanwhile


def max_open() -> int:
    """Return how many connections may be open: few enough that each may send a file as well."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN if most == resource.RLIM_INFINITY else max(1, min(MAX_OPEN, most // 4))


class Connection(H11Protocol):
    """One connection, for uvicorn's ``http``."""

    _since_s = 0.0
    """From when on it has waited for a request, by the loop's clock."""
    _heard = False
    """Whether anything has come since then."""
    _aborted = False
    _timer: asyncio.TimerHandle | None = None

    # uvicorn types it by the transport that it gets, asyncio by any
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it in, and where that is one too many, let go of the one that has waited longest."""
        super().connection_made(transport)
        self._await_head()
        held = [other for other in self.connections if isinstance(other, Connection) and not other._aborted]
        if len(held) > max_open():
            longest = min((other for other in held if other._waits()), key=lambda other: other._since_s)
            longest._aborted = True
            longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what comes."""
        self._heard = True
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _waits(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._since_s, self._heard = self.loop.time(), False
        self._timer = self.loop.call_later(HEAD_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._waits():
            return  # its end begins another wait
        if self._heard and self.conn.their_state is h11.SEND_BODY:
            self._await_head()  # a browser reads why its file is refused once all of it is sent
        else:
            self.transport.close()
