"""Do title, description, category or length say that it is no music video? Rules are data: ``rules.csv``.

A line of the table is a rule; it can be edited in a spreadsheet and named by ``--rules``:

    name      its own name, which stands in the column ``text_rules`` of the index
    language  of its words; for you, as is the column ``note``
    field     what it looks at: title, description (its first 1000 characters), category, or duration
    pattern   what hits: a regular expression, found as whole words, as ``patterns.py`` says
    over_s    it hits only where the whole video is longer than so many seconds
    under_s   it hits only where it is shorter
    unless    with this in the title, the rule does not hit

A line whose field is ``words`` is no rule: ``{its-name}`` in a pattern below it stands for its pattern. Where the
length is not known, as of a local file, no rule on it hits. What might be a music video is not to be hit: a song may be
called "Interview".
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.filters.patterns import compiled, fold, parsed
from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict
from pipeline.sources import Source

DEFAULT_RULES = Path(__file__).with_name("rules.csv")

COLUMNS = ("name", "language", "field", "pattern", "over_s", "under_s", "unless", "note")
FIELDS = ("title", "description", "category", "duration")
WORDS = "words"

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_REFERENCE = re.compile(r"\{([A-Za-z][\w-]*)\}")
_SHOWN_CHARS = 60  # of what was found


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the table, its ``{words}`` filled in."""

    name: str
    field: str
    """One of ``FIELDS``."""
    pattern: str = ""
    """Empty where the length alone counts."""
    over_s: float = 0.0
    under_s: float = math.inf
    unless: str = ""
    """Empty where nothing in the title speaks against it."""


class Hit(NamedTuple):
    """A rule that hit."""

    rule: str
    found: str
    """What it found, in words."""


def hits(rules: Sequence[Rule], source: Source) -> list[Hit]:
    """Rules that a candidate's words and length hit, in the order of the table."""
    title = fold(source.title)
    words = {
        "title": [title],
        "description": [fold(source.description or "")],
        "category": [fold(category) for category in source.categories],
    }
    found = ((rule, _found(rule, words.get(rule.field, []), source.duration_s)) for rule in rules)
    return [
        Hit(rule.name, what)
        for rule, what in found
        if what is not None and not (rule.unless and compiled(rule.unless).search(title))
    ]


def _found(rule: Rule, words: Sequence[str], duration_s: float | None) -> str | None:
    at_length = ""
    if rule.over_s > 0 or rule.under_s < math.inf:
        if duration_s is None or not rule.over_s < duration_s < rule.under_s:
            return None
        limits = [f"more than {rule.over_s:g}"] * (rule.over_s > 0) + [f"less than {rule.under_s:g}"] * (
            rule.under_s < math.inf
        )
        at_length = f"it takes {duration_s:.0f} s, {' and '.join(limits)}"
    if not rule.pattern:
        return at_length
    for text in words:
        if match := compiled(rule.pattern).search(text):
            what = f'{rule.field} has "{match.group()[:_SHOWN_CHARS].strip()}"'
            return f"{what}, and {at_length}" if at_length else what
    return None


def scores(rules: Sequence[Rule], source: Source) -> dict[str, list[str]]:
    """Names of the rules that a candidate hits, as the column ``text_rules``."""
    return {"text_rules": [hit.rule for hit in hits(rules, source)]}


def verdicts(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """What is to be said against a clip."""
    for name in scores.get("text_rules") or ():
        yield Verdict("text", f"rule {name}")


def problem(rules: Sequence[Rule], source: Source) -> tuple[str, str] | None:
    """Code and detail of a candidate that rules hit, with what they found; none where none does."""
    told = [f"rule {hit.rule}: {hit.found}" for hit in hits(rules, source)]
    return ("text", "; ".join(told)) if told else None


# --- the table ---------------------------------------------------------------------------------------------------


def read_rules(table: Path) -> tuple[Rule, ...]:
    """Read a table of rules; semicolons or tabs may stand in place of its commas, as spreadsheets like it.

    Raises
    ------
    UserError
        If it cannot be used: one line that names the file, the row as a spreadsheet counts it, and the mend.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
        head = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=head.count)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except FileNotFoundError as error:
        raise UserError(f"--rules {table}: no such file") from error
    except OSError as error:
        raise UserError(f"--rules {table} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--rules {table} is no UTF-8 text; save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise UserError(f"--rules {table} cannot be read as a table ({error}); save it as CSV") from error
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise UserError(f"--rules {table} has a column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    if missing := [name for name in ("name", "field", "pattern") if name not in columns]:
        raise UserError(f"--rules {table} has no column {missing[0]}; give it one, in the first row")
    rules: dict[str, Rule] = {}
    words: dict[str, str] = {}
    for number, cells in enumerate(rows[1:], start=2):
        row = {name: cell.strip() for name, cell in zip_longest(columns, cells[: len(columns)], fillvalue="")}
        if not any(cell.strip() for cell in cells):
            continue
        try:
            if any(cells[len(columns) :]):
                raise ValueError("it has more cells than the first row; put quotes around a cell that holds a comma")
            _add(row, rules, words)
        except ValueError as error:
            raise UserError(f"--rules {table}, row {number} ({row['name'] or 'no name'}): {error}") from error
    return tuple(rules.values())


def rules_hash(rules: Sequence[Rule]) -> str:
    """What tells one table from another, whatever its comments and spaces."""
    return hashlib.sha256(repr(tuple(rules)).encode()).hexdigest()[:16]


def _add(row: Mapping[str, str], rules: dict[str, Rule], words: dict[str, str]) -> None:
    """Add a row to the rules, or to the words that stand for a pattern."""
    name, field = row["name"], row["field"]
    if not _NAME.fullmatch(name):
        raise ValueError("give it a name of small letters, digits and hyphens")
    if name in rules or name in words:
        raise ValueError("another row has this name; give it one of its own")
    if field not in (*FIELDS, WORDS):
        raise ValueError(f"field {field!r} is none of {', '.join((*FIELDS, WORDS))}")
    pattern, unless = (_filled_in(row.get(column, ""), words) for column in ("pattern", "unless"))
    over_s, under_s = _seconds(row, "over_s", 0.0), _seconds(row, "under_s", math.inf)
    if field == "duration" and (pattern or (over_s == 0 and under_s == math.inf)):
        raise ValueError("a rule on the duration has no pattern, but over_s, under_s or both")
    if field != "duration" and not pattern:
        raise ValueError("it has no pattern; write what is to be found")
    if over_s >= under_s:
        raise ValueError("over_s is not less than under_s, so that it never hits; mend one of them")
    if field == WORDS:
        if unless or over_s > 0 or under_s < math.inf:
            raise ValueError("words have a pattern alone; empty its other cells")
        parsed(pattern)
        words[name] = pattern
    else:
        for written in filter(None, (pattern, unless)):
            compiled(written)
        rules[name] = Rule(name=name, field=field, pattern=pattern, over_s=over_s, under_s=under_s, unless=unless)


def _filled_in(pattern: str, words: Mapping[str, str]) -> str:
    def stands_for(reference: re.Match[str]) -> str:
        if reference[1] not in words:
            known = f"known here are {', '.join(words)}" if words else "there are none above"
            raise ValueError(f"no row of words above it is called {reference[1]}; {known}")
        return f"(?:{words[reference[1]]})"

    return _REFERENCE.sub(stands_for, pattern)


def _seconds(row: Mapping[str, str], column: str, default: float) -> float:
    written = row.get(column, "")
    if not written:
        return default
    try:
        seconds = float(written.replace(",", "."))
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"{column} {written!r}: give seconds above 0")
    return seconds
