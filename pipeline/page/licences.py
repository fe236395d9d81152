"""What a page's words say of a licence, in the names that hubs know."""

from __future__ import annotations

import re
from collections.abc import Collection

_KINDS = {
    "by": ("2.0", "2.5", "3.0", "4.0"),
    "by-sa": ("3.0", "4.0"),
    "by-nc": ("2.0", "3.0", "4.0"),
    "by-nd": ("4.0",),
    "by-nc-nd": ("3.0", "4.0"),
    "by-nc-sa": ("2.0", "3.0", "4.0"),
}
HUB_LICENCES = frozenset(f"cc-{kind}-{version}" for kind, versions in _KINDS.items() for version in versions)
"""Creative Commons licences by Hugging Face's names (https://huggingface.co/docs/hub/repositories-licenses)."""

_PARTS = re.compile(r"\b(by(?:-(?:nc|nd|sa))*)[-/ ]+([1-4]\.[05])\b")
_ZERO = re.compile(r"\bcc[- ]?0\b|publicdomain/zero")
_YOUTUBE = re.compile(r"^creative commons attribution licen[cs]e \(reuse allowed\)$")  # which YouTube says is 3.0


def hub_licence(words: str) -> str | None:
    """A hub's name of a licence, such as ``cc-by-4.0``; none where the words do not name one with its version."""
    text = words.lower().strip()
    if _YOUTUBE.match(text):
        return "cc-by-3.0"
    if _ZERO.search(text):
        return "cc0-1.0"
    found = _PARTS.search(text)
    name = f"cc-{found.group(1)}-{found.group(2)}" if found else None
    return name if name in HUB_LICENCES else None


def spdx_link(name: str) -> str:
    """Address of a licence of ``HUB_LICENCES`` at SPDX."""
    return f"https://spdx.org/licenses/{name.upper()}"


def card_licences(licences: Collection[str | None]) -> list[str]:
    """What a card may say of the kept clips' licences: hubs' names, ``other``, or nothing.

    Nothing as soon as one clip came without a licence, ``other`` as soon as hubs have no name for one.
    """
    if not licences or None in licences:
        return []
    names = {hub_licence(words or "") for words in licences}
    return ["other"] if None in names else sorted(name for name in names if name)
