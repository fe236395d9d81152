"""All verdicts on one clip, from its scores alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.filters import motion, sound, speech, text
from pipeline.filters.text import Rule, rules_hash
from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict

Mode = Literal["drop", "score", "off"]

QUESTIONS = (text, sound, speech, motion)
"""In the order in which they give a clip its code: the first verdict against it does."""

CODES_OF_FILTERS = ("text", "silent", "tone", "clipped", "speech", "not-music", "static")
"""Codes of their verdicts, in that order."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What is asked of the clips of a set, and what the answers do."""

    mode: Mode = "drop"
    """Drop what the filters find; score it and keep it; or do not ask."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What a clip must reach."""
    rules: tuple[Rule, ...] = ()
    """Of titles, descriptions, categories and lengths."""

    def to_dict(self) -> dict[str, Any]:
        """What ``dataset.json`` says of them; the rules by the hash of their table."""
        if self.mode == "off":
            return {"mode": "off"}
        return {"mode": self.mode, "thresholds": asdict(self.thresholds), "rules": rules_hash(self.rules)}


OFF = Filters(mode="off")


def judge(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """Every verdict against a clip; what was not scored is not held against it."""
    for question in QUESTIONS:
        yield from question.verdicts(scores, thresholds)
