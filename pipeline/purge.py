"""Take clips out of a data set for good: a take-down.

    python -m pipeline.purge shards/unlabeled --ids list.txt --reason "asked for by the uploader" --dry-run
    python -m pipeline.purge shards/unlabeled --ids list.txt --reason "asked for by the uploader"

The list has a line for each: a link, an identity such as youtube:dQw4w9WgXcQ or a file's path in its source, the key
of one clip, or group:NAME for all of a source group; lines that begin with # and a space are comments. Only the shards
that hold such a clip are rewritten. Killed anywhere, the purge is finished when the set is next verified, purged or
built. Exit code 0: done; 2: a mistake, such as an id that matches nothing, and nothing was changed. docs/upkeep.md
tells what is left.
"""

from __future__ import annotations

import datetime
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from pipeline import dataset, journal, shards
from pipeline.clips import video_and_number
from pipeline.command import exit_code
from pipeline.damage import reading
from pipeline.errors import DISK_ERRNOS, UserError
from pipeline.journal import Purge
from pipeline.locations import Folder, folder_of
from pipeline.locking import single_writer
from pipeline.schema import Manifest
from pipeline.storage import files_in, free_bytes, opened, remove
from pipeline.store import Store, open_store
from pipeline.takedown import PURGED, Named, named_keys
from pipeline.tars import Hashed, TarError, read_samples
from pipeline.text import clean_text
from pipeline.verify_index import read_manifest
from pipeline.verify_shard import NotAsPromisedError

Row = dict[str, Any]

NAMED_BY = ["key", "source_id", "link", "source_group", "status", "code", "detail", "split", "shard", "duplicate_of"]
"""Columns of the index that a take-down goes by."""

DEFAULT_STORE = Path("shards/.crawl")
SPARE_BYTES = 10_000_000  # of room, beside a shard and the index, for what else is written


def purge(
    address: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="dir", metavar="DIR")],
    ids: Path,
    reason: str | None = None,
    store: Path | None = None,
    missing_ok: bool = False,
    dry_run: bool = False,
) -> int:
    """Take down what a list names.

    Args:
        address: Of the data set: a folder, or its place in an object store.
        ids: File that names what goes, a line each.
        reason: Goes into purged.jsonl and into the rows' detail.
        store: Folder of the crawl's store, where the fetched media are removed and not fetched again; by default
            shards/.crawl, where it is there and the set was crawled.
        missing_ok: Go on where an id of the list matches nothing; it is named all the same.
        dry_run: Say what would go, and change nothing.
    """
    folder = folder_of(address)
    lines = read_ids(ids)
    manifest = _manifest(folder)
    if dry_run and journal.file_of(folder).exists():
        raise UserError(f"a purge of {folder} was stopped before its end; verify, purge or build it, then ask again")
    with single_writer(folder / dataset.WORK, doing=f"writing {folder}", flag="DIR"):
        if journal.finish_interrupted(folder):
            print("a purge was stopped before its end; it is finished now", file=sys.stderr)
        _refuse_unfinished(folder)
        if not dry_run:  # samples of a part that never came to be: no build needs them, and they may be of what goes
            remove(files_in(folder / dataset.WORK, "part-*", ".part-*.tmp"))
        with reading(folder):
            rows = [*dataset.kept_rows(folder, NAMED_BY), *dataset.left_out_rows(folder, NAMED_BY)]
        with _opened(store, rows) as crawl_store:
            known_as = crawl_store.known_as() if crawl_store else {}
            with reading(folder):
                named = Named.of(lines, rows, known_as)
            _name_missing(named, ids, folder, missing_ok=missing_ok)
            with reading(folder):
                todo = _settled(folder, rows, named, reason=clean_text(reason))
            for line in (*_told_by_id(named), *_told_of_alike(rows, todo)):
                print(line, file=sys.stderr)
            if not dry_run and crawl_store is not None:
                seed = manifest.settings.get("seed", 0)
                clips = [(*video_and_number(row["source_id"]), seed) for row in todo.rows]
                crawl_store.purge(named.videos, clips, todo.detail)
            if not dry_run and todo.rows:
                _carry_out(folder, todo)
            print(_in_words(todo, named, len(rows), dry_run=dry_run))
    return 0


