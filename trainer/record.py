"""What a run leaves of every step: a line of JSON, a point in TensorBoard, a progress bar."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class RunLog:
    """One JSON object a step in ``log.jsonl``, the same numbers in TensorBoard, and a progress bar.

    A resumed run forgets what was logged after its checkpoint: those steps come again.
    """

    def __init__(self, run: Path, *, step: int, num_steps: int) -> None:
        path = run / "log.jsonl"
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        temporary = path.with_name(".log.jsonl")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._last = time.perf_counter()
        self._bar = tqdm(total=num_steps, initial=step, unit="step", disable=None, dynamic_ncols=True)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record numbers of a step, and the seconds since the record before; ``kind`` is train or val.

        What is not a finite number is null in JSON.
        """
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

    def close(self) -> None:
        """Flush everything."""
        self._bar.close()
        self._file.close()
        self._board.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a log; the last may have been cut by a kill."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Fetch scalars from the device in one go."""
    return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True))
