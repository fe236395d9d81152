"""Where candidates come from: a folder, a labelled folder, MVED's layout, a list of links.

Every source gives the same thing, a list of ``Source`` in a fixed order; nothing is opened or fetched here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.errors import UserError
from pipeline.media import MEDIA_SUFFIXES
from pipeline.schema import EMOTIONS, Split

Row = dict[str, str | None]

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
    groups: tuple[str, ...]
    """What it shares with its siblings: sources with a group in common never straddle splits."""
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
    """List the candidates of a ``--source``, in the order in which they count.

    Parameters
    ----------
    source
        A folder, or a list of links: ``.txt`` with one a line, ``.csv`` or ``.parquet`` with a column ``link``.
        A link that is listed twice is one candidate.
    labels
        None for an unlabelled set; ``mved`` to take split and class from ``<split>/<class>/.../<file>``; else a table
        with columns ``file`` (relative to the folder) or ``link``, ``label``, and perhaps ``split`` and ``group``.

    Raises
    ------
    UserError
        If there is nothing of that kind to read.
    """
    path = Path(source)
    if path.is_dir():
        if labels is None:
            return [_local(path, name) for name in _media_under(path)]
        if labels == "mved":
            return [_mved(path, name) for name in _media_under(path)]
        return [_labelled_file(path, row, labels) for row in _label_rows(Path(labels), "file")]
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        if labels == "mved":
            raise UserError("--labels mved goes with a folder of MVED's layout; give a list a table of labels")
        rows = {row["link"]: row for row in _label_rows(Path(labels), "link")} if labels else None
        return [_link(link, rows) for link in _links_in(path)]
    if path.exists():
        known = " ".join(sorted(LIST_SUFFIXES))
        raise UserError(f"--source {source} is neither a folder nor a list of links ({known})")
    raise UserError(f"--source {source}: no such folder or list of links")


def _local(root: Path, name: str, **known: Any) -> Source:
    path = root / name
    name = name.encode(errors="backslashreplace").decode()  # a file name need not be text
    groups = tuple(group for group in (known.pop("group", None), source_group(name)) if group)
    return Source(source_id=name, path=path, title=PurePosixPath(name).stem, groups=groups, **known)


def _media_under(root: Path) -> list[str]:
    files = (p for p in root.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES and not p.is_dir())
    names = sorted(p.relative_to(root).as_posix() for p in files if not p.name.startswith("."))
    if not names:
        raise UserError(f"--source {root} holds no media file ({' '.join(sorted(MEDIA_SUFFIXES))})")
    return names


def _mved(root: Path, name: str) -> Source:
    parts = PurePosixPath(name).parts
    split = _SPLIT_NAMES.get(parts[0].lower())
    label = _MVED_LABELS.get(parts[1].lower()) if len(parts) > 2 else None
    if split is None or label is None:
        problem = ("no-label", f"not under <split>/<class>/ with a class of {', '.join(EMOTIONS)}")
        return _local(root, name, problem=problem)
    return _local(root, name, split=split, label=label)


def _label_rows(table: Path, identity: str) -> list[Row]:
    rows = _read_table(table, needed=(identity, "label"))
    if not rows:
        raise UserError(f"--labels {table} has no row")
    if identity == "file":
        for row in rows:
            row["file"] = PurePosixPath(row["file"] or "").as_posix()  # ./a.mp4 is a.mp4
    repeated = [name for name, n in Counter(row[identity] for row in rows).items() if n > 1]
    if repeated:
        raise UserError(f"--labels {table} names {repeated[0]} more than once; give each one row")
    for row in rows:
        given = row.get("split")
        row["split"] = _SPLIT_NAMES.get(given.lower()) if given else None
        if given and row["split"] is None:
            raise UserError(f"--labels {table} has split {given!r}; known are train, val and test")
    return rows


def _labelled_file(root: Path, row: Row, table: str) -> Source:
    name = row["file"] or ""
    problem = None
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        problem = ("unavailable", "the file lies outside --source")
    elif not row["label"]:
        problem = ("no-label", f"{Path(table).name} gives it no label")
    return _local(root, name, label=row["label"], split=row["split"], group=row.get("group"), problem=problem)


def _links_in(table: Path) -> list[str]:
    if table.suffix.lower() == ".txt":
        lines = (line.strip() for line in _text(table).splitlines())
        links = [line for line in lines if line and not line.startswith("#")]
    else:
        links = [row["link"] or "" for row in _read_table(table, needed=("link",))]
    if not links:
        raise UserError(f"--source {table} lists no link")
    return list(dict.fromkeys(links))


def _link(link: str, labels: dict[str | None, Row] | None) -> Source:
    try:
        parts = urlsplit(link)
    except ValueError:
        parts = urlsplit("")
    row = (labels or {}).get(link, {})
    problem = None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        problem = ("unsupported-link", "only http and https links are fetched")
    elif labels is not None and not row.get("label"):
        problem = ("no-label", "the table of labels does not name it")
    return Source(
        source_id=link,
        title=PurePosixPath(parts.path).stem or parts.netloc or link,
        label=row.get("label"),
        split=row.get("split"),  # type: ignore[arg-type]  # _label_rows let known splits pass alone
        groups=tuple(group for group in (row.get("group"), link) if group),
        problem=problem,
    )


def _read_table(table: Path, *, needed: Sequence[str]) -> list[Row]:
    """Rows of a CSV or parquet file as text, empty cells as None."""
    try:
        if table.suffix.lower() == ".parquet":
            read = pyarrow.parquet.read_table(table)
        else:
            as_text = {name: pa.string() for name in ("file", "link", "label", "split", "group")}  # 007 is not 7
            options = pyarrow.csv.ConvertOptions(column_types=as_text, strings_can_be_null=True, null_values=[""])
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
        if not row[needed[0]]:
            raise UserError(f"{table}: row {number} has no {needed[0]}")
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text: {error}") from error
