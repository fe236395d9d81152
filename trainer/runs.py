"""What a run is: the settings that made it, read back, and compared with what it is asked to serve.

    RUN/config.json                         what was run, on which data (``RunConfig``)
    RUN/groups.json                         hashes of the source groups trained on, and chosen by (``read_groups``)
    RUN/log.jsonl, RUN/tensorboard/         one object a step: ``trainer.record``
    RUN/checkpoints/                        ``trainer.checkpoint``

``trainer.opening`` begins one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from trainer.errors import UserError, one_line
from trainer.files import now

Kind = Literal["pretrain", "finetune"]

RUN_VERSION = 2
SAME_MEANING = ("modality", "frames", "jpeg_quality")
"""Settings of a recipe that decide what is stored, and in what form, but not what the arrays mean."""
LENGTH = {"epochs", "max_steps"}
OTHER_WAYS = {"device", "compile", "channels_last", "checkpoint_activations"}
"""Settings that are other ways to compute the same."""
MAY_CHANGE = {"shards", "out", "runs", "init", "resume", "fold", "damaged", *LENGTH, *OTHER_WAYS}
MAY_CHANGE |= {"against", "checkpoint_every", "probe_every", "pictures_every"}
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
    """Which run, at which step, the weights came from, and its ``identity``, which earlier releases did not note."""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    created: str = field(default_factory=lambda: now())
    run_version: int = RUN_VERSION

    @property
    def name(self) -> str:
        """Network and preset, for people."""
        return f"{self.network['network']} {self.preset}"

    @property
    def identity(self) -> dict[str, str]:
        """What tells the run from another that stands under its name later."""
        return {"created": self.created, "data": self.data}


def versions(*others: str) -> dict[str, str]:
    """Return the releases that a run's numbers may depend on, and those of other packages, as far as they are there."""
    names = ("music-video-emotion", "torch", "lightning", "numpy", "scikit-learn", *others)
    return {name: metadata.version(name) for name in names if any(metadata.distributions(name=name))}


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
    if (run / "folds.json").is_file():
        raise UserError(
            f"{run} is a cross-validation, scored by itself when its last fold was done; of its runs name one, such as "
            f"{run}/fold-0"
        )
    if not path.is_file():
        raise UserError(f"{run} is no run: it has no config.json; give a folder that pretrain or finetune wrote")
    try:
        raw = json.loads(path.read_text())
        if raw["run_version"] != RUN_VERSION:
            raise UserError(f"{path} is of run version {raw['run_version']}, this software reads {RUN_VERSION}")
        return RunConfig(**{known.name: raw[known.name] for known in fields(RunConfig)})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); give a folder that pretrain or finetune wrote") from None


def read_groups(run: Path) -> tuple[frozenset[str], frozenset[str] | None]:
    """Read a run's ``groups.json``.

    Returns
    -------
    (frozenset of str, frozenset of str or None)
        Hashes of the source groups that it was trained on; and of those by whose scores its best checkpoint was chosen,
        None where an earlier release did not note them.

    Raises
    ------
    UserError
        If it is missing or damaged.
    """
    path = run / "groups.json"
    try:
        raw = json.loads(path.read_text())
        trained, chosen_by = (raw, None) if isinstance(raw, list) else (raw["trained"], raw["chosen_by"])
        for hashes in (trained, chosen_by or []):
            if not (isinstance(hashes, list) and all(isinstance(one, str) for one in hashes)):
                raise ValueError("no list of hashes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); the run is damaged") from None
    return frozenset(trained), None if chosen_by is None else frozenset(chosen_by)


def read_folds(run: Path) -> dict[str, Any]:
    """Read a cross-validation's ``folds.json``: its flags as ``train``, the samples it divides as ``data``.

    Raises
    ------
    UserError
        If it is damaged.
    """
    path = run / "folds.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        return raw | {"train": dict(raw["train"]), "data": raw["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); begin another cross-validation") from None


def stored_flags(run: Path) -> dict[str, Any] | None:
    """Return the flags a run, or a cross-validation, was begun with, if there is one."""
    of_the_command = {"against"}  # each names its own
    if (run / "folds.json").exists():
        flags: dict[str, Any] = read_folds(run)["train"]
        of_the_command.add("fold")
    elif (run / "config.json").exists():
        flags = read_config(run).train
    else:
        return None
    return {name: value for name, value in flags.items() if name not in of_the_command}


def require_resumable(run: Path, stored: RunConfig, config: RunConfig) -> None:
    """Refuse to go on with a run that was begun as another one.

    Raises
    ------
    UserError
        If phase, network, recipe, labels, samples, or a flag that shapes the steps differ.
    """
    require_same(run, stored, kind=config.kind, network=config.network, recipe=config.recipe, labels=config.labels)
    require_same_flags(run, stored.train, config.train)
    if stored.data != config.data:
        raise UserError(f"{run} was begun on other samples than the set holds now; begin another run")


def require_same_flags(run: Path, stored: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    """Refuse flags that shape steps and are not those that a run was begun with."""
    planned = bool(stored.get("cosine") or stored.get("warmup"))  # then the number of steps shapes each of them
    for flag, value in flags.items():
        may_change = flag in MAY_CHANGE and not (planned and flag in LENGTH)
        before = stored.get(flag, value)
        if not may_change and before != json.loads(json.dumps(value)):  # there a tuple is a list
            raise UserError(
                f"--{flag.replace('_', '-')} {value}, but {run} was begun with {before}; "
                "leave the flag out, or begin another run"
            )


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
            f"here {_shown(network.get(flag))}; give the --network, --preset, --modality and --phase it was made with"
        )
    if recipe is not None and (name := first_difference(stored.recipe, recipe, but=SAME_MEANING)):
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
    return sorted({group_hash(group) for group in groups})


def group_hash(group: str) -> str:
    """Hash one source group."""
    return hashlib.sha256(group.encode()).hexdigest()[:16]
