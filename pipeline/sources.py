"""Where candidates come from: a folder, a labelled folder, MVED's layout, a list of links.

Every source gives the same thing, a list of ``Source`` in a fixed order; nothing is opened or fetched here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow.csv
import pyarrow.parquet

from pipeline.errors import UserError
from pipeline.media import MEDIA_SUFFIXES
from pipeline.schema import EMOTIONS, Split

LIST_SUFFIXES = frozenset({".txt", ".csv", ".parquet"})

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_MVED_LABELS = {name.lower(): name for name in EMOTIONS} | {"exciting": "Excited", "natural": "Neutral"}
_SEGMENT = re.compile(r"[-_ ](\d+)-of-(\d+)$")
_YOUTUBE_CUT = re.compile(r"^([A-Za-z0-9_-]{11})_\d{6}_\d{6}$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One candidate: something that may become a clip."""

    source_id: str
    """Its identity in the set: a path relative to the folder, or a link."""
    path: Path | None = None
    """The local file; none for a link."""
    title: str
    label: str | None = None
    split: Split | None = None
    """The split it came with, where the source has splits."""
    group: str
    """What it shares with its siblings: clips of one group never straddle splits."""
    problem: tuple[str, str] | None = None
    """Code and detail where it is known already that it cannot be used."""

    @property
    def link(self) -> str:
        """The link, or the relative path of a local file."""
        return self.source_id


def source_group(relative: PurePosixPath | str) -> str:
    """Group of a file by its name: segments of one video share one.

    ``LLT_TENS(5)-7-of-10`` belongs to ``LLT_TENS(5)`` and ``<YouTube id>_000030_000060`` to that id, whatever folder
    they lie in: MVED has segments of one video in several splits. Other names, ``14.mp4`` say, repeat by chance and
    stand for themselves, folder included.
    """
    path = PurePosixPath(relative)
    if _SEGMENT.search(path.stem):
        return _SEGMENT.sub("", path.stem)
    if cut := _YOUTUBE_CUT.match(path.stem):
        return cut.group(1)
    return str(path)


def list_sources(source: str, *, labels: str | None = None) -> list[Source]:
    """List the candidates of a ``--source``.

    Parameters
    ----------
    source
        A folder, or a list of links (``.txt`` one a line, ``.csv`` or ``.parquet`` with a column ``link``).
    labels
        None for an unlabelled set; ``mved`` to take split and class from ``<split>/<class>/.../<file>``; else a CSV
        with columns ``file, label`` and perhaps ``split, group``, its files relative to the folder.

    Raises
    ------
    UserError
        If there is nothing of that kind to read.
    """
    path = Path(source)
    if path.is_dir():
        if labels is None:
            return _folder(path)
        return _mved(path) if labels == "mved" else _labelled(path, Path(labels))
    if path.suffix.lower() in LIST_SUFFIXES:
        if not path.is_file():
            raise UserError(f"--source {source}: no such file")
        if labels is not None:
            raise UserError("--labels goes with a folder; a list carries labels in its own column `label`")
        return _links(path)
    if path.exists():
        raise UserError(f"--source {source} is neither a folder nor a list of links ({', '.join(sorted(LIST_SUFFIXES))})")
    raise UserError(f"--source {source}: no such folder or list of links")


def _folder(root: Path) -> list[Source]:
    return [_local(root, name) for name in _media_under(root)]


def _local(root: Path, name: str, **known: Any) -> Source:
    known = {"group": source_group(name)} | {k: v for k, v in known.items() if v is not None}
    return Source(source_id=name, path=root / name, title=PurePosixPath(name).stem, **known)


def _media_under(root: Path) -> list[str]:
    files = (p for p in root.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES and p.is_file())
    names = sorted(p.relative_to(root).as_posix() for p in files if not p.name.startswith("."))
    if not names:
        raise UserError(f"--source {root} holds no media file ({' '.join(sorted(MEDIA_SUFFIXES))})")
    return names


def _mved(root: Path) -> list[Source]:
    return [_mved_source(root, name) for name in _media_under(root)]


def _mved_source(root: Path, name: str) -> Source:
    parts = PurePosixPath(name).parts
    split = _SPLIT_NAMES.get(parts[0].lower())
    label = _MVED_LABELS.get(parts[1].lower()) if len(parts) > 2 else None
    if split is None or label is None:
        return _local(root, name, problem=("no-label", f"not under <split>/<class>/, classes being {', '.join(EMOTIONS)}"))
    return _local(root, name, split=split, label=label)


def _labelled(root: Path, table: Path) -> list[Source]:
    rows = _read_table(table, needed=("file", "label"))
    seen: set[str] = set()
    sources = []
    for row in rows:
        name = PurePosixPath(row["file"]).as_posix()
        if name in seen:
            raise UserError(f"--labels {table} names {name} twice; give each file one row")
        seen.add(name)
        problem = None
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            problem = ("unavailable", "the file lies outside --source")
        elif not (root / name).is_file():
            problem = ("unavailable", "no such file under --source")
        elif not row["label"]:
            problem = ("no-label", f"{table.name} gives it no label")
        sources.append(
            _local(root, name, label=row["label"], split=_split(row, table), group=row.get("group"), problem=problem)
        )
    return sources


def _split(row: dict[str, str | None], table: Path) -> Split | None:
    given = row.get("split")
    if given is None:
        return None
    split = _SPLIT_NAMES.get(given.lower())
    if split is None:
        raise UserError(f"{table} has split {given!r}; known are train, val, test")
    return split


def _links(table: Path) -> list[Source]:
    if table.suffix.lower() == ".txt":
        lines = (line.strip() for line in _text(table).splitlines())
        rows: list[dict[str, Any]] = [{"link": line} for line in lines if line and not line.startswith("#")]
    else:
        rows = _read_table(table, needed=("link",))
    if not rows:
        raise UserError(f"--source {table} lists no link")
    unique = {row["link"]: row for row in reversed(rows) if row["link"]}  # the first row of a link wins
    return [_link(row, table) for row in rows if unique.get(row["link"]) is row]


def _link(row: dict[str, Any], table: Path) -> Source:
    link = row["link"]
    parts = urlsplit(link)
    problem = None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        problem = ("unsupported-link", "only http and https links are fetched")
    return Source(
        source_id=link,
        title=row.get("title") or PurePosixPath(parts.path).stem or parts.netloc,
        label=row.get("label"),
        split=_split(row, table),
        group=row.get("group") or link,
        problem=problem,
    )


def _read_table(table: Path, *, needed: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a CSV or parquet file as text, empty cells as None."""
    try:
        if table.suffix.lower() == ".parquet":
            read = pyarrow.parquet.read_table(table)
        else:
            options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
            read = pyarrow.csv.read_csv(table, convert_options=options)
    except FileNotFoundError as error:
        raise UserError(f"{table}: no such file") from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{table} cannot be read as a table: {error}") from error
    missing = [name for name in needed if name not in read.column_names]
    if missing:
        raise UserError(f"{table} has no column {', '.join(missing)}; it has {', '.join(read.column_names)}")
    rows = [{k: None if v is None else str(v).strip() for k, v in row.items()} for row in read.to_pylist()]
    for number, row in enumerate(rows, start=1):
        if not row[next(iter(needed))]:
            raise UserError(f"{table}: row {number} has no {next(iter(needed))}")
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text: {error}") from error
