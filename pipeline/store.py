"""The crawl's own record: what was listed, what is known of each video, and the state of every clip.

One SQLite file beside the fetched clips. SQLite, not parquet: a state changes with every fetch, and each change must
survive a kill at the next instruction; a commit does, and a column file would be written anew each time.

    STORE/crawl.sqlite            listings, videos, clips and their states
    STORE/clips/ab/abcd….mkv      fetched clips, named by their SHA-256
    STORE/fetching/               downloads under way; swept when a crawl begins
    STORE/clips.txt               where the clips lie, if elsewhere: another folder, or an address in an object store
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

from pipeline.clips import ClipSpan
from pipeline.errors import UserError
from pipeline.locations import Folder, folder_of
from pipeline.locking import single_writer
from pipeline.schema import CODES, Modality
from pipeline.storage import files_below, publish_text, remove, take_in

State = Literal["queued", "fetched", "kept", "rejected", "failed"]

STORE_VERSION = 2
NOTE = "clips.txt"  # where the clips lie, if not in the store's own folder

_SINCE_1 = """
ALTER TABLE video ADD COLUMN description TEXT;
ALTER TABLE video ADD COLUMN categories TEXT;
"""
"""What a store of version 1 lacks. Pages that were read into it are not read again: their descriptions stay unknown."""

_TABLES = """
CREATE TABLE listed (request TEXT PRIMARY KEY);
CREATE TABLE listing (request TEXT, position INTEGER, video TEXT NOT NULL, link TEXT NOT NULL,
    PRIMARY KEY (request, position));
CREATE TABLE video (
    id TEXT PRIMARY KEY,                -- extractor:id, or the link where the extractor gives no identity of its own
    link TEXT NOT NULL,
    page_id TEXT,                       -- extractor:id as its page tells it
    code TEXT, detail TEXT,             -- why there is nothing to fetch: a list that cannot be read
    title TEXT, uploader TEXT, upload_date TEXT, licence TEXT,
    duration_s REAL,
    resolved INTEGER NOT NULL DEFAULT 0, -- whether its own page was read; a listing tells less
    description TEXT,                   -- how it begins
    categories TEXT                     -- a JSON list
);
CREATE TABLE clip (
    video TEXT NOT NULL REFERENCES video(id),
    number INTEGER NOT NULL,            -- of the clip in its video, from 0
    seed INTEGER NOT NULL,              -- which the span was drawn with
    modality TEXT NOT NULL,             -- which streams were asked for
    start_s REAL, length_s REAL,        -- stored before the fetch
    state TEXT NOT NULL DEFAULT 'queued',
    code TEXT, detail TEXT,
    sha256 TEXT, num_bytes INTEGER,     -- of the clip's file; known once it was fetched
    fetch_s REAL,                       -- how long metadata and clip took, without the pauses
    versions TEXT,
    PRIMARY KEY (video, number, seed, modality)
);
"""


@dataclass(frozen=True, kw_only=True)
class Video:
    """What is known of a video; a listing leaves most of it open."""

    video_id: str
    link: str
    request: str = ""
    """What listed it first: a search, a list, or its own link."""
    title: str | None = None
    uploader: str | None = None
    upload_date: str | None = None
    licence: str | None = None
    description: str | None = None
    categories: tuple[str, ...] = ()
    duration_s: float | None = None
    resolved: bool = False
    page_id: str | None = None
    """Identity as the page tells it; another link may lead to the same."""
    problem: tuple[str, str] | None = None
    """Code and detail of a list that could not be read: it stands for itself, and is never fetched."""


@dataclass(frozen=True, kw_only=True)
class ClipKey:
    """Which clip of which video."""

    video_id: str
    number: int
    seed: int
    modality: Modality


@dataclass(frozen=True, kw_only=True)
class StoredClip:
    """A clip's row: its span, its state, and its file once it was fetched."""

    key: ClipKey
    span: ClipSpan | None = None
    state: State = "queued"
    code: str | None = None
    detail: str | None = None
    sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def open_store(folder: Path, *, clips: Folder | None = None) -> Iterator[Store]:
    """Open the record of a crawl, made if it is not there, for one writer at a time.

    ``clips`` is where a new store keeps what is fetched; one that stands knows its place.

    Raises
    ------
    UserError
        If another process holds it, the file is no such record, or its clips lie elsewhere than asked.
    """
    with single_writer(folder, doing=f"crawling into {folder}", flag="--store"):
        store = Store(folder, clips=clips)
        try:
            yield store
        finally:
            store.close()


