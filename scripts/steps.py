"""What a script that runs other programs needs: shown commands, timed steps, one-line errors."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from scripts.serve import HOST

ROOT = Path(__file__).resolve().parents[1]


class StepError(Exception):
    """A step cannot go on; the message is one line and names the mend."""


@dataclass
class Report:
    """What was made, where, and how long it took."""

    rows: list[tuple[str, str, str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, where: Path) -> Iterator[list[str]]:
        """Time a step; it puts what it made into the list."""
        print(f"\n== {name}", flush=True)
        made: list[str] = []
        began = perf_counter()
        yield made
        self.rows.append((name, ", ".join(made), str(where), perf_counter() - began))
        print(f"   {', '.join(made)}: {where}", flush=True)

    def table(self) -> str:
        """Table of all steps."""
        total_s = sum(row[3] for row in self.rows)
        rows = [("step", "made", "where", "seconds")]
        rows += [(name, made, where, f"{seconds:.1f}") for name, made, where, seconds in self.rows]
        rows.append(("all", "", "", f"{total_s:.1f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = []
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            lines.append(f"{'  '.join(cells)}  {row[3]:>7}")
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join(lines)


def python(module: str) -> list[str]:
    """First words of a command of ours."""
    return [os.path.relpath(sys.executable, ROOT) if is_in_root(sys.executable) else sys.executable, "-m", module]


def is_in_root(program: str) -> bool:
    """Tell whether a program lies below the project, as .venv/bin/python does."""
    return Path(program).is_relative_to(ROOT)


def run(command: Sequence[str], *, makes: Path | None = None) -> bool:
    """Show a command, run it, and tell whether the file it makes changed.

    Raises
    ------
    StepError
        If it fails.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    before = _stamp(makes)
    direct = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), HOST, "localhost")))
    environment = os.environ | {"no_proxy": direct, "NO_PROXY": direct}  # a proxy knows nothing of our loopback
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise StepError(f"exit status {done.returncode} from: {shlex.join(command)}")
    return _stamp(makes) != before


def _stamp(file: Path | None) -> tuple[int, int] | None:
    if file is None or not file.exists():
        return None
    state = file.stat()
    return state.st_ino, state.st_mtime_ns


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object."""
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def write_whole(file: Path, text: str) -> None:
    """Write a file that is never seen half-written."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(text)
    unfinished.replace(file)
