"""Runs on disk: the settings that made them, checkpoints written whole or not at all, and what fits what.

    RUN/config.json                         what was run, on which data (``RunConfig``)
    RUN/log.jsonl, RUN/tensorboard/         one object a step
    RUN/groups.json                         hashes of the source groups that it was trained on
    RUN/checkpoints/step-00000200/          the last state: model.safetensors, optimizer.pt, state.json
    RUN/checkpoints/best-00000150/          fine-tuning: the best on the validation split, model and state alone

A checkpoint is written under a hidden name and renamed; older ones go only after that.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.errors import UserError

Kind = Literal["pretrain", "finetune"]
Series = Literal["step", "best"]

RUN_VERSION = 1
MAY_CHANGE = {"shards", "out", "runs", "init", "resume", "epochs", "max_steps", "checkpoint_every"}
"""Training settings that a resumed run may change: they shape no step already taken."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What ``config.json`` says of a run."""

    kind: Kind
    network: dict[str, Any]
    """The network's configuration, as ``trainer.models.presets.config_from_dict`` reads it."""
    preset: str
    recipe: dict[str, Any]
    """Settings that shaped the arrays it was trained on; stored arrays of others mean something else."""
    recipe_hash: str
    labels: list[str] | None
    normalization: dict[str, Any]
    data: str
    """Fingerprint of the samples and shards trained on."""
    train: dict[str, Any]
    """The command's flags."""
    init: dict[str, Any] | None
    """Which run, at which step, the weights came from."""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    created: str = field(default_factory=lambda: now())
    run_version: int = RUN_VERSION

    @property
    def name(self) -> str:
        """Network and preset, for people."""
        return f"{self.network['network']} {self.preset}"


def versions() -> dict[str, str]:
    """Return the releases that a run's numbers may depend on."""
    names = ("music-video-emotion", "torch", "lightning", "numpy", "scikit-learn")
    return {name: metadata.version(name) for name in names if any(metadata.distributions(name=name))}


