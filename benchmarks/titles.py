"""How many titles the rules hit, of music videos and of what is none.

    python -m benchmarks.titles
    python -m benchmarks.titles --titles MINE.csv --rules RULES.csv

It writes benchmarks/results/titles.json, and names the titles that are told wrongly. A table has the columns title,
music (yes, no) and seen (whether the rules were made with sight of it); duration_s, description and category may be.
"""

from __future__ import annotations

import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.environment import environment
from pipeline.filters.text import DEFAULT_RULES, hits, read_rules
from pipeline.sources import Source

RESULT = Path(__file__).parent / "results" / "titles.json"
TITLES = Path(__file__).parents[1] / "tests" / "pipeline" / "titles.csv"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is asked."""

    titles: Path = TITLES
    """Table of titles."""
    rules: Path = DEFAULT_RULES
    """Table of rules."""


def candidate(row: dict[str, str]) -> Source:
    return Source(
        source_id=row["title"],
        video_id=row["title"],
        link="",
        groups=(),
        title=row["title"],
        description=row.get("description") or None,
        categories=tuple(filter(None, [row.get("category")])),
        duration_s=float(row["duration_s"]) if row.get("duration_s") else None,
    )


def main() -> None:
    """Judge, print, write."""
    asked = tyro.cli(Arguments, description=__doc__)
    rules = read_rules(asked.rules)
    with asked.titles.open(encoding="utf-8-sig", newline="") as table:
        rows = list(csv.DictReader(table))
    began_s = time.process_time()
    told = [(row, hits(rules, candidate(row))) for row in rows]
    each_ms = (time.process_time() - began_s) / len(rows) * 1000
    groups = []
    for music in ("no", "yes"):
        for seen in sorted({row["seen"] for row in rows}, reverse=True):
            found = [bool(hit) for row, hit in told if (row["music"], row["seen"]) == (music, seen)]
            groups.append({"music": music, "seen": seen, "titles": len(found), "hit": sum(found)})
    for row, hit in told:
        if bool(hit) == (row["music"] == "yes"):
            print(f"wrong: {row['title']}" + "".join(f"; rule {rule}: {what}" for rule, what in hit))
    for group in groups:
        kind = "music video" if group["music"] == "yes" else "no music video"
        print(f"{kind:15} seen {group['seen']:4} {group['titles']:5} titles {group['hit']:5} hit")
    print(f"{len(rules)} rules, {each_ms:.2f} ms of CPU a title")
    result = {
        "environment": environment(),
        "command": "python -m benchmarks.titles",
        "rules": len(rules),
        "groups": groups,
        "cpu_ms_a_title": round(each_ms, 2),
    }
    if asked == Arguments():
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
