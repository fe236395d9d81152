"""Words of others, made harmless."""

from __future__ import annotations

import re

MAX_TEXT = 500  # characters of a title or name that are kept


def clean_text(value: object, *, max_chars: int = MAX_TEXT) -> str | None:
    """One line of at most so many printable characters; None where nothing is left."""
    if value is None:
        return None
    text = str(value).encode(errors="replace").decode()
    text = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip()
    return text[:max_chars] or None
