"""Checkpoints: written whole or not at all, read with distrust.

    RUN/checkpoints/step-00000200/          the last state: model.safetensors, optimizer.pt, state.json
    RUN/checkpoints/best-00000150/          fine-tuning: the best on the validation split, model and state alone

A checkpoint is written under a hidden name and renamed; older ones go only after that.
"""

import json
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.files import flush, now, write_text

Series = Literal["step", "best"]


def save(
    run: Path,
    model: nn.Module,
    *,
    step: int,
    state: Mapping[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
    series: Series = "step",
) -> Path:
    """Write a checkpoint, then drop the older ones of its series.

    Parameters
    ----------
    state
        JSON-able; ``step`` and the time are added.
    optimizer
        Left out of checkpoints that nothing is resumed from.
    """
    folder = run / "checkpoints"
    final = folder / f"{series}-{step:08d}"
    if not final.exists():  # a resumed run comes to the same step with the same state
        temporary = folder / f".{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, temporary / "model.safetensors")
        if optimizer is not None:
            torch.save({"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, temporary / "optimizer.pt")
        write_text(temporary / "state.json", json.dumps({"step": step, "saved": now(), **state}, indent=2) + "\n")
        for path in temporary.iterdir():
            flush(path)
        temporary.rename(final)
        flush(folder)
    for older in folder.glob(f"{series}-*"):
        if older.name < final.name:
            shutil.rmtree(older)
    return final


def latest(run: Path, series: Series = "step") -> Path | None:
    """Return the newest complete checkpoint of a series."""
    found = [path for path in (run / "checkpoints").glob(f"{series}-*") if re.fullmatch(r"[a-z]+-\d{8,}", path.name)]
    return max(found, default=None, key=lambda path: int(path.name.split("-")[1]))


def require_latest(run: Path) -> Path:
    """Return the newest checkpoint of a run, or refuse one that has none."""
    found = latest(run)
    if found is None:
        raise UserError(f"{run} has no checkpoint yet")
    return found


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's ``state.json``."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}/state.json cannot be read ({error}); the checkpoint is damaged") from None
    return state


def load_weights(checkpoint: Path, module: nn.Module, *, prefix: str = "") -> tuple[int, int]:
    """Fill a module with a checkpoint's tensors; every name must be found on both sides.

    Parameters
    ----------
    prefix
        What the module's names begin with in the checkpoint, such as ``encoder.``.

    Returns
    -------
    (int, int)
        Tensors and values loaded.
    """
    path = checkpoint / "model.safetensors"
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); the checkpoint is damaged") from None
    tensors: dict[str, Tensor] = {
        name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)
    }
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the network: {' '.join(str(error).split())[:300]}") from None
    return len(tensors), sum(tensor.numel() for tensor in tensors.values())


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimiser and torch's random state; nothing is unpickled but tensors and plain values."""
    path = checkpoint / "optimizer.pt"
    try:
        stored = torch.load(path, weights_only=True, map_location="cpu")
        optimizer.load_state_dict(stored["optimizer"])
        torch.set_rng_state(stored["rng"])
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); the checkpoint is damaged") from None
