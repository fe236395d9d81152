"""What a take-down names, and what is left of it: enough to keep it out for ever, and no more."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.clips import video_of
from pipeline.exclude import known_by
from pipeline.sources import Source

Row = dict[str, Any]

PURGED = "purged"  # the code, in the index and in the crawl's store

_LEFT = ("source_id", "link", "status", "code", "detail", "source_group")
_KEY = re.compile(r"[a-z0-9-]+_[0-9a-f]{8}_[0-9]{8}")  # schema.sample_key writes it


def bare(row: Mapping[str, Any]) -> Row:
    """What stays of a row that was taken down: how it is known, and that it was."""
    return {name: row.get(name) for name in _LEFT}


def names_of(row: Mapping[str, Any], others: Iterable[str] = ()) -> set[str]:
    """All by which a list may name a row: key, identity, link, its video's identity and YouTube id, ``group:NAME``.

    ``others`` are what else its video is known by.
    """
    video_id = video_of(row["source_id"])
    names = {row["key"], row["source_id"], row["link"], video_id, *others, *known_by(video_id, row["link"])}
    if row["source_group"]:
        names.add(row["source_group"] if row["code"] == PURGED else f"group:{row['source_group']}")
    return {name for name in names if name}


def names_of_id(line: str) -> set[str]:
    """What a line of a list stands for: itself, and the YouTube id of a link."""
    return {line, *(known_by(line) if "://" in line else ())}


def named_keys(row: Mapping[str, Any]) -> set[str]:
    """Keys of the clips that a duplicate's row names as the same."""
    return set(filter(None, (row.get("duplicate_of"), *_KEY.findall(row["detail"] or ""))))


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
class Named:
    """What the lines of a list name, in a set and in a crawl's store."""

    rows: dict[str, list[Row]]
    """Of the set, by line; none for a line that matches nothing there."""
    in_store: dict[str, set[str]]
    """Videos of the store, by line; likewise."""
    called: Mapping[str, set[str]]
    """What the list calls each candidate."""
    known_as: Mapping[str, set[str]]
    """What the store knows each video by."""

    @classmethod
    def of(cls, lines: Sequence[str], rows: Sequence[Row], known_as: Mapping[str, set[str]]) -> Named:
        """Look up every line."""
        by_name, videos = defaultdict(list), defaultdict(set)
        for position, row in enumerate(rows):
            for name in names_of(row, known_as.get(video_of(row["source_id"]), ())):
                by_name[name].append(position)
        for video_id, names in known_as.items():
            for name in {video_id, *names, *known_by(*names)}:
                videos[name].add(video_id)
        found, in_store, called = {}, {}, defaultdict(set)
        for line in lines:
            positions = sorted({at for name in names_of_id(line) for at in by_name.get(name, ())})
            found[line] = [rows[at] for at in positions]
            for row in found[line]:
                called[row["source_id"]].update(names_of_id(line))
            in_store[line] = {video for name in names_of_id(line) for video in videos.get(name, ())}
        return cls(rows=found, in_store=in_store, called=called, known_as=known_as)

    @property
    def missing(self) -> list[str]:
        """Lines that match nothing."""
        return [line for line, rows in self.rows.items() if not rows and not self.in_store[line]]

    @property
    def videos(self) -> set[str]:
        """Videos of the store that are named."""
        return set().union(*self.in_store.values())

    def going(self, rows: Iterable[Row]) -> list[Row]:
        """Rows to take down: those named and not gone yet, and what was left out as a duplicate of one."""
        going = {row["source_id"]: row for found in self.rows.values() for row in found if row["code"] != PURGED}
        keys = {row["key"] for row in going.values() if row["key"]}
        for row in rows:
            if row["code"] == "duplicate" and keys & named_keys(row):
                going[row["source_id"]] = row
        return [going[source_id] for source_id in sorted(going)]

    def identity_of(self, row: Row) -> str | None:
        """What a row's video is known by beyond its own words: as the list calls it, or as its page does."""
        video_id = video_of(row["source_id"])
        own = {row["key"], row["source_id"], row["link"], video_id}
        known = self.known_as.get(video_id, set())
        named = self.called.get(row["source_id"], set()) & names_of(row, known)
        told = sorted(name for name in named - own if not name.startswith("group:"))
        return next(iter([*told, *sorted(name for name in known - own if "://" not in name)]), None)


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
                video_id = video_of(row["source_id"])
                names.update(filter(None, (row["source_id"], video_id, row["link"], row["source_group"])))
                # A file's name may look like a YouTube id by chance; a link does not.
                names.update(known_by(*(word for word in (video_id, row["link"]) if word and "://" in word)))
        return cls(names=frozenset(names))

    def unless(self, source: Source) -> Source:
        """Give a candidate the reason for which it cannot come in; leave it as it is if there is none."""
        known = {source.source_id, source.video_id, source.link}
        known.update(known_by(source.video_id, source.link, *source.groups) if self.names else ())
        if not known & self.names:
            return source
        return replace(source, problem=(PURGED, "its video was taken down"))
