"""What a signal does: training ends after its step, to go on from there; other commands unwind."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Whether Ctrl-C or SIGTERM asked for an end after the current step."""

    signal: int | None = None


class SignalInterrupt(KeyboardInterrupt):
    """Another signal than Ctrl-C, which a child gets as well and ``subprocess.run`` does not wait for."""


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end a command as Ctrl-C does: what it began is put away. Later ones are passed over.

    One that is ignored already, as ``nohup`` has it, stays so.
    """
    wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in wanted:  # a closed session sends both, and putting away takes its time
            signal.signal(other, signal.SIG_IGN)
        raise SignalInterrupt(number)

    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of dying mid-step; a second one interrupts at once."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt(number)
        stop.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
