"""What became of the candidates, by stage and by code. Each is counted once, at the first reason against it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pipeline.page.index import Index, tally
from pipeline.schema import CODES
from pipeline.text import clean_text

EXAMPLES = 3  # of each code
MAX_DETAIL = 240  # characters
NO_CODE = "no code"  # a row of another program's making
_PATH = re.compile(r"(?<![\w:/])/[^\s'\":,]+")


class Stage(NamedTuple):
    """One question that a candidate must pass, and the codes of those that did not."""

    name: str
    codes: tuple[str, ...]
    shown: Literal["always", "if asked", "if any"] = "always"
    """A filter is shown if it was asked, or has something against a clip; a take-down if there was one."""


STAGES = (
    Stage("Asked for", ("unsupported-link", "no-label", "licence")),
    Stage("Title and page", ("text",), "if asked"),
    Stage("Can be had", ("unavailable", "private", "age-gated", "geo-blocked", "forbidden", "live", "network")),
    Stage("Can be decoded", ("too-large", "timeout", "undecodable", "no-audio", "no-video", "too-short", "internal")),
    Stage("Not silent", ("silent",), "if asked"),
    Stage("Not one held tone", ("tone",), "if asked"),
    Stage("Not clipped", ("clipped",), "if asked"),
    Stage("Not talk", ("speech",), "if asked"),
    Stage("Music or singing", ("not-music",), "if asked"),
    Stage("Moving picture", ("static",), "if asked"),
    Stage("New to the set", ("excluded", "duplicate", "key-collision")),
    Stage("Not taken down", ("purged",), "if any"),
)
"""In the order in which the table shows them; every code of the schema stands at one of them."""


@dataclass(frozen=True, kw_only=True)
class StageCount:
    """One line of the table of stages."""

    name: str
    shown: str
    entered: int
    by_code: dict[str, int]
    flagged: int
    """Kept clips that this filter would drop."""

    @property
    def dropped(self) -> int:
        """Candidates that end here."""
        return sum(self.by_code.values())

    @property
    def left(self) -> int:
        """Candidates that go on."""
        return self.entered - self.dropped


@dataclass(frozen=True, kw_only=True)
class CodeCount:
    """One line of the table of codes."""

    code: str
    meaning: str
    dropped: int
    flagged: int
    """Kept clips with this code in the column ``flagged``."""
    examples: list[str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All candidates, kept or not."""

    candidates: int
    by_status: dict[str, int]
    stages: list[StageCount]
    codes: list[CodeCount]

    @property
    def kept(self) -> int:
        """Candidates that are in the set."""
        return self.by_status["kept"]


def outcome(index: Index) -> Outcome:
    """Count an index. Stages and codes each sum to its candidates, whatever codes it holds."""
    codes = np.array([code or NO_CODE for code in index.text("code")], object)
    by_code = {str(code): n for code, n in tally(codes, ~index.kept).items()}
    flagged = flagged_kept(index)
    status = tally(index.status)
    by_status = {name: status.pop(name, 0) for name in ("kept", "rejected", "failed")}
    by_status["rejected"] += sum(status.values())  # a status that nobody knows is not kept
    examples = _examples(index, codes, by_code)
    every = [*by_code, *(code for code in flagged if code not in by_code)]
    return Outcome(
        candidates=index.num_rows,
        by_status=by_status,
        stages=count_stages(index.num_rows, by_code, flagged),
        codes=[
            CodeCount(
                code=code,
                meaning=CODES.get(code, "a code that this software does not know"),
                dropped=by_code.get(code, 0),
                flagged=flagged.get(code, 0),
                examples=examples.get(code, []),
            )
            for code in every
        ],
    )


def count_stages(candidates: int, by_code: Mapping[str, int], flagged: Mapping[str, int]) -> list[StageCount]:
    """Walk the stages; codes that none of them knows make a last one."""
    known = {code for stage in STAGES for code in stage.codes}
    unknown = tuple(code for code in by_code if code not in known)
    counts, left = [], candidates
    for stage in (*STAGES, *([Stage("Other reasons", unknown)] if unknown else [])):
        own = {code: by_code[code] for code in stage.codes if code in by_code}
        would = sum(flagged.get(code, 0) for code in stage.codes)
        counts.append(StageCount(name=stage.name, shown=stage.shown, entered=left, by_code=own, flagged=would))
        left = counts[-1].left
    return counts


def flagged_kept(index: Index) -> dict[str, int]:
    """Count the kept clips that each filter would drop; a clip may be flagged by several."""
    rows, codes = index.lists("flagged")
    counts = Counter(str(code) for row, code in zip(rows, codes, strict=True) if code and index.kept[row])
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def short_detail(detail: object) -> str:
    """A detail in one short line; of a traceback the last line, without the paths of one machine."""
    lines = str(detail or "").strip().splitlines()
    last = lines[-1] if lines else ""
    words = clean_text(_PATH.sub("…", last) if len(lines) > 1 else last) or ""
    return words if len(words) <= MAX_DETAIL else words[: MAX_DETAIL - 1] + "…"


def _examples(index: Index, codes: np.ndarray, by_code: Mapping[str, int]) -> dict[str, list[str]]:
    """Details of the first, the middle and the last candidate of each code, no two the same."""
    positions: dict[int, str] = {}
    for code in by_code:
        own = np.flatnonzero(~index.kept & (codes == code))
        for position in own[np.linspace(0, len(own) - 1, EXAMPLES).astype(int)]:
            positions[int(position)] = code
    found: dict[str, list[str]] = defaultdict(list)
    for position, row in sorted(index.rows(list(positions), ["detail"]).items()):
        words = short_detail(row["detail"])
        if words and words not in found[positions[position]]:
            found[positions[position]].append(words)
    return dict(found)