def read_ids(file: Path) -> list[str]:
    """Lines of a list, each once.

    Raises
    ------
    UserError
        If it cannot be read, or names nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ids {file} cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from error
    ids = dict.fromkeys(line.strip() for line in lines)
    ids = dict.fromkeys(line for line in ids if line and line.split()[0] != "#")  # a file may be #hashtag.mp4
    if not ids:
        raise UserError(f"--ids {file} names nothing; give a line for each link, identity or key")
    return list(ids)


def _manifest(folder: Folder) -> Manifest:
    with reading(folder):
        manifest = shards.read_manifest(folder)
    if manifest is None or not (folder / "index.parquet").exists():
        raise UserError(f"{folder} is no finished data set; name the folder that holds dataset.json and index.parquet")
    try:
        return read_manifest(folder / "dataset.json")
    except NotAsPromisedError as error:
        told = f"python -m pipeline.verify {folder} tells more"
        raise UserError(f"{folder}: dataset.json is damaged ({error}); {told}") from error


def _refuse_unfinished(folder: Folder) -> None:
    work = folder / dataset.WORK
    if files_in(work, "part-*.parquet", dataset.PLAN):
        raise UserError(f"a build of {folder} was stopped before its end; run the same build again first")


@contextmanager
def _opened(store: Path | None, rows: Sequence[Row]) -> Iterator[Store | None]:
    """Open the crawl's store that was named, or the usual one if the set was crawled."""
    crawled = any("://" in (row["link"] or "") for row in rows)
    folder = store or DEFAULT_STORE
    if not (folder / "crawl.sqlite").exists():
        if store is not None:
            raise UserError(f"--store {store} holds no crawl.sqlite; name the folder of a crawl's store")
        if crawled:
            print(f"no crawl's store at {folder}: what it fetched stays, unless --store names it", file=sys.stderr)
        yield None
    elif store is None and not crawled:
        yield None
    else:
        with open_store(folder) as crawl_store:
            yield crawl_store


def _name_missing(named: Named, ids: Path, folder: Folder, *, missing_ok: bool) -> None:
    for line in named.missing:
        print(f"{line}: matches nothing", file=sys.stderr)
    if named.missing and not missing_ok:
        told = f"{len(named.missing)} of {len(named.rows)} ids match nothing in {folder}"
        raise UserError(f"--ids {ids}: {told}; nothing was changed; mend the list, or give --missing-ok")


def _settled(folder: Folder, rows: Sequence[Row], named: Named, *, reason: str | None) -> Purge:
    """Settle all that is to be done, and check that it can be.

    Raises
    ------
    UserError
        If a shard is damaged, or there is no room to rewrite it.
    """
    going = named.going(rows)
    keys = {row["key"] for row in going if row["key"]}
    by_shard = defaultdict(list)
    for row in rows:
        if row["status"] == "kept":
            by_shard[row["shard"]].append(row)
    touched = {
        name: held
        for name, held in by_shard.items()
        if any(row["key"] in keys or row.get("duplicate_of") in keys for row in held)
    }
    hashes = {name: _checked_hash(folder / name, held) for name, held in touched.items()}
    emptied = {name for name, held in touched.items() if all(row["key"] in keys for row in held)}
    rewritten = sorted(touched.keys() - emptied)
    needed = max((folder.joinpath(name).stat().st_size for name in rewritten), default=0)
    if not isinstance(folder, Path):  # the old one's copy and the new one are both in the folder for temporary files
        needed *= 2
    needed += 2 * (folder / "index.parquet").stat().st_size + SPARE_BYTES
    if going and (free := free_bytes(folder)) < needed:
        where = folder if isinstance(folder, Path) else "the folder for temporary files (TMPDIR)"
        raise UserError(
            f"{where} has {free / 1e6:.0f} MB of room, a purge needs {needed / 1e6:.0f}; nothing was changed"
        )
    return Purge(
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        reason=reason,
        rows=[
            {name: row[name] for name in ("source_id", "link")} | {"source_group": named.identity_of(row)}
            for row in going
        ],
        keys=sorted(keys),
        splits=dict(sorted(Counter(row["split"] for row in going if row["status"] == "kept").items())),
        rewritten={name: hashes[name] for name in rewritten},
        emptied={name: hashes[name] for name in sorted(emptied)},
    )