class Store:
    """The crawl's record; every method that changes something has done so, durably, when it returns."""

    def __init__(self, folder: Path, *, clips: Folder | None = None) -> None:
        self.folder = folder
        self.clips_folder = _settled_clips(folder, clips)
        self._in_store: set[str] | None = None  # names of clips in an object store, listed once
        self._turn = threading.Lock()  # the threads that fetch share one connection
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _open(self) -> None:
        file = self.folder / "crawl.sqlite"
        try:
            self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise UserError(f"{file} cannot be opened ({error}); mend that, or name another --store") from error
        try:
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version not in (0, 1, STORE_VERSION):
                told = f"{file} is of version {version}, this software reads {STORE_VERSION}"
                raise UserError(f"{told}; name another --store")
            if version == 0 and self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise UserError(f"{file} is another program's; name another --store")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            if version == 0:
                self._database.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {STORE_VERSION};COMMIT;")
            elif version == 1:
                self._database.executescript(f"BEGIN;{_SINCE_1}PRAGMA user_version = {STORE_VERSION};COMMIT;")
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise UserError(f"{file} cannot be used as a crawl's record ({error}); name another --store") from error
        except UserError:
            self._database.close()
            raise
        self.fetching.mkdir(exist_ok=True)
        for leftover in self.fetching.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        self._remove_purged()

    @property
    def fetching(self) -> Path:
        """Folder of downloads under way, on the disk of clips that are not elsewhere."""
        return self.folder / "fetching"

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except sqlite3.OperationalError as error:  # a full disk, or one that may not be written
                file = self.folder / "crawl.sqlite"
                raise UserError(f"{file} cannot be written ({error}); mend that and run again") from error
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._turn:  # else it would see what another thread has not committed yet
            return self._database.execute(query, values).fetchall()

    # --- listings ------------------------------------------------------------------------------------------------

    def is_listed(self, request: str) -> bool:
        """Tell whether a request's results stand in the record."""
        return bool(self._read("SELECT 1 FROM listed WHERE request = ?", (request,)))

    def add_listings(self, listings: Mapping[str, Sequence[Video]]) -> None:
        """Record what requests gave, in order; a video that is known already keeps what is known."""
        with self._transaction() as database:
            database.executemany("INSERT INTO listed VALUES (?)", [(request,) for request in listings])
            database.executemany(
                "INSERT OR IGNORE INTO video (id, link, title, uploader, duration_s, code, detail) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (v.video_id, v.link, v.title, v.uploader, v.duration_s, *(v.problem or (None, None)))
                    for videos in listings.values()
                    for v in videos
                ],
            )
            database.executemany(
                "INSERT INTO listing VALUES (?, ?, ?, ?)",
                [
                    (request, position, video.video_id, video.link)
                    for request, videos in listings.items()
                    for position, video in enumerate(videos)
                ],
            )

    def forget_unreadable(self, codes: Collection[str]) -> None:
        """Forget the lists that could not be read for one of these reasons, so that they are asked for again."""
        marks = ", ".join("?" * len(codes))
        unreadable = f"SELECT request FROM listing JOIN video ON id = video WHERE code IN ({marks})"
        with self._transaction() as database:
            requests = {row[0] for row in database.execute(unreadable, list(codes))}
            for request in requests:
                database.execute("DELETE FROM listed WHERE request = ?", (request,))
                database.execute("DELETE FROM listing WHERE request = ?", (request,))
            database.execute(f"DELETE FROM video WHERE code IN ({marks})", list(codes))

    def videos(self, requests: Iterable[str]) -> list[Video]:
        """Return the videos of these requests in order, each once, with the link and request that listed it first."""
        query = (
            f"SELECT {_VIDEO_COLUMNS}, listing.link, listing.request FROM listing JOIN video ON id = video "
            "WHERE listing.request = ? ORDER BY position"
        )
        found: dict[str, Video] = {}
        for request in requests:
            for row in self._read(query, (request,)):
                found.setdefault(row[0], replace(_video(row), link=row[-2], request=row[-1]))
        return list(found.values())

    def video(self, video_id: str) -> Video:
        """Return what is known of one video."""
        (row,) = self._read(f"SELECT {_VIDEO_COLUMNS}, link FROM video WHERE id = ?", (video_id,))
        return replace(_video(row), link=row[-1])

    def set_resolved(self, video: Video) -> None:
        """Record what a video's own page or media say of it; spans drawn for another duration are drawn anew."""
        with self._transaction() as database:
            database.execute(
                "UPDATE clip SET start_s = NULL, length_s = NULL WHERE video = ? AND sha256 IS NULL AND "
                "(SELECT duration_s FROM video WHERE id = ?) IS NOT ?",
                (video.video_id, video.video_id, video.duration_s),
            )
            database.execute(
                "UPDATE video SET title = ?, uploader = ?, upload_date = ?, licence = ?, description = ?, "
                "categories = ?, duration_s = ?, page_id = ?, resolved = 1 WHERE id = ?",
                (
                    video.title,
                    video.uploader,
                    video.upload_date,
                    video.licence,
                    video.description,
                    json.dumps(video.categories, ensure_ascii=False) if video.categories else None,
                    video.duration_s,
                    video.page_id,
                    video.video_id,
                ),
            )

    def spans(self, key: ClipKey) -> dict[int, ClipSpan]:
        """Spans of a video's clips that stand, by number."""
        rows = self._read(
            "SELECT number, start_s, length_s FROM clip "
            "WHERE video = ? AND seed = ? AND modality = ? AND start_s IS NOT NULL",
            (key.video_id, key.seed, key.modality),
        )
        return {number: ClipSpan(start_s=start_s, length_s=length_s) for number, start_s, length_s in rows}

    # --- clips ---------------------------------------------------------------------------------------------------

    def enqueue(self, keys: Iterable[ClipKey]) -> None:
        """Give every clip a row; new ones are queued."""
        with self._transaction() as database:
            database.executemany(
                "INSERT OR IGNORE INTO clip (video, number, seed, modality) VALUES (?, ?, ?, ?)",
                [_identity(key) for key in keys],
            )

    def clip(self, key: ClipKey) -> StoredClip:
        """Return the row of one clip."""
        (row,) = self._clips("WHERE video = ? AND number = ? AND seed = ? AND modality = ?", _identity(key))
        return row

    def clips(self) -> dict[ClipKey, StoredClip]:
        """Return the rows of all clips."""
        return {clip.key: clip for clip in self._clips("", ())}

    def _clips(self, where: str, values: Sequence[object]) -> Iterator[StoredClip]:
        columns = "video, number, seed, modality, start_s, length_s, state, code, detail, sha256, versions"
        for row in self._read(f"SELECT {columns} FROM clip {where}", values):
            yield StoredClip(
                key=ClipKey(video_id=row[0], number=row[1], seed=row[2], modality=row[3]),
                span=None if row[4] is None else ClipSpan(start_s=row[4], length_s=row[5]),
                state=row[6],
                code=row[7],
                detail=row[8],
                sha256=row[9],
                versions=_versions(row[10] or "{}"),
            )

    def set_span(self, key: ClipKey, span: ClipSpan) -> None:
        """Record which part of its video a clip is, before it is fetched."""
        self._update(key, start_s=span.start_s, length_s=span.length_s)

    def set_fetched(self, key: ClipKey, file: Path, *, fetch_s: float, versions: Mapping[str, str]) -> Folder:
        """Take a verified download into the clip store and return where it stands.

        Raises
        ------
        OSError
            If the disk is full or may not be written, or an object store cannot be.
        """
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        num_bytes = file.stat().st_size
        target = self.clip_file(sha256)
        take_in(file, target)
        if self._in_store is not None:
            self._in_store.add(target.name)
        written = json.dumps(dict(versions), sort_keys=True)
        self._update(
            key,
            state="fetched",
            code=None,
            detail=None,
            sha256=sha256,
            num_bytes=num_bytes,
            fetch_s=fetch_s,
            versions=written,
        )
        return target

    def set_outcome(self, key: ClipKey, state: State, *, code: str | None = None, detail: str | None = None) -> None:
        """Record what became of a clip: kept, or rejected or failed with one of the schema's codes."""
        if code is not None and code not in CODES:
            raise ValueError(f"unknown code {code!r}")
        self.settle([(key, state, code, detail)])

    def settle(self, outcomes: Iterable[tuple[ClipKey, State, str | None, str | None]]) -> None:
        """Record what a data set made of its clips: state, code and detail of each, in one transaction."""
        with self._transaction() as database:
            database.executemany(
                "UPDATE clip SET state = ?, code = ?, detail = ? "
                "WHERE video = ? AND number = ? AND seed = ? AND modality = ? AND code IS NOT 'purged'",
                [(state, code, detail, *_identity(key)) for key, state, code, detail in outcomes],
            )

    def _update(self, key: ClipKey, **values: object) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        with self._transaction() as database:
            database.execute(
                f"UPDATE clip SET {names} WHERE video = ? AND number = ? AND seed = ? AND modality = ?",
                (*values.values(), *_identity(key)),
            )

    def seconds_a_fetch(self) -> float | None:
        """Median time that metadata and clip took in earlier fetches; none where there were none."""
        rows = self._read("SELECT fetch_s FROM clip WHERE fetch_s IS NOT NULL ORDER BY fetch_s")
        return float(rows[len(rows) // 2][0]) if rows else None

    def bytes_a_clip(self) -> float | None:
        """Mean size of the clips fetched; none where there were none."""
        ((mean,),) = self._read("SELECT avg(num_bytes) FROM clip")
        return None if mean is None else float(mean)

    # --- files ---------------------------------------------------------------------------------------------------

    def clip_file(self, sha256: str) -> Folder:
        """Path of a fetched clip, by its content."""
        return self.clips_folder / sha256[:2] / f"{sha256}.mkv"

    def has_clip(self, sha256: str) -> bool:
        """Tell whether a clip's file is there; an object store is asked for all of them at once."""
        file = self.clip_file(sha256)
        if isinstance(file, Path):
            return file.exists()
        if self._in_store is None:
            self._in_store = {PurePosixPath(name).name for name in files_below(self.clips_folder)}
        return file.name in self._in_store

    def _remove_clips(self, sha256s: Collection[str]) -> None:
        files = [self.clip_file(sha256) for sha256 in sha256s]
        remove(files)
        if self._in_store is not None:
            self._in_store.difference_update(file.name for file in files)

    def drop_files(self, sha256s: Iterable[str]) -> None:
        """Remove the files of clips for which nobody waits; their rows stay."""
        there = [sha256 for sha256 in dict.fromkeys(sha256s) if self.has_clip(sha256)]
        waiting = "SELECT 1 FROM clip WHERE sha256 = ? AND state = 'fetched'"
        self._remove_clips([sha256 for sha256 in there if not self._read(waiting, (sha256,))])

    # --- take-down -----------------------------------------------------------------------------------------------

    def known_as(self) -> dict[str, set[str]]:
        """All that each video is known by: its identity, its links, and what its page calls it."""
        rows = self._read(
            "SELECT id, id FROM video UNION SELECT id, link FROM video UNION SELECT video, link FROM listing"
        )
        rows += self._read("SELECT id, page_id FROM video WHERE page_id IS NOT NULL")
        names: dict[str, set[str]] = {}
        for video_id, name in rows:
            names.setdefault(video_id, set()).add(name)
        return names

    def purge(self, videos: Collection[str], clips: Collection[tuple[str, int, int]], detail: str) -> None:
        """Take videos down, and single clips (video, number, seed): their files and words go, their identities stay.

        A clip of the same bytes goes too. A video all of whose clips go is gone as a whole.
        """
        stored, named = self.clips(), set(clips)
        gone = {key for key in stored if key.video_id in videos or (key.video_id, key.number, key.seed) in named}
        files = {stored[key].sha256 for key in gone} - {None}
        gone |= {key for key, clip in stored.items() if clip.sha256 in files}
        staying = {key.video_id for key in stored.keys() - gone if stored[key].code != "purged"}
        whole = {key.video_id for key in gone} - staying | set(videos)
        self._read("PRAGMA secure_delete = ON")  # else the words would stay in the file's free pages
        with self._transaction() as database:
            database.executemany(
                "UPDATE clip SET state = 'rejected', code = 'purged', detail = ?, num_bytes = NULL, versions = NULL, "
                "start_s = NULL, length_s = NULL "
                "WHERE video = ? AND number = ? AND seed = ? AND modality = ?",
                [(detail, *_identity(key)) for key in gone],
            )
            database.executemany(
                "UPDATE video SET code = 'purged', detail = ?, title = NULL, uploader = NULL, upload_date = NULL, "
                "licence = NULL, description = NULL, categories = NULL, duration_s = NULL WHERE id = ?",
                [(detail, video_id) for video_id in whole],
            )
        self._remove_purged()

    def _remove_purged(self) -> None:
        """Remove the files of clips that were taken down; a purge that was killed may have left some."""
        for (sha256,) in self._read("SELECT DISTINCT sha256 FROM clip WHERE code = 'purged' AND sha256 IS NOT NULL"):
            self._remove_clips([sha256])
            with self._transaction() as database:
                database.execute("UPDATE clip SET sha256 = NULL WHERE code = 'purged' AND sha256 = ?", (sha256,))


def standing_clips(folder: Path) -> Folder | None:
    """Where a store that stands keeps its clips; None where it has none yet, nor another place noted for them."""
    own, noted = folder / "clips", folder / NOTE
    if noted.exists():
        return folder_of(noted.read_text(encoding="utf-8").strip(), flag=str(noted))
    return own if own.exists() else None


def _settled_clips(folder: Path, asked: Folder | None) -> Folder:
    """Where a store's clips lie: as its first run asked, and noted where that is not in its own folder.

    Raises
    ------
    UserError
        If they lie elsewhere than asked.
    """
    own, stands = folder / "clips", standing_clips(folder)
    if asked is None:
        return stands or own
    place = asked.resolve()
    if stands is not None and stands.resolve() != place:
        raise UserError(
            f"--clips {asked}: the clips of {folder} lie in {stands}; leave it out, or name another --store"
        )
    if stands is None and place != own.resolve():
        if isinstance(place, Path):
            place.mkdir(parents=True, exist_ok=True)  # workers elsewhere look for it before anything is fetched
        publish_text(folder / NOTE, f"{place}\n")
    return place


@functools.cache  # many clips, few versions of the tools
def _versions(written: str) -> Mapping[str, str]:
    return MappingProxyType(json.loads(written))


def _identity(key: ClipKey) -> tuple[str, int, int, str]:
    return key.video_id, key.number, key.seed, key.modality


_VIDEO_COLUMNS = (
    "id, title, uploader, upload_date, licence, duration_s, resolved, page_id, code, detail, description, categories"
)


def _video(row: Sequence[Any]) -> Video:
    return Video(
        video_id=row[0],
        link="",
        title=row[1],
        uploader=row[2],
        upload_date=row[3],
        licence=row[4],
        duration_s=row[5],
        resolved=bool(row[6]),
        page_id=row[7],
        problem=None if row[8] is None else (row[8], row[9]),
        description=row[10],
        categories=tuple(json.loads(row[11] or "[]")),
    )
