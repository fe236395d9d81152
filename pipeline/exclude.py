"""Sets that a new one must share nothing with: no clip of a test set belongs into the pretraining set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.fingerprint import KINDS, from_bytes
from pipeline.locations import Folder, name_of
from pipeline.matching import FingerprintIndex
from pipeline.media import MEDIA_SUFFIXES
from pipeline.sources import Source
from pipeline.storage import open_table

_ELEVEN = re.compile(r"[A-Za-z0-9_-]{11}")  # a YouTube id
_HOSTS = (".youtube.com", ".youtu.be", ".youtube-nocookie.com")


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """What the excluded sets hold: identities and files, each with the name of its set, and fingerprints."""

    identities: dict[str, str] = field(default_factory=dict)
    indexes: tuple[tuple[str, FingerprintIndex], ...] = ()
    """For each column of fingerprints, those of all sets; keyed by ``set: clip``."""

    @classmethod
    def of(cls, folders: Sequence[Folder]) -> Excluded:
        """Read the indexes of data sets.

        Raises
        ------
        UserError
            If a folder holds no data set, or one that was built without fingerprints.
        """
        identities: dict[str, str] = {}
        prints: dict[str, list[tuple[str, np.ndarray]]] = {column: [] for column in KINDS}
        for folder in folders:
            own_name = name_of(folder)  # what is stored tells nothing of this machine
            for row in _rows(folder):
                for name in (*known_by(row["source_id"], row["link"], row["source_group"]), row["sha256"]):
                    identities.setdefault(name, own_name)
                for column, kind in KINDS.items():
                    prints[column].append((f"{own_name}: {row['key']}", from_bytes(row[column], kind)))
        indexes = tuple((column, FingerprintIndex(prints[column], KINDS[column])) for column in KINDS if folders)
        return cls(identities=identities, indexes=indexes)

    def by_identity(self, source: Source) -> str | None:
        """Say which set holds the same video, by its id or link; none if none does."""
        names = known_by(source.video_id, source.link, *source.groups)
        holder = next((self.identities[name] for name in names if name in self.identities), None)
        return holder and f"{holder} holds this video"

    def by_content(self, row: Mapping[str, Any]) -> str | None:
        """Say which set holds the same file, sound, picture or video as an index row; none if none does."""
        return self.by_contents([row])[0]

    def by_contents(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The same for many rows, which is faster than one by one."""
        told: list[str | None] = [self._by_name(row) for row in rows]
        for column, index in self.indexes:
            left = [number for number, why in enumerate(told) if why is None]
            asked = [from_bytes(rows[number].get(column), KINDS[column]) for number in left]
            for number, matches in zip(left, index.matches_of(asked), strict=True):
                if matches:
                    told[number] = f"{column.replace('_print', '')} as in {matches[0].key}"
        return told

    def _by_name(self, row: Mapping[str, Any]) -> str | None:
        if row["sha256"] in self.identities:
            return f"{self.identities[row['sha256']]} holds this file"
        for name in known_by(row["source_id"], row["link"], row["source_group"]):
            if name in self.identities:
                return f"{self.identities[name]} holds this video"
        return None


def _rows(folder: Folder) -> list[dict[str, Any]]:
    columns = ["key", "status", "source_id", "link", "source_group", "sha256", *KINDS]
    try:
        with open_table(folder / "index.parquet") as opened:
            if missing := set(columns) - set(opened.schema_arrow.names):
                raise UserError(f"--exclude {folder} has no {', '.join(sorted(missing))} in its index; build it again")
            rows = opened.read(columns, use_threads=False).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"--exclude {folder} is no data set: its index.parquet cannot be read") from error
    return [row for row in rows if row["status"] == "kept"]


def known_by(*words: str | None) -> list[str]:
    """All that a video may be known by: links, extractor:id, groups, and the YouTube ids in them.

    A path is a set's own: another set's 14.mp4 is another video.
    """
    found = [word for word in words if word]
    everywhere = [word for word in found if "://" in word or PurePosixPath(word).suffix.lower() not in MEDIA_SUFFIXES]
    return everywhere + [f"youtube:{own_id}" for word in found for own_id in _youtube_ids(word)]


def _youtube_ids(word: str) -> list[str]:
    if word.startswith("youtube:"):
        return []
    if "://" in word:
        try:
            parts = urlsplit(word)
        except ValueError:
            return []
        if not f".{parts.hostname}".endswith(_HOSTS):
            return []
        candidates = [*parse_qs(parts.query).get("v", []), PurePosixPath(parts.path).name]
    else:
        stem = PurePosixPath(word).stem
        candidates = [stem, re.sub(r"_\d{6}_\d{6}$", "", stem)]  # MVED's clips: <id>_000030_000060
    return [own_id for own_id in candidates if _ELEVEN.fullmatch(own_id)]
