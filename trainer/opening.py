"""How a run begins or is taken up again, and where its weights come from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from trainer.checkpoint import latest, load_weights, read_state, require_latest
from trainer.errors import UserError
from trainer.files import require_empty, require_folder, write_text
from trainer.runs import Kind, RunConfig, group_hashes, read_config, require_resumable, require_same


def default_run(root: str, kind: Kind, network: str, preset: str) -> Path:
    """Name a new run folder."""
    return Path(root) / f"{kind}-{network}-{preset}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def open_run(
    run: Path,
    config: RunConfig,
    *,
    init: str,
    root: Path,
    groups: Iterable[str],
    chosen_by: Iterable[str],
    resume: bool,
) -> tuple[RunConfig, str]:
    """Begin a run, or take up the one that is there.

    Parameters
    ----------
    init, root
        As in ``choose_init``. A run that is taken up keeps what it began with.
    groups
        Source groups that will be trained on.
    chosen_by
        Source groups by whose scores the best checkpoint will be chosen.

    Returns
    -------
    (RunConfig, str)
        The run's settings, and why its weights come from where they do.
    """
    require_folder(run)
    if resume and (run / "config.json").exists():
        stored = read_config(run)
        require_resumable(run, stored, config)
        return stored, "as the run began"
    source, why = choose_init(
        init,
        root=root,
        network=config.network,
        recipe=config.recipe,
        normalization=config.train["normalization"],
    )
    if source is None and config.train["freeze_batchnorm"]:
        raise UserError(
            "--freeze-batchnorm keeps statistics that a pretrained run brings, and this one starts from scratch "
            f"({why}); give --init RUN, or leave it out"
        )
    config = replace(config, init=init_record(source))
    begin(run, config, groups=groups, chosen_by=chosen_by)
    return config, why


def begin(run: Path, config: RunConfig, *, groups: Iterable[str], chosen_by: Iterable[str] = ()) -> None:
    """Make a new run's folder.

    Raises
    ------
    UserError
        If something is there already.
    """
    if (run / "config.json").exists():
        raise UserError(f"--out {run} exists already; add --resume to go on with it, or name another folder")
    require_empty(run, but=("groups.json", ".groups.json", ".config.json"))  # a kill between the two leaves these
    run.mkdir(parents=True, exist_ok=True)
    seen = {"trained": group_hashes(groups), "chosen_by": group_hashes(chosen_by)}
    write_text(run / "groups.json", json.dumps(seen))
    write_text(run / "config.json", json.dumps(asdict(config), indent=2) + "\n")


def init_record(run: Path | None) -> dict[str, Any] | None:
    """Return what a new run notes of the one it starts from."""
    if run is None:
        return None
    return {"run": str(run), "step": read_state(_best_or_last(run))["step"], **read_config(run).identity}


def _best_or_last(run: Path) -> Path:
    """Return the checkpoint of a pretrained run that its probe found best, or the last where it had no probe."""
    return latest(run, "best") or require_latest(run)


def initialise(init: Mapping[str, Any], **modules: nn.Module) -> str:
    """Fill modules with the weights of ``RunConfig.init``'s run, and say what was loaded.

    What its probe found best is taken, else its last state.

    Parameters
    ----------
    **modules
        By their names in the run's model.

    Raises
    ------
    UserError
        If another run, or another step of it, stands there than when ``init`` was noted: a run that is taken up before
        its first checkpoint would go on as one that was begun otherwise.
    """
    source = Path(init["run"])
    found, noted = _best_or_last(source), init_record(source) or {}
    if any(init.get(name, value) != value for name, value in noted.items()):  # earlier releases noted less
        raise UserError(
            f"{source} no longer holds the weights this run began with, of step {init['step']}; begin another"
        )
    loaded = [load_weights(found, module, prefix=f"{name}.") for name, module in modules.items()]
    tensors, values = (sum(counts) for counts in zip(*loaded, strict=True))
    which = ", the best by its probe" if found.name.startswith("best") else ""
    return f"{init['run']} at step {read_state(found)['step']}{which}, {tensors} tensors, {values:,} values"


def choose_init(
    init: str, *, root: Path, network: Mapping[str, Any], recipe: Mapping[str, Any], normalization: str
) -> tuple[Path | None, str]:
    """Decide where weights come from.

    Parameters
    ----------
    init
        A pretrained run's folder, ``scratch``, or ``auto``: the newest pretrained run below ``root`` that has the same
        network, was trained on shards of the same recipe, standardised alike, and has a checkpoint.

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
        _require_fit(run, network, recipe, normalization)
        return run, "as asked"
    fitting: list[tuple[str, Path]] = []
    reasons: list[str] = []
    for run in sorted(path.parent for path in root.glob("*/config.json")):
        try:
            config = read_config(run)
            if config.kind == "pretrain":
                _require_fit(run, network, recipe, normalization)
                fitting.append((config.created, run))
        except UserError as error:
            reasons.append(str(error))
    if fitting:
        return max(fitting)[1], f"the newest of {len(fitting)} that fit in {root}"
    if reasons:
        return None, f"no pretrained run in {root} fits; for one, {reasons[-1]}"
    return None, f"no pretrained run in {root}; make one: python -m trainer.pretrain --shards shards/unlabeled"


def _require_fit(run: Path, network: Mapping[str, Any], recipe: Mapping[str, Any], normalization: str) -> None:
    config = read_config(run)
    require_same(run, config, kind="pretrain", network=network, recipe=recipe)
    if config.train["normalization"] != normalization:
        raise UserError(
            f"{run} was trained with --normalization {config.train['normalization']}, here it is {normalization}; "
            "give the same"
        )
    require_latest(run)
