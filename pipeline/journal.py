"""A purge from its journal to its end: written down before anything is touched, and gone on with after a kill.

    .build/purge.json              what is to be done; while it exists, the purge is not finished
    .train-000003.tar.purge        a shard without what is taken down, until it takes its place; its record likewise
    purged.jsonl                   one line a purge

Every step finds out for itself whether it was done, so that a purge can be carried out again from its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import dataset, shards
from pipeline.errors import UserError
from pipeline.locations import Folder
from pipeline.schema import INDEX
from pipeline.storage import files_in, local_copy, publish_text, publishing, readable, remove, replace, sync_folder
from pipeline.takedown import PURGED, without_keys
from pipeline.tars import Hashed, copy_samples, read_samples

Row = dict[str, Any]

LOG = "purged.jsonl"


@dataclass(frozen=True, kw_only=True)
class Purge:
    """All that a purge does, settled before it begins."""

    when: str
    """In UTC, to the second."""
    reason: str | None
    rows: list[Row]
    """Of what is taken down: source_id, link, and the identity that its page told as source_group."""
    keys: list[str]
    """Of those rows."""
    splits: dict[str, int]
    """Clips taken down by split."""
    rewritten: dict[str, str]
    """Shards that lose samples, and those whose rows name a key that goes; with the hashes of their tars before."""
    emptied: dict[str, str]
    """Shards of which nothing is left, likewise."""

    @property
    def detail(self) -> str:
        """Goes into what is left of a row."""
        return "taken down" if self.reason is None else f"taken down: {self.reason}"


def file_of(folder: Folder) -> Folder:
    """Path of the journal; it is there while a purge is not finished."""
    return folder / dataset.WORK / "purge.json"


def begin(folder: Folder, purge: Purge) -> None:
    """Write the journal: from here on the purge will be done, whatever ends this process.

    There is none yet, so whatever was staged is another purge's, and would bring back what this one takes down.
    """
    remove(files_in(folder, ".*.purge"))
    publish_text(file_of(folder), json.dumps(asdict(purge)) + "\n")


def finish_interrupted(folder: Folder) -> bool:
    """Finish a purge that was killed or ran out of room, and tell whether there was one.

    The caller holds the folder's lock.

    Raises
    ------
    UserError
        If the journal is none of this program's.
    """
    file = file_of(folder)
    if not file.exists():
        return False
    try:
        purge = Purge(**json.loads(file.read_text(encoding="utf-8")))
        _check_types(purge)
        if not all(map(shards.TAR_NAME.fullmatch, [*purge.rewritten, *purge.emptied])):
            raise ValueError("it names what is no shard")  # a set may come from anywhere, and names lead anywhere
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is no journal of a purge ({error}); remove it if you did not begin one") from error
    carry_out(folder, purge)
    return True


def _check_types(purge: Purge) -> None:
    """Raise ``TypeError`` where a field has another type: half of a purge must not be done."""
    texts = [purge.when, *purge.keys, *purge.splits, *purge.rewritten.values(), *purge.emptied.values()]
    texts += [row["source_id"] for row in purge.rows if isinstance(row, dict) and "source_id" in row]
    words = [purge.reason, *(row.get(name) for row in purge.rows for name in ("link", "source_group"))]
    sound = [
        all(isinstance(held, list) for held in (purge.rows, purge.keys)),
        all(isinstance(held, dict) for held in (purge.splits, purge.rewritten, purge.emptied)),
        all(isinstance(row, dict) and "source_id" in row for row in purge.rows),
        all(isinstance(text, str) for text in texts),
        all(word is None or isinstance(word, str) for word in words),
        all(isinstance(count, int) for count in purge.splits.values()),
    ]
    if not all(sound):
        raise TypeError("a field has another type than it should")


def carry_out(folder: Folder, purge: Purge, *, told: Callable[[str], None] = lambda _: None) -> None:
    """Do what the journal says, from the beginning or from where it was left, and remove the journal."""
    remove([*files_in(folder, ".*.tmp"), *files_in(folder / dataset.WORK, ".*.tmp")])
    keys = frozenset(purge.keys)
    for name in purge.rewritten:
        told(name)
        _rewrite(folder / name, keys)
    for name in purge.emptied:
        told(name)
        remove([shards.record_of(folder / name)])
        remove([folder / name])
    _publish(folder, purge, keys)
    _log(folder, purge)
    sync_folder(folder)
    remove([file_of(folder)])


def _rewrite(tar: Folder, keys: frozenset[str]) -> None:
    """Put a shard without these samples in its place; no reader meets a tar beside another's record."""
    record = shards.record_of(tar)
    new_tar, new_record = (file.with_name(f".{file.name}.purge") for file in (tar, record))
    if record.exists():  # where it is gone, what is staged is being put in its place
        rows = shards.read_rows(record)
        left = [without_keys(row, keys) for row in rows if row["key"] not in keys]
        if not _is_staged(new_record, left):  # it is written last: with it, both are whole
            remove([new_record])
            remove([new_tar])
            if left == rows:
                return
            _stage(tar, left, new_tar, new_record, unchanged=len(left) == len(rows))
    if new_tar.exists():
        remove([record])
        replace(new_tar, tar)
    replace(new_record, record)


