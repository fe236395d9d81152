"""Do title, description, category or length say that it is no music video? Rules are data: ``rules.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the table."""

    name: str


DEFAULT_RULES = Path(__file__).with_name("rules.csv")


def read_rules(table: Path) -> tuple[Rule, ...]:
    """Read a table of rules.

    Raises
    ------
    UserError
        If it cannot be used.
    """
    return ()


def scores(
    rules: Sequence[Rule],
    *,
    title: str | None,
    description: str | None = None,
    categories: Sequence[str] = (),
    duration_s: float | None = None,
) -> dict[str, list[str]]:
    """Names of the rules that a video's page hits, as the column ``text_rules``."""
    return {"text_rules": []}


def verdicts(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """What is to be said against a clip."""
    yield from ()
