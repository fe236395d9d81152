"""Which source groups of a split a run has seen: in its own training, and in that of the runs its weights came from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.runs import Kind, read_config


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one run of the chain was trained on."""

    run: str
    phase: Kind | None
    """Of the run; None where it cannot be told."""
    groups: frozenset[str] | None
    """Hashes of its source groups; None where they are not known."""
    reason: str | None
    """Why they are not."""


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
        named = Path(config.init["run"])
        # A run's folder is noted as it was named then; moved together, the two still lie side by side.
        found = next((path for path in (named, run.parent / named.name) if (path / "config.json").is_file()), None)
        reason = "its folder is gone" if found is None else None
        if found is not None and found.resolve() in visited:
            reason = "its folder holds another run now"
        if found is not None and reason is None:
            try:
                read_config(found)
            except UserError as error:
                reason = str(error)
        if found is None or reason is not None:
            seen.append(Seen(run=str(named), phase=None, groups=None, reason=reason))
            return seen
        run = found


def _seen(run: Path, phase: Kind) -> Seen:
    path = run / "groups.json"
    try:
        hashes = json.loads(path.read_text())
        if not (isinstance(hashes, list) and all(isinstance(one, str) for one in hashes)):
            raise ValueError("no list of hashes")
    except (OSError, ValueError) as error:
        return Seen(run=str(run), phase=phase, groups=None, reason=f"groups.json cannot be read ({error})")
    return Seen(run=str(run), phase=phase, groups=frozenset(hashes), reason=None)


def overlaps(seen: Sequence[Seen], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Count, for each run of the chain, the groups and samples of a split that it was trained on.

    Parameters
    ----------
    groups
        Hash of each sample's source group.

    Returns
    -------
    list of dict
        ``run, phase, trained_groups, groups, samples, reason``; numbers are null where its groups are not known.
    """
    rows = []
    for one in seen:
        known = one.groups is not None
        rows.append(
            {
                "run": one.run,
                "phase": one.phase,
                "trained_groups": len(one.groups) if one.groups is not None else None,
                "groups": len(one.groups.intersection(groups)) if one.groups is not None else None,
                "samples": sum(group in one.groups for group in groups) if one.groups is not None else None,
                "reason": None if known else one.reason,
            }
        )
    return rows


def leaked(seen: Sequence[Seen]) -> frozenset[str]:
    """All hashes that any run of the chain was trained on."""
    return frozenset().union(*(one.groups for one in seen if one.groups is not None))