def _is_staged(new_record: Folder, left: list[Row]) -> bool:
    try:
        return new_record.exists() and [row["key"] for row in shards.read_rows(new_record)] == [
            row["key"] for row in left
        ]
    except (pa.ArrowException, OSError, ValueError, KeyError):  # none of this program's
        return False


def _stage(tar: Folder, left: list[Row], new_tar: Folder, new_record: Folder, *, unchanged: bool) -> None:
    promise = {
        k.decode(): v.decode() for k, v in (pq.read_schema(readable(shards.record_of(tar))).metadata or {}).items()
    }
    if not unchanged:
        kept = {row["key"] for row in left}
        with publishing(new_tar) as scratch, local_copy(tar) as here, here.open("rb") as old:
            spans = [(sample.offset, sample.num_bytes) for sample in read_samples(old) if sample.key in kept]
            with scratch.open("wb") as new:
                copy_samples(old, new, spans)
            with scratch.open("rb") as written:
                hashed = Hashed(written)
                found = {sample.key: shards.where(sample) for sample in read_samples(hashed)}
                promise |= {"tar_sha256": hashed.hexdigest_of_all(), "tar_bytes": str(hashed.num_bytes)}
        left = [row | found[row["key"]] for row in left]
    shards.write_rows(new_record, left, INDEX, metadata=promise)


def _publish(folder: Folder, purge: Purge, keys: frozenset[str]) -> None:
    manifest = shards.read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} holds no dataset.json, and a purge of it is not finished; bring a copy, then go on")
    if held := [row for row in dataset.kept_rows(folder, ["key", "shard"]) if row["key"] in keys]:
        told = f"{folder / str(held[0]['shard'])} still holds {held[0]['key']}"
        raise UserError(f"{told}; the purge is not finished: bring a sound copy of tar and record, then purge again")
    gone = {row["source_id"] for row in purge.rows}
    left_out = (without_keys(row, keys) for row in dataset.left_out_rows(folder) if row["source_id"] not in gone)
    end = {"status": "rejected", "code": PURGED, "detail": purge.detail}
    dataset.publish(
        folder,
        chain(left_out, (row | end for row in purge.rows)),
        labels=manifest.labels,
        recipe=manifest.recipe,
        recipe_hash=manifest.recipe_hash,
        settings=manifest.settings,
        versions=manifest.versions,
    )


# --- the log -----------------------------------------------------------------------------------------------------


def _log(folder: Folder, purge: Purge) -> None:
    """Add the purge's line to the log, unless it is there."""
    hashes = {name: shards.tar_sha256(folder / name) for name in purge.rewritten}
    line = {
        "when": purge.when,
        "reason": purge.reason,
        "clips": purge.splits,
        "left_out": len(purge.rows) - sum(purge.splits.values()),
        "rewritten": {
            name: {"was": was, "is": hashes[name]} for name, was in purge.rewritten.items() if was != hashes[name]
        },
        "removed": purge.emptied,
    }
    file = folder / LOG
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    written = json.dumps(line, ensure_ascii=False)
    if written not in lines:
        publish_text(file, "".join(f"{line}\n" for line in [*lines, written]))


def entries(folder: Folder) -> Iterator[dict[str, Any]]:
    """Lines of the log.

    Raises
    ------
    UserError
        If one is no line of a log.
    """
    file = folder / LOG
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if not all(map(shards.TAR_NAME.fullmatch, entry["removed"])):
                raise ValueError("it names what is no shard")
            yield entry
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{file} line {number} is no line of a purge; mend the file or remove it") from error


def retired_shards(folder: Folder) -> list[str]:
    """Names of shards that purges emptied: no new shard has one, since somebody may hold the old one by that name."""
    return [name for entry in entries(folder) for name in entry["removed"]]
