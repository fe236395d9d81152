"""What a run leaves of every step: a line of JSON, a point in TensorBoard, a progress bar."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class RunLog:
    """One JSON object a step in ``log.jsonl``, the same numbers in TensorBoard, and a progress bar.

    A resumed run forgets what was logged after its checkpoint: those steps come again. One that begins anew forgets
    all. Of several ranks one writes.
    """

    def __init__(self, run: Path, *, step: int, num_steps: int, writes: bool = True) -> None:
        self._writes = writes
        if not writes:
            return
        path = run / "log.jsonl"
        kept = [line for line in _complete_lines(path) if _step_of(line) <= step] if step else []
        temporary = path.with_name(".log.jsonl")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else 0)
        self._last = time.perf_counter()
        self._bar = tqdm(total=num_steps, initial=step, unit="step", disable=None, dynamic_ncols=True)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record numbers of a step, and the seconds since the record before; ``kind`` is train, val or probe.

        What is not a finite number is null in JSON.
        """
        if not self._writes:
            return
        now = time.perf_counter()
        values["seconds"], self._last = round(now - self._last, 4), now
        record = {"step": step, "kind": kind, **{name: _finite(value) for name, value in values.items()}}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if kind == "train":
            self._bar.update()
            self._bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)

    def picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """Show a picture, uint8 (height, width, 3), in TensorBoard."""
        if self._writes:
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush everything."""
        if not self._writes:
            return
        with contextlib.closing(self._board), self._file:
            self._bar.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # else what came first tells more
                raise


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a log; the last may have been cut by a kill."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]


def _step_of(line: str) -> float:
    """Return the step that a line of a log tells of; infinity where it is broken, which no run gets to."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Fetch scalars from the device in one go."""
    return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True))
