"""Candidates from a folder: unlabelled, labelled by a table, or in MVED's layout. ``queries.py`` reads what is crawled.

Every source gives the same thing, a list of ``Source`` in a fixed order; no media are opened here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.clips import ClipSpan, clip_id
from pipeline.errors import UserError
from pipeline.locations import Folder, folder_of
from pipeline.media import MEDIA_SUFFIXES
from pipeline.schema import EMOTIONS, Split
from pipeline.storage import files_below

Row = dict[str, str | None]

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
    """Its identity in the set."""
    link: str
    """Where it comes from: a path relative to the folder, or a link."""
    path: Folder | None = None
    """The file, here or in an object store; none for what is not fetched yet."""
    title: str
    label: str | None = None
    split: Split | None = None
    """The split it came with, where the source has splits."""
    groups: tuple[str, ...]
    """What it shares with its siblings: sources with a group in common never straddle splits."""
    problem: tuple[str, str] | None = None
    """Code and detail where it is known already that it cannot be used."""
    video_id: str
    """Identity of the whole video, which its clips share; their spans are drawn from it."""
    number: int = 0
    """Of the clip in its video."""
    span: ClipSpan | None = None
    """Where the clip lies in its video, if ``path`` holds a section of it with the whole's timestamps."""
    duration_s: float | None = None
    """Of the whole video, where ``path`` is a section."""
    uploader: str | None = None
    upload_date: str | None = None
    licence: str | None = None
    description: str | None = None
    """What its page says of it, as the categories that follow."""
    categories: tuple[str, ...] = ()
    query: str | None = None
    """What listed it: a search, a list, or its own link."""


def clips_of(source: Source, count: int) -> list[Source]:
    """Candidates for so many clips of one video."""
    return [replace(source, source_id=clip_id(source.video_id, number), number=number) for number in range(count)]


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


def list_sources(folder: str | Folder, *, labels: str | None = None, clips_per_video: int = 1) -> list[Source]:
    """List the candidates of a folder, in the order in which they count.

    Parameters
    ----------
    folder
        Its media files are known by their suffixes.
    labels
        None for an unlabelled set; ``mved`` to take split and class from ``<split>/<class>/.../<file>``; else a table
        with columns ``file`` (relative to the folder), ``label``, and perhaps ``split`` and ``group``.
    clips_per_video
        Candidates for each file.

    Raises
    ------
    UserError
        If there is nothing of that kind to read.
    """
    root = folder_of(folder, flag="--source")
    if labels is None:
        videos = [_local(root, name) for name in _media_under(root)]
    elif labels == "mved":
        videos = [_mved(root, name) for name in _media_under(root)]
    else:
        videos = [_labelled_file(root, row, labels) for row in label_rows(Path(labels), "file")]
    repeated = [name for name, n in Counter(video.video_id for video in videos).items() if n > 1]
    if repeated:
        raise UserError(f"--source {root} holds two files that would both be known as {repeated[0]}; rename one")
    return [clip for video in videos for clip in clips_of(video, clips_per_video)]


def _local(root: Folder, name: str, **known: Any) -> Source:
    path = root / name
    if not isinstance(root, Path) and str(PurePosixPath(name)) != name:
        known.setdefault("problem", None)
        known["problem"] = known["problem"] or ("unavailable", "a key with empty parts or dots is no path; rename it")
    name = name.encode(errors="backslashreplace").decode()  # a file name need not be text
    groups = tuple(group for group in (known.pop("group", None), source_group(name)) if group)
    title = PurePosixPath(name).stem
    return Source(source_id=name, link=name, path=path, title=title, groups=groups, video_id=name, **known)


def _media_under(root: Folder) -> list[str]:
    try:
        found = [(name, PurePosixPath(name)) for name in files_below(root)]
    except OSError as error:
        raise UserError(f"--source {root}: {error.filename or root} cannot be read ({error.strerror})") from error
    names = sorted(name for name, p in found if p.suffix.lower() in MEDIA_SUFFIXES and not p.name.startswith("."))
    if not names:
        raise UserError(f"--source {root} holds no media file ({' '.join(sorted(MEDIA_SUFFIXES))})")
    return names


def _mved(root: Folder, name: str) -> Source:
    parts = PurePosixPath(name).parts
    split = _SPLIT_NAMES.get(parts[0].lower())
    label = _MVED_LABELS.get(parts[1].lower()) if len(parts) > 2 else None
    if split is None or label is None:
        problem = ("no-label", f"not under <split>/<class>/ with a class of {', '.join(EMOTIONS)}")
        return _local(root, name, problem=problem)
    return _local(root, name, split=split, label=label)


def label_rows(table: Path, identity: str) -> list[Row]:
    """Rows of a table of labels by its column of identity, ``file`` or ``link``; splits by their own names.

    Raises
    ------
    UserError
        If a column is missing, a row is named twice, or a split is unknown.
    """
    rows = read_table(table, needed=(identity, "label"))
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


def _labelled_file(root: Folder, row: Row, table: str) -> Source:
    name = row["file"] or ""
    problem = None
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        problem = ("unavailable", "the file lies outside --source")
    elif not row["label"]:
        problem = ("no-label", f"{Path(table).name} gives it no label")
    return _local(root, name, label=row["label"], split=row["split"], group=row.get("group"), problem=problem)


def read_table(table: Path, *, needed: Sequence[str]) -> list[Row]:
    """Rows of a CSV or parquet file as text, empty cells as None.

    Raises
    ------
    UserError
        If it cannot be read, or lacks a column or cell that is needed.
    """
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
        raise UserError(f"{table} cannot be read as a table: {' '.join(str(error).split())}") from error
    twice = [name for name, n in Counter(read.column_names).items() if n > 1]
    if twice:
        raise UserError(f"{table} has two columns {twice[0]}; leave one")
    missing = [name for name in needed if name not in read.column_names]
    if missing:
        raise UserError(f"{table} has no column {', '.join(missing)}; it has {', '.join(read.column_names)}")
    rows = [{k: None if v is None else str(v).strip() for k, v in row.items()} for row in read.to_pylist()]
    for number, row in enumerate(rows, start=1):
        if not row[needed[0]]:
            raise UserError(f"{table}: row {number} has no {needed[0]}")
    return rows
