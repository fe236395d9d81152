"""Sets that a new one must share nothing with: no clip of a test set belongs into the pretraining set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.sources import Source

_ELEVEN = re.compile(r"[A-Za-z0-9_-]{11}")  # a YouTube id
_HOSTS = ("youtube.com", "youtu.be", "youtube-nocookie.com")


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """What the excluded sets hold: identities, each with the name of its set."""

    identities: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Sequence[Path]) -> Excluded:
        """Read the indexes of data sets.

        Raises
        ------
        UserError
            If a folder holds no data set.
        """
        identities: dict[str, str] = {}
        for folder in folders:
            try:
                table = pq.read_table(folder / "index.parquet", columns=["source_id", "link", "source_group", "sha256"])
            except (OSError, pa.ArrowInvalid, KeyError) as error:
                raise UserError(f"--exclude {folder} is no data set: its index.parquet cannot be read") from error
            for row in table.to_pylist():
                for name in _identities(row["source_id"], row["link"], row["source_group"]):
                    identities.setdefault(name, str(folder))
                if row["sha256"]:
                    identities.setdefault(row["sha256"], str(folder))
        return cls(identities=identities)

    def by_identity(self, source: Source) -> str | None:
        """Name of the set that holds the same video, by its id or link; none if none does."""
        names = _identities(source.video_id, source.link, *source.groups)
        return next((self.identities[name] for name in names if name in self.identities), None)

    def by_content(self, sha256: str) -> str | None:
        """Name of the set that holds the same file; none if none does."""
        return self.identities.get(sha256)


def _identities(*words: str | None) -> set[str]:
    """All that a video may be known by: its words, and the YouTube ids in them."""
    found = {word for word in words if word}
    for word in list(found):
        found.update(f"youtube:{own_id}" for own_id in _youtube_ids(word))
    return found


def _youtube_ids(word: str) -> list[str]:
    if word.startswith("youtube:"):
        return []
    if "://" in word:
        try:
            parts = urlsplit(word)
        except ValueError:
            return []
        if not (parts.hostname or "").endswith(_HOSTS):
            return []
        candidates = [*parse_qs(parts.query).get("v", []), PurePosixPath(parts.path).name]
    else:
        stem = PurePosixPath(word).stem
        candidates = [stem, re.sub(r"_\d{6}_\d{6}$", "", stem)]  # MVED's clips: <id>_000030_000060
    return [own_id for own_id in candidates if _ELEVEN.fullmatch(own_id)]