def now() -> str:
    """Return the time, UTC, sortable."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def default_run(root: str, kind: Kind, network: str, preset: str) -> Path:
    """Name a new run folder."""
    return Path(root) / f"{kind}-{network}-{preset}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


# --- run folders -------------------------------------------------------------------------------------------------


def read_config(run: Path) -> RunConfig:
    """Read a run's ``config.json``.

    Raises
    ------
    UserError
        If the folder is no run, or of another release.
    """
    path = run / "config.json"
    if not run.is_dir():
        raise UserError(f"{run}: there is no such run folder")
    if not path.is_file():
        raise UserError(f"{run} is no run: it has no config.json; give a folder that pretrain or finetune wrote")
    try:
        raw = json.loads(path.read_text())
        if raw["run_version"] != RUN_VERSION:
            raise UserError(f"{path} is of run version {raw['run_version']}, this software reads {RUN_VERSION}")
        return RunConfig(**{known.name: raw[known.name] for known in fields(RunConfig)})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); give a folder that pretrain or finetune wrote") from None


def stored_flags(run: Path) -> dict[str, Any] | None:
    """Return the flags a run was begun with, if there is one."""
    return read_config(run).train if (run / "config.json").exists() else None


def open_run(
    run: Path, config: RunConfig, *, init: str, root: Path, groups: Iterable[str], resume: bool
) -> tuple[RunConfig, str]:
    """Begin a run, or take up the one that is there.

    Parameters
    ----------
    init, root
        As in ``choose_init``. A run that is taken up keeps what it began with.
    groups
        Source groups that will be trained on.

    Returns
    -------
    (RunConfig, str)
        The run's settings, and why its weights come from where they do.
    """
    if resume and (run / "config.json").exists():
        stored = read_config(run)
        require_resumable(run, stored, config)
        return stored, "as the run began"
    source, why = choose_init(init, root=root, network=config.network, recipe=config.recipe)
    config = replace(config, init=init_record(source))
    begin(run, config, groups=groups)
    return config, why


def begin(run: Path, config: RunConfig, *, groups: Iterable[str]) -> None:
    """Make a new run's folder.

    Raises
    ------
    UserError
        If something is there already.
    """
    if (run / "config.json").exists():
        raise UserError(f"--out {run} exists already; add --resume to go on with it, or name another folder")
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"--out {run} is no run, and not empty either; name another folder")
    run.mkdir(parents=True, exist_ok=True)
    _write_text(run / "groups.json", json.dumps(group_hashes(groups)))
    _write_text(run / "config.json", json.dumps(asdict(config), indent=2) + "\n")


def require_resumable(run: Path, stored: RunConfig, config: RunConfig) -> None:
    """Refuse to go on with a run that was begun as another one.

    Raises
    ------
    UserError
        If phase, network, recipe, labels, samples, or a flag that shapes the steps differ.
    """
    require_same(run, stored, kind=config.kind, network=config.network, recipe=config.recipe, labels=config.labels)
    for flag, value in config.train.items():
        if flag not in MAY_CHANGE and stored.train.get(flag) != value:
            raise UserError(
                f"--{flag.replace('_', '-')} {value}, but {run} was begun with {stored.train.get(flag)}; "
                "leave the flag out, or begin another run"
            )
    if stored.data != config.data:
        raise UserError(f"{run} was begun on other samples than the set holds now; begin another run")


def require_same(
    run: Path,
    stored: RunConfig,
    *,
    kind: Kind | None = None,
    network: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    labels: list[str] | None = None,
) -> None:
    """Refuse a run of another phase, network, recipe or labels, naming what differs; what is None is not compared."""
    if kind is not None and stored.kind != kind:
        raise UserError(f"{run} is a {stored.kind} run; a {kind} run is needed here")
    if network is not None and (flag := first_difference(stored.network, network)):
        raise UserError(
            f"{run} holds another network ({stored.name}): its {flag} is {_shown(stored.network.get(flag))}, "
            f"here {_shown(network.get(flag))}; give the --network, --preset and --modality it was made with"
        )
    # Which modalities a set holds changes no array of those that the network reads.
    if recipe is not None and (name := first_difference(stored.recipe, recipe, but=("modality",))):
        raise UserError(
            f"{run} was trained on shards of another recipe: its {name} is {_shown(stored.recipe.get(name))}, "
            f"here {_shown(recipe.get(name))}; build the set by the same recipe, or train anew"
        )
    if labels is not None and stored.labels is not None and stored.labels != labels:
        raise UserError(f"{run} was trained on the labels {', '.join(stored.labels)}; the set has {', '.join(labels)}")


def first_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, but: tuple[str, ...] = ()) -> str | None:
    """Return the first key whose values differ, as JSON sees them; the most telling come first."""
    mine, theirs = (json.loads(json.dumps(dict(values))) for values in (mine, theirs))
    for key in ("network", "modality", *theirs, *mine):
        if key not in but and mine.get(key) != theirs.get(key):
            return key
    return None


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def group_hashes(groups: Iterable[str]) -> list[str]:
    """Hash source groups: enough to find them again, without telling which they were."""
    return sorted({hashlib.sha256(group.encode()).hexdigest()[:16] for group in groups})


def trained_groups(run: Path) -> set[str]:
    """Return the hashes of the source groups that a run was trained on."""
    path = run / "groups.json"
    return set(json.loads(path.read_text())) if path.is_file() else set()


# --- checkpoints -------------------------------------------------------------------------------------------------


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
        _write_text(temporary / "state.json", json.dumps({"step": step, "saved": now(), **state}, indent=2) + "\n")
        for path in temporary.iterdir():
            _flush(path)
        temporary.rename(final)
        _flush(folder)
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


def init_record(run: Path | None) -> dict[str, Any] | None:
    """Return what a new run notes of the one it starts from."""
    found = latest(run) if run is not None else None
    return None if found is None else {"run": str(run), "step": read_state(found)["step"]}


def initialise(init: Mapping[str, Any], module: nn.Module, *, prefix: str = "") -> str:
    """Fill a module with the weights of ``RunConfig.init``'s run, and say what was loaded."""
    run = Path(init["run"])
    found = require_latest(run)
    tensors, values = load_weights(found, module, prefix=prefix)
    return f"{run} at step {read_state(found)['step']}, {tensors} tensors, {values:,} values"


def choose_init(
    init: str, *, root: Path, network: Mapping[str, Any], recipe: Mapping[str, Any]
) -> tuple[Path | None, str]:
    """Decide where weights come from.

    Parameters
    ----------
    init
        A pretrained run's folder, ``scratch``, or ``auto``: the newest pretrained run below ``root`` that has the same
        network, was trained on shards of the same recipe, and has a checkpoint.

    Returns
    -------
    (Path or None, str)
        The run, if any, and why.

    Raises
    ------
    UserError
        If a run was named and does not fit.
    """
    if init == "scratch":
        return None, "as asked"
    if init != "auto":
        run = Path(init)
        _require_fit(run, network=network, recipe=recipe)
        return run, "as asked"
    fitting: list[tuple[str, Path]] = []
    reasons: list[str] = []
    for run in sorted(path.parent for path in root.glob("*/config.json")):
        try:
            config = read_config(run)
            if config.kind == "pretrain":
                _require_fit(run, network=network, recipe=recipe)
                fitting.append((config.created, run))
        except UserError as error:
            reasons.append(str(error))
    if fitting:
        return max(fitting)[1], f"the newest of {len(fitting)} that fit in {root}"
    if reasons:
        return None, f"no pretrained run in {root} fits; for one, {reasons[-1]}"
    return None, f"no pretrained run in {root}; make one: python -m trainer.pretrain --shards shards/unlabeled"


def _require_fit(run: Path, *, network: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    require_same(run, read_config(run), kind="pretrain", network=network, recipe=recipe)
    require_latest(run)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    _flush(temporary)
    temporary.replace(path)


def _flush(path: Path) -> None:
    """Have the disk hold it, so that a power cut cannot leave a name without its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
