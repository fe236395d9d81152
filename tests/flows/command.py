"""The real command, for the tests of the flow."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]


class Command:
    """The real command in a process and session of its own."""

    def __init__(self, *args: str, **environment: str) -> None:
        self._out, self._err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.build_shards", *args],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL to the flow alone; then see its workers follow, and end the server that Prefect leaves behind."""
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not self._workers(), every_s=0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _workers(self) -> list[str]:
        listed = subprocess.run(["ps", "-s", str(self.process.pid), "-o", "args="], capture_output=True, text=True)
        return [line for line in listed.stdout.splitlines() if "popen_loky" in line]

    def finish(self, timeout_s: float = PATIENCE_S) -> tuple[int, str, str]:
        self.process.wait(timeout=timeout_s)
        told = []
        for stream in (self._out, self._err):
            stream.seek(0)
            told.append(stream.read())
            stream.close()
        return self.process.returncode, *told


def finish(*args: str, **environment: str) -> tuple[int, str, str]:
    return Command(*args, **environment).finish()


def fingerprint(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.iterdir()) if p.is_file()]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
