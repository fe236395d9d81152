"""The videos that are there: each a visitor's own, in a folder of its own, in a queue, and deleted in the end."""

import asyncio
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.runtime import warn

State = Literal["coming", "waiting", "judging", "done", "failed"]

ID_BYTES = 24
SWEEP_S = 5.0  # between looks for what has been kept long enough


class FullError(Exception):
    """The queue is as long as it may be."""


@dataclass(kw_only=True, eq=False)
class Job:
    """One video."""

    id: str
    visitor: str
    number: int
    """What the server's own lines call it by: they name no title."""
    title: str
    folder: Path
    state: State = "coming"
    windows: int = 0
    expected: int = 0
    drawing: bool = False
    line: str = ""
    """What became of it, in words."""
    ended_s: float | None = None
    """When, by the monotonic clock."""
    work: asyncio.Task[None] | None = None

    @property
    def upload(self) -> Path:
        """Where the video lies; its name is ours, and the children's words for it."""
        return self.folder / "the file"

    @property
    def results(self) -> Path:
        """Folder of curve and player."""
        return self.folder / "results"

    @property
    def percent(self) -> int:
        """How much of it is judged."""
        return min(99, 100 * self.windows // self.expected) if self.expected else 0

    def end(self, state: Literal["done", "failed"], line: str) -> None:
        """Note what became of it."""
        self.state, self.line, self.ended_s = state, line, time.monotonic()


class Jobs:
    """All of them, and their order.

    Parameters
    ----------
    max_waiting
        Videos that may come or wait, beside the one being judged.
    keep_s
        For which what has ended is kept.
    """

    def __init__(self, folder: Path, *, max_waiting: int, keep_s: float) -> None:
        self._folder, self._max_waiting, self._keep_s = folder, max_waiting, keep_s
        self.server = secrets.token_hex(4)
        """Begins every id, so that one of an earlier server is known as such."""
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._arrived = asyncio.Event()
        self._count = 0

    def admit(self, visitor: str, title: str) -> Job:
        """Make a place for a video that begins to come.

        Raises
        ------
        FullError
            If there is none.
        """
        if sum(job.state in ("coming", "waiting") for job in self._jobs.values()) >= self._max_waiting:
            raise FullError
        self._count += 1
        name = f"{self.server}-{secrets.token_urlsafe(ID_BYTES)}"
        job = Job(id=name, visitor=visitor, number=self._count, title=title, folder=self._folder / f"{self._count}")
        job.folder.mkdir(mode=0o700)
        self._jobs[name] = job
        return job

    def queue(self, job: Job) -> None:
        """Put a video that has come behind all that wait."""
        job.state = "waiting"
        self._waiting.append(job)
        self._arrived.set()

    def find(self, name: str, visitor: str | None) -> Job | None:
        """Return a visitor's own video that has come."""
        job = self._jobs.get(name)
        return job if job and visitor and job.visitor == visitor and job.state != "coming" else None

    def of(self, visitor: str | None) -> list[Job]:
        """Return all of a visitor's, the newest first."""
        return [job for job in reversed(self._jobs.values()) if self.find(job.id, visitor)]

    def before(self, job: Job) -> int:
        """Return how many videos come before one that waits."""
        judging = sum(other.state == "judging" for other in self._jobs.values())
        return self._waiting.index(job) + judging if job in self._waiting else 0

    async def delete(self, job: Job) -> None:
        """Forget a video, whatever is being done with it, and remove its files."""
        self._jobs.pop(job.id, None)
        if job in self._waiting:
            self._waiting.remove(job)
        if job.work is not None:
            job.work.cancel()
            await asyncio.wait([job.work])
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def work(self, judge: Callable[[Job], Awaitable[None]]) -> None:
        """Judge one after the other, for ever. ``judge`` notes what became of a video itself."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            job = self._waiting.pop(0)
            job.state = "judging"
            job.work = asyncio.ensure_future(judge(job))
            try:
                await asyncio.wait([job.work])
            finally:
                job.work.cancel()
            if not job.work.cancelled() and (error := job.work.exception()):
                warn(f"video {job.number}: {error!r}")
                job.end("failed", "Judging it broke off, which should not happen; try it once more.")

    async def sweep(self) -> None:
        """Delete what has been kept long enough, for ever."""
        while True:
            await asyncio.sleep(min(SWEEP_S, self._keep_s))
            for job in list(self._jobs.values()):
                if job.ended_s is not None and time.monotonic() - job.ended_s > self._keep_s:
                    await self.delete(job)
