"""What a take-down names, and what is left of it: enough to keep it out for ever, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.exclude import _identities
from pipeline.sources import Source

Row = dict[str, Any]

PURGED = "purged"  # the code, in the index and in the crawl's store

_LEFT = ("source_id", "link", "status", "code", "detail", "source_group")
_CLIP = re.compile(r"(?P<video_id>.*) \(clip (?P<number>\d+)\)", re.DOTALL)  # clips.clip_id writes it
_KEY = re.compile(r"[a-z0-9-]+_[0-9a-f]{8}_[0-9]{8}")  # schema.sample_key writes it


def bare(row: Mapping[str, Any]) -> Row:
    """What stays of a row that was taken down: how it is known, and that it was."""
    return {name: row.get(name) for name in _LEFT}


def video_of(source_id: str) -> tuple[str, int]:
    """Identity of a clip's video, and its number in it; the inverse of ``clips.clip_id``."""
    found = _CLIP.fullmatch(source_id)
    return (found["video_id"], int(found["number"]) - 1) if found else (source_id, 0)


def names_of(row: Mapping[str, Any], others: Iterable[str] = ()) -> set[str]:
    """All by which a list may name a row: key, identity, link, its video's identity and YouTube id, ``group:NAME``.

    ``others`` are what else its video is known by.
    """
    video_id, _ = video_of(row["source_id"])
    names = {row["key"], row["source_id"], row["link"], video_id, *others, *_identities(video_id, row["link"])}
    if row["source_group"]:
        names.add(row["source_group"] if row["code"] == PURGED else f"group:{row['source_group']}")
    return {name for name in names if name}


def names_of_id(line: str) -> set[str]:
    """What a line of a list stands for: itself, and the YouTube id of a link."""
    return {line, *(_identities(line) if "://" in line else ())}


def without_keys(row: Mapping[str, Any], keys: frozenset[str]) -> Row:
    """A row that names none of these keys: a key tells a title."""
    cleaned = dict(row)
    if cleaned.get("duplicate_of") in keys:
        cleaned["duplicate_of"] = None
    if cleaned.get("detail"):
        told = _KEY.sub(lambda found: "a clip taken down" if found[0] in keys else found[0], cleaned["detail"])
        cleaned["detail"] = told
    return cleaned


@dataclass(frozen=True, kw_only=True)
class TakenDown:
    """What a set must not take again."""

    names: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> TakenDown:
        """Collect what the rows that were taken down are known by."""
        names: set[str] = set()
        for row in rows:
            if row["code"] == PURGED:
                video_id, _ = video_of(row["source_id"])
                names.update(filter(None, (row["source_id"], video_id, row["link"], row["source_group"])))
                # A file's name may look like a YouTube id by chance; a link does not.
                names.update(_identities(*(word for word in (video_id, row["link"]) if word and "://" in word)))
        return cls(names=frozenset(names))

    def unless(self, source: Source) -> Source:
        """Give a candidate the reason for which it cannot come in; leave it as it is if there is none."""
        known = {source.source_id, source.video_id, source.link}
        known.update(_identities(source.video_id, source.link, *source.groups) if self.names else ())
        if not known & self.names:
            return source
        return replace(source, problem=(PURGED, "its video was taken down"))
