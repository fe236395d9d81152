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
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.errors import UserError, one_line
from trainer.files import flush, now, write_text
from trainer.ranks import ALONE, Ranks

Series = Literal["step", "best"]

NEEDED = {"step", "batchnorm_reestimated"}
"""What every ``state.json`` tells."""
NEEDED_TO_GO_ON = {"epoch", "batch", "best"}

_WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)  # torch and safetensors turn the disk's errors into theirs


class Stateful(Protocol):
    """What has a state that a resumed run takes up: an optimiser, Fabric's precision with float16's scale."""

    def state_dict(self) -> dict[str, Any]:
        """Return it."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take it up."""


def save(
    run: Path,
    model: nn.Module,
    *,
    step: int,
    state: Mapping[str, Any],
    resumable: Mapping[str, Stateful] | None = None,
    beside: Mapping[str, nn.Module] | None = None,
    series: Series = "step",
    ranks: Ranks = ALONE,
) -> Path:
    """Write a checkpoint, then drop the older ones of its series; of several ranks one writes and all wait.

    Of the series ``best`` all others go: one of a later step is of a branch that a resumed run gave up.

    Parameters
    ----------
    state
        JSON-able; ``step`` and the time are added.
    resumable
        Whose states go into ``optimizer.pt``, with torch's random state, by name; None where nothing is resumed.
    beside
        Other modules that a resumed run needs, by name: each a file ``<name>.safetensors``.

    Raises
    ------
    UserError
        If it cannot be written; the older ones are as they were.
    """
    final = run / "checkpoints" / f"{series}-{step:08d}"
    states = None
    if resumable is not None:
        states = {name: each.state_dict() for name, each in resumable.items()} | {"rng": torch.get_rng_state()}
    words = json.dumps({"step": step, "saved": now(), **state}, indent=2) + "\n"
    ranks.lead(lambda: _write(final, modules={"model": model, **(beside or {})}, states=states, words=words))
    return final


def _write(final: Path, *, modules: Mapping[str, nn.Module], states: Mapping[str, Any] | None, words: str) -> None:
    folder, temporary = final.parent, final.with_name(f".{final.name}")
    best = final.name.startswith("best")
    if best or not final.exists():  # a resumed run comes to the same step with the same state, a best one apart
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            for file, module in modules.items():
                tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
                save_file(tensors, temporary / f"{file}.safetensors")
            if states is not None:
                torch.save(states, temporary / "optimizer.pt")
            write_text(temporary / "state.json", words)
            for path in temporary.iterdir():
                shutil.copymode(temporary / "state.json", path)  # safetensors lets nobody else read
                flush(path)
            _put(temporary, final)
            flush(folder)
        except _WRITE_ERRORS as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(
                f"{final} cannot be written ({one_line(error)}); the checkpoints before it are whole: make room and go "
                "on with --resume"
            ) from None
    for other in folder.glob(f"{final.name.split('-')[0]}-*"):
        if other.name < final.name or (best and other != final):
            shutil.rmtree(other)


def _put(temporary: Path, final: Path) -> None:
    """Rename a folder that is whole, in place of what may stand there.

    A kill between two renames leaves none of this name; the run, which goes on from an earlier step, makes it again.
    """
    before = final.with_name(f"{temporary.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if final.exists():
        final.rename(before)
    temporary.rename(final)
    shutil.rmtree(before, ignore_errors=True)


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
        needed = NEEDED if checkpoint.name.startswith("best") else NEEDED | NEEDED_TO_GO_ON
        if missing := sorted(needed - set(state)):
            raise ValueError(f"it does not tell {', '.join(missing)}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{checkpoint}/state.json cannot be read ({error}); the checkpoint is damaged") from None
    return state


def load_weights(checkpoint: Path, module: nn.Module, *, prefix: str = "", file: str = "model") -> tuple[int, int]:
    """Fill a module with a checkpoint's tensors; every name must be found on both sides.

    Parameters
    ----------
    prefix
        What the module's names begin with in the checkpoint, such as ``encoder.``.
    file
        Name that ``save`` gave the module, if it lay beside the model.

    Returns
    -------
    (int, int)
        Tensors and values loaded.
    """
    path = checkpoint / f"{file}.safetensors"
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


def load_states(checkpoint: Path, resumable: Mapping[str, Stateful]) -> None:
    """Restore what ``save`` was given, and torch's random state; nothing is unpickled but tensors and plain values."""
    path = checkpoint / "optimizer.pt"
    try:
        stored = torch.load(path, weights_only=True, map_location="cpu")
        for name, each in resumable.items():
            each.load_state_dict(stored[name])
        torch.set_rng_state(stored["rng"])
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); the checkpoint is damaged") from None
