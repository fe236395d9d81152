"""Which source groups of a split a run has seen, to train or to choose by, or the runs its weights came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.runs import Kind, read_config, read_groups

ANOTHER = "its folder holds another run now"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one run of the chain was trained on, and chosen by."""

    run: str
    phase: Kind | None
    """Of the run; None where it cannot be told."""
    groups: frozenset[str] | None
    """Hashes of the source groups trained on; None where they are not known."""
    chosen_by: frozenset[str] | None
    """Hashes of those by whose scores its best checkpoint was chosen; None where they are not known."""
    reason: str | None
    """Why ``groups`` are not."""


def chain(run: Path) -> list[Seen]:
    """Follow a run to the ones its weights came from, itself first."""
    seen: list[Seen] = []
    visited: set[Path] = set()
    while True:
        config = read_config(run)
        visited.add(run.resolve())
        seen.append(_seen(run, config.kind))
        if config.init is None:
            return seen
        found, reason = _source(run, config.init)
        if found is not None and found.resolve() in visited:
            found, reason = None, ANOTHER
        if found is None:
            seen.append(Seen(run=config.init["run"], phase=None, groups=None, chosen_by=None, reason=reason))
            return seen
        run = found


def _source(run: Path, init: Mapping[str, Any]) -> tuple[Path | None, str | None]:
    """Find the run that another's weights came from, or say why it cannot be found."""
    named = Path(init["run"])
    reason = "its folder is gone"
    # A run's folder is noted as it was named then; moved together, the two still lie side by side.
    for path in (named, run.parent / named.name):
        if not (path / "config.json").is_file():
            continue
        try:
            identity = read_config(path).identity
        except UserError as error:
            return None, str(error)
        if all(init.get(name, value) == value for name, value in identity.items()):  # earlier releases noted none
            return path, None
        reason = ANOTHER
    return None, reason


def _seen(run: Path, phase: Kind) -> Seen:
    try:
        groups, chosen_by = read_groups(run)
    except UserError as error:
        return Seen(run=str(run), phase=phase, groups=None, chosen_by=None, reason=str(error))
    return Seen(run=str(run), phase=phase, groups=groups, chosen_by=chosen_by, reason=None)


def overlaps(seen: Sequence[Seen], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Count, for each run of the chain, what of a split it was trained on or chosen by.

    Parameters
    ----------
    groups
        Hash of each sample's source group.

    Returns
    -------
    list of dict
        ``run, phase, trained_groups, groups, samples, chosen_by, reason``: of the split, ``groups`` and ``samples``
        were trained on, and ``chosen_by`` groups chose the best checkpoint. Numbers are null where its groups are not
        known.
    """
    return [
        {
            "run": one.run,
            "phase": one.phase,
            "trained_groups": len(one.groups) if one.groups is not None else None,
            "groups": len(one.groups.intersection(groups)) if one.groups is not None else None,
            "samples": sum(group in one.groups for group in groups) if one.groups is not None else None,
            "chosen_by": len(one.chosen_by.intersection(groups)) if one.chosen_by is not None else None,
            "reason": one.reason,
        }
        for one in seen
    ]


def leaked(seen: Sequence[Seen]) -> frozenset[str]:
    """All hashes that any run of the chain was trained on or chosen by."""
    return frozenset().union(*(known for one in seen for known in (one.groups, one.chosen_by) if known is not None))
