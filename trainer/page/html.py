"""Templates to text: escaped, style and script inside, and a policy that lets a page load and run nothing else."""

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent
NOTHING = "–"  # noqa: RUF001


def render(template: str, **values: Any) -> str:
    """Return a page that runs no script."""
    return "".join(pieces(template, styles=["report.css"], **values))


def pieces(template: str, *, styles: Sequence[str], script: str | None = None, **values: Any) -> Iterator[str]:
    """Give a page bit by bit, for one that holds more than should be in memory several times."""
    inside = {"style": "".join(_own(name) for name in styles), "script": _own(script) if script else ""}
    hashes = {
        f"{name}_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in inside.items()
    }
    marked = {name: Markup(text) for name, text in inside.items()}  # they are our own files
    return _environment().get_template(template).generate(**marked, **hashes, **values)


def _own(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "last_part": last_part,
        "score": score,
        "signed": signed,
        "span": span,
        "duration": duration,
        "clock": clock,
        "percent": lambda share: NOTHING if share is None else f"{share:.0%}",
        "thousands": lambda number: NOTHING if number is None else f"{int(number):,}",
    }
    return environment


def last_part(address: str) -> str:
    """What a folder or an address is called, without saying where it is."""
    return ([part for part in address.split("/") if part not in ("", ".")] or [address])[-1]


def score(value: float | None) -> str:
    """Three digits, or a dash."""
    return NOTHING if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Three digits with their sign."""
    return NOTHING if value is None else f"{value:+.3f}".replace("-", "−")  # noqa: RUF001


def span(interval: list[float] | None, *, sign: bool = False) -> str:
    """An interval."""
    if interval is None:
        return NOTHING
    low, high = (signed(edge) if sign else score(edge) for edge in interval)
    return f"{low} to {high}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