def _checked_hash(tar: Folder, rows: Sequence[Row]) -> str:
    """Hash of a tar that is what its record says: a damaged one must not get a new hash."""
    promised = shards.tar_sha256(tar)
    try:
        with opened(tar) as stream:
            hashed = Hashed(stream)
            keys = [sample.key for sample in read_samples(hashed)]
            sound = keys == [row["key"] for row in rows] and hashed.hexdigest_of_all() == promised
    except TarError:
        sound = False
    if not sound:
        told = f"python -m pipeline.verify {tar.parent} tells more; nothing was changed"
        raise UserError(f"{tar} is not what its record says, and so cannot be rewritten; {told}")
    return promised


def _carry_out(folder: Folder, todo: Purge) -> None:
    num_shards = len(todo.rewritten) + len(todo.emptied)
    try:
        journal.begin(folder, todo)
        with tqdm(total=num_shards, unit="shard", disable=not sys.stderr.isatty()) as bar:
            journal.carry_out(folder, todo, told=lambda _: bar.update())
    except (OSError, KeyboardInterrupt) as error:
        if not journal.file_of(folder).exists():
            raise
        told = "nothing is lost, and the purge is finished when the set is next verified, purged or built"
        if isinstance(error, KeyboardInterrupt):
            print(f"purge: {told}", file=sys.stderr)
            raise
        if error.errno not in DISK_ERRNOS:
            raise
        raise UserError(f"{folder}: {error.strerror}; {told}") from error


# --- words -------------------------------------------------------------------------------------------------------


def _told_by_id(named: Named) -> Iterator[str]:
    for line, rows in named.rows.items():
        kept = sum(row["status"] == "kept" for row in rows)
        before = sum(row["code"] == PURGED for row in rows)
        told = [
            _num(kept, "clip") if kept else "",
            f"{others} not kept" if (others := len(rows) - kept - before) else "",
            f"{before} taken down before" if before else "",
            "in the crawl's store" if named.in_store[line] else "",
        ]
        if any(told):
            yield f"{line}: {', '.join(filter(None, told))}"


def _told_of_alike(rows: Sequence[Row], todo: Purge) -> Iterator[str]:
    keys, gone = set(todo.keys), {row["source_id"] for row in todo.rows}
    standing = {row["key"] for row in rows if row["status"] == "kept"} - keys
    for row in rows:
        if row["source_id"] in gone and row["code"] == "duplicate":
            for key in sorted(standing & named_keys(row)):
                yield f"{row['source_id']} shows or plays the same as {key}, which stays; name it if it is to go"
        if row["status"] == "kept" and row.get("duplicate_of") in keys and row["key"] not in keys:
            told = f"it shows or plays the same as {row['duplicate_of']}"
            yield f"{row['key']} stays, though {told}; name it if it is to go"


def _in_words(todo: Purge, named: Named, num_rows: int, *, dry_run: bool) -> str:
    clips = sum(todo.splits.values())
    if not todo.rows:
        store = f"; the crawl's store {'would be' if dry_run else 'is'} purged" if named.videos else ""
        return f"nothing to take out of the set{store}"
    splits = f" ({', '.join(f'{split} {n}' for split, n in todo.splits.items())})" if todo.splits else ""
    doing = "would be taken down" if dry_run else "taken down"
    others = _num(len(todo.rows) - clips, "candidate")
    told = f"{doing}: {_num(clips, 'clip')}{splits} and {others} not kept, of {_num(num_rows, 'candidate')}"
    return f"{told}; {_num(len(todo.rewritten), 'shard')} rewritten, {len(todo.emptied)} removed"


def _num(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    asked = partial(tyro.cli, purge, prog="python -m pipeline.purge", description=__doc__, args=argv)
    return exit_code("purge", asked)


if __name__ == "__main__":
    sys.exit(main())
