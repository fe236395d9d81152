"""What a filter says against a clip."""

from __future__ import annotations

from typing import NamedTuple


class Verdict(NamedTuple):
    """Why a clip is not to be kept."""

    code: str
    """Of ``schema.CODES``."""
    detail: str
    """The score and the threshold, in words."""
