"""Check a data set: every tar, record, index and dataset.json, and that they agree.

    python -m pipeline.verify shards/unlabeled

Prints one line a fault, which names the file, the sample and what is wrong. Exit code 0: no fault; 1: some; 2: a
mistake, such as a folder that holds no data set. A purge that was stopped is finished first; nothing else is written.
Memory: one sample, and some 500 bytes a candidate.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from pipeline import dataset, journal, shards
from pipeline.command import exit_code
from pipeline.damage import DAMAGE, in_a_line
from pipeline.errors import UserError
from pipeline.locations import Folder, folder_of
from pipeline.locking import no_writer, single_writer
from pipeline.schema import Manifest, SchemaError
from pipeline.storage import files_in
from pipeline.verify_index import Seen, index_faults, manifest_faults, read_manifest
from pipeline.verify_shard import Fault, NotAsPromisedError, read_record, shard_faults, tar_faults


@dataclass(kw_only=True)
class Checked:
    """How much was looked at."""

    shards: int = 0
    samples: int = 0
    num_bytes: int = 0


def verify(address: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="dir", metavar="DIR")]) -> int:
    """Check a data set.

    Args:
        address: Of the data set: a folder, or its place in an object store.
    """
    folder = folder_of(address)
    if not files_in(folder, "*.tar", "dataset.json", "index.parquet"):
        raise UserError(f"{folder} holds no data set; build one with python -m flows.build_shards")
    _finish_purge(folder)
    with no_writer(folder / dataset.WORK):
        if (folder / dataset.WORK / "plan.parquet").exists():
            raise UserError(f"a build of {folder} was stopped while it packed; run the same build again, then verify")
        num_faults, checked = 0, Checked()
        num_bytes = sum(tar.stat().st_size for tar in files_in(folder, "*.tar") if tar.is_file())
        with tqdm(total=num_bytes, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
            for fault in faults(folder, checked, progress=bar.update):
                num_faults += 1
                bar.write(str(fault))
    done = f"{checked.shards} shards, {checked.samples} samples, {checked.num_bytes} bytes checked"
    print(f"{done}: {num_faults or 'no'} {'fault' if num_faults < 2 else 'faults'}")
    return 1 if num_faults else 0


def _finish_purge(folder: Folder) -> None:
    if journal.file_of(folder).exists():
        with single_writer(folder / dataset.WORK, doing=f"writing {folder}", flag="DIR"):
            if journal.finish_interrupted(folder):
                print("a purge was stopped before its end; it is finished now", file=sys.stderr)


def faults(folder: Folder, checked: Checked, *, progress: Callable[[int], object] = lambda _: None) -> Iterator[Fault]:
    """Find all that is wrong with a set, file by file."""
    yield from _files_that_do_not_belong(folder)
    try:
        manifest = read_manifest(folder / "dataset.json")
    except (NotAsPromisedError, SchemaError) as error:
        yield Fault(file="dataset.json", what=f"{error}; nothing else can be checked without it")
        return
    seen = Seen()
    for tar in shards.committed_shards(folder):
        if shards.TAR_NAME.fullmatch(tar.name):
            yield from _told(tar.name, _of_shard(tar, manifest, seen, checked, progress))
    candidates = Counter[tuple[str, str]]()
    yield from _told("index.parquet", index_faults(folder, seen, candidates))
    yield from _told("dataset.json", manifest_faults(manifest, seen, candidates))


def _told(file: str, found: Iterator[Fault]) -> Iterator[Fault]:
    """Go on with the next file where one holds what nobody foresaw."""
    try:
        yield from found
    except (*DAMAGE, OSError) as error:
        yield Fault(file=file, what=f"cannot be checked to its end: {in_a_line(error)}")


def _files_that_do_not_belong(folder: Folder) -> Iterator[Fault]:
    found = files_in(folder, "*")
    there = {file.name for file in found if not isinstance(file, Path) or file.exists()}  # a link may lead nowhere
    for file in found:
        if file.name.startswith(".") and file.suffix in (".tmp", ".purge"):
            yield Fault(file=file.name, what="was left by a run that was killed; the next build or purge clears it")
        elif file.suffix == ".tar" and not shards.TAR_NAME.fullmatch(file.name):
            yield Fault(file=file.name, what="is no shard of the set")
        elif file.suffix == ".tar" and shards.record_of(file).name not in there:
            yield Fault(file=file.name, what="has no commit record")
        elif _is_record(file) and f"{file.stem}.tar" not in there:
            yield Fault(file=file.name, what="is the record of a tar that is not there")
    try:
        retired = journal.retired_shards(folder)
    except UserError as error:
        yield Fault(file=journal.LOG, what=str(error))
        return
    for name in retired:
        if name in there:
            yield Fault(file=name, what=f"has the name of a shard that {journal.LOG} says is gone")


def _is_record(file: Folder) -> bool:
    return file.suffix == ".parquet" and shards.TAR_NAME.fullmatch(f"{file.stem}.tar") is not None


# --- shards ------------------------------------------------------------------------------------------------------


def _of_shard(
    tar: Folder, manifest: Manifest, seen: Seen, checked: Checked, progress: Callable[[int], object]
) -> Iterator[Fault]:
    if not tar.is_file():
        yield Fault(file=tar.name, what="is no file")
        return
    checked.shards += 1
    checked.num_bytes += tar.stat().st_size
    try:
        rows, promise = read_record(tar)
    except NotAsPromisedError as error:
        yield Fault(file=shards.record_of(tar).name, what=str(error))
        return
    checked.samples += len(rows)
    yield from shard_faults(tar, rows, promise, manifest)
    yield from tar_faults(tar, rows, promise, manifest, progress=progress)
    for row in rows:
        if row["key"] in seen.digests:
            told = f"has a key that {seen.shards[row['key']]} holds already"
            yield Fault(file=shards.record_of(tar).name, sample=str(row["key"]), what=told)
        first = seen.groups.setdefault(row["source_group"], row["split"])
        if manifest.settings.get("split_rule") == "grouped" and first != row["split"]:
            told = f"source group {row['source_group']} is in {first} and {row['split']}"
            yield Fault(file=shards.record_of(tar).name, sample=str(row["key"]), what=told)
        seen.add(row, tar.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    asked = partial(tyro.cli, verify, prog="python -m pipeline.verify", description=__doc__, args=argv)
    return exit_code("verify", asked)


if __name__ == "__main__":
    sys.exit(main())
