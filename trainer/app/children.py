"""Child processes that answer a JSON line with a JSON line: what reads strangers' files may hang or crash there.

Both ends are here. The server kills a child that takes too long, and starts another when it is next asked; a child ends
itself when its server is gone.
"""

import asyncio
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

from trainer.errors import UserError, one_line

Line = dict[str, Any]

STOP_S = 3.0  # for which a child may put its own children away before it is killed
START_S = 60.0  # for which one that is started anew may make ready: somebody's video waits for it


class RefusedError(Exception):
    """The child's own line of what is wrong with what it was asked."""


class DiedError(Exception):
    """The child is gone, or was stopped since it took too long; a new one is started when it is next asked."""


class NotStartedError(DiedError):
    """No new child could be started: the line tells why."""


class Child:
    """A process of ``python -m module`` that answers one question at a time."""

    def __init__(self, module: str, settings: Line, environment: dict[str, str]) -> None:
        self._module, self._environment = module, environment
        self.settings = settings
        """What it is told at every start."""
        self._process: asyncio.subprocess.Process | None = None
        self._turn, self._stopping = asyncio.Lock(), asyncio.Lock()

    async def start(self) -> Line:
        """Start it; return what it says when it is ready.

        Raises
        ------
        UserError
            If it says that it cannot work so, or says nothing.
        """
        # In a group of its own: Ctrl-C is for the server to answer.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", self._module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            process_group=0,
        )
        try:
            return await self._exchange(self.settings, lambda line: None)
        except RefusedError as error:
            raise UserError(str(error)) from None
        except DiedError:
            raise UserError(f"{self._module} ended before it was ready; what it said stands above") from None
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def ask(self, question: Line, *, timeout_s: float, heard: Callable[[Line], None] = lambda line: None) -> Line:
        """Ask, and wait for the answer. Whoever gives up waiting stops the process.

        Parameters
        ----------
        heard
            Is given each line before the answer.

        Raises
        ------
        RefusedError
            With the child's line.
        TimeoutError
            If it takes too long; not counting the wait for others' questions.
        DiedError
            If it crashes.
        NotStartedError
            If it was gone, and does not start any more, or not in time.
        """
        async with self._turn:
            if self._process is None or self._process.returncode is not None:
                try:
                    async with asyncio.timeout(START_S):
                        await self.start()
                except TimeoutError:
                    raise NotStartedError(f"{self._module} was not ready within {START_S:g} seconds") from None
                except (UserError, OSError) as error:
                    await self.stop()
                    raise NotStartedError(one_line(error)) from None
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._exchange(question, heard)
            except (TimeoutError, DiedError, asyncio.CancelledError):
                await asyncio.shield(self.stop())
                raise

    async def stop(self) -> None:
        """End the process, whatever it does, and wait until it has ended."""
        async with self._stopping:  # the server's end stops it while a deleted video does
            process = self._process
            if process is None or process.returncode is not None:
                return
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _exchange(self, question: Line, heard: Callable[[Line], None]) -> Line:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            await self._process.stdin.drain()
            while told := await self._process.stdout.readline():
                line: Line = json.loads(told)
                if "refused" in line:
                    raise RefusedError(line["refused"])
                if "answer" in line:
                    return dict(line["answer"])
                heard(line)
        except (ConnectionError, json.JSONDecodeError):
            pass
        raise DiedError


# --- in the child ------------------------------------------------------------------------------------------------


def conversation() -> tuple[Iterator[Line], Callable[[Line], None]]:
    """Give the server's questions as they come, and what sends a line to it.

    What libraries print goes to stderr. SIGTERM, or the server's end, leaves by ``SystemExit``, so that decoders are
    put away.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    questions: queue.SimpleQueue[Line] = queue.SimpleQueue()

    def read() -> None:
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                questions.put(json.loads(line))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()

    def say(line: Line) -> None:
        try:
            print(json.dumps(line), file=out, flush=True)
        except BrokenPipeError:
            raise SystemExit(0) from None

    return iter(questions.get, None), say
