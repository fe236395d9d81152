"""What lies on disk: parts while a build runs, then tars with their commit records, the index and ``dataset.json``.

A commit record is the parquet file beside a tar: its rows, and in its metadata the tar's hash. It is written last, so a
tar without one does not exist. Index, counts and normalisation are derived from the records.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.damage import in_a_line
from pipeline.locations import Folder
from pipeline.schema import (
    FAILURE_CODES,
    INDEX,
    MEMBERS,
    SCHEMA_VERSION,
    SHEET,
    SPLITS,
    Manifest,
    Rejected,
    Sample,
    SchemaError,
    decode,
    encode,
)
from pipeline.sources import Source
from pipeline.storage import files_in, open_table, publishing, read_bytes, readable, remove
from pipeline.tars import Hashed, TarSample, read_samples

Row = dict[str, Any]

PART = pa.schema(
    [
        *INDEX,
        ("groups", pa.list_(pa.string())),
        ("sample", pa.string()),  # tar of the one sample
    ]
)
"""A row of a part, and of a plan: the index row and where the sample lies."""

ROWS_AT_ONCE = 2048  # read or written together: about 10 MB

TAR_END = bytes(2 * tarfile.BLOCKSIZE)
TAR_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{6,}}\.tar")


def index_row(source: Source, outcome: Sample | Rejected) -> Row:
    """Row of one candidate; what only the plan knows is left open."""
    row: Row = {name: outcome.meta.get(name) for name in INDEX.names}
    row |= {"label": source.label, "split": source.split, "groups": list(source.groups), **outcome.index_only}
    if isinstance(outcome, Rejected):
        status = "failed" if outcome.code in FAILURE_CODES else "rejected"
        return row | {"status": status, "code": outcome.code, "detail": outcome.detail}
    row |= {"key": outcome.key, "status": "kept"}
    for name, array in outcome.arrays.items():
        mean, meansq = channel_moments(name, array)
        row |= {f"mean_{name}": mean.tolist(), f"meansq_{name}": meansq.tolist()}
    return row


def channel_moments(name: str, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mean square of each channel of a stored array.

    Parameters
    ----------
    name
        Of the member, whose shape and dtype the array has.

    Returns
    -------
    (np.ndarray, np.ndarray)
        float64 (channels,) each. Where a number of the array is not finite, its mean square is not either.
    """
    axis = MEMBERS[name].channel_axis
    channels = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    if array.dtype == np.uint8:  # a tenth of the time, and exact
        counts = np.stack([np.bincount(channel, minlength=256) for channel in channels])
        levels = np.arange(256)
        return counts @ levels / channels.shape[1], counts @ levels**2 / channels.shape[1]
    values = channels.astype(np.float64)
    return values.mean(axis=1), np.square(values, out=values).mean(axis=1)


def part_name(sources: Iterable[Source]) -> str:
    """Name of the part that holds these candidates."""
    identity = "\0".join(source.source_id for source in sources)
    return f"part-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


Prepared = tuple[Row, dict[str, Any] | None]
"""A candidate's row, and the record of its sample if it is kept."""


def prepared(source: Source, outcome: Sample | Rejected, *, jpeg_quality: int | None = None) -> Prepared:
    """Turn an outcome into what a part stores; ``jpeg_quality`` is that of its frames, where they are not lossless."""
    if isinstance(outcome, Rejected):
        return index_row(source, outcome), None
    record = encode(outcome, jpeg_quality=jpeg_quality)
    if SHEET in record:  # the index tells of the frames that readers get
        outcome = replace(outcome, arrays={**outcome.arrays, **decode(record, ["frames"]).arrays})
    return index_row(source, outcome), record


def write_part(folder: Folder, sources: Sequence[Source], candidates: Iterable[Prepared]) -> list[Row]:
    """Write the samples of a part, then their rows."""
    rows = write_samples(folder, sources, candidates)
    commit_part(folder, sources, rows)
    return rows


def write_samples(folder: Folder, sources: Sequence[Source], candidates: Iterable[Prepared]) -> list[Row]:
    """Write each sample as it comes into a tar of its own, so that each can go as soon as it stands in its shard."""
    name = part_name(sources)
    rows = []
    for number, (row, record) in enumerate(candidates):
        if record is not None:
            row["sample"] = f"{name}-{number:02d}.tar"
            with publishing(folder / row["sample"]) as scratch, scratch.open("wb") as stream:
                with _tar_writer(stream) as writer:
                    writer.write(record)
        rows.append(row)
    return rows


def commit_part(folder: Folder, sources: Sequence[Source], rows: Sequence[Row]) -> None:
    """Write the rows of the samples down, which says that the part is whole."""
    write_rows(folder / f"{part_name(sources)}.parquet", rows, PART)


def pack_shard(
    folder: Folder, rows: Sequence[Row], *, parts: Folder, labels: Sequence[str] | None, recipe_hash: str
) -> None:
    """Put the samples of one shard together, give each its split, group and class, and commit the tar.

    What they were put together from goes with it: parts and shards never hold more than a shard a packer twice.
    """
    name = rows[0]["shard"]
    with publishing(folder / name) as scratch:
        with scratch.open("wb") as stream, _tar_writer(stream) as writer:
            for row in rows:
                writer.write(_final_record(row, parts, labels))
        with scratch.open("rb") as written:
            tar = Hashed(written)
            found = {sample.key: where(sample) for sample in read_samples(tar)}
            digest = tar.hexdigest_of_all()
    committed = [row | found[row["key"]] for row in rows]
    promise = {"recipe_hash": recipe_hash, "tar_sha256": digest, "tar_bytes": str(tar.num_bytes)}
    write_rows(record_of(folder / name), committed, INDEX, metadata=promise)
    remove(parts / row["sample"] for row in rows)


def where(sample: TarSample) -> Row:
    """Columns of the index that tell where a sample lies in its tar, and by what hash it is known."""
    return {"sample_sha256": sample.sha256, "sample_offset": sample.offset, "sample_bytes": sample.num_bytes}


def _tar_writer(stream: IO[bytes]) -> Any:
    from pipeline.workers import without_torch

    with without_torch():  # which it would load where that is installed: 2 s and 490 MB for nothing
        from webdataset import TarWriter

    return TarWriter(stream, encoder=False, mtime=0)


def _final_record(row: Row, parts: Folder, labels: Sequence[str] | None) -> dict[str, Any]:
    file = parts / row["sample"]
    try:
        record = _members(read_bytes(file))
        meta = json.loads(record["json"]) | {name: row[name] for name in ("split", "label", "source_group")}
    except (tarfile.TarError, EOFError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise DamagedSampleError(file, error) from error
    record["json"] = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
    if labels is not None:
        record["cls"] = str(labels.index(row["label"])).encode()
    return record | {"__key__": row["key"]}


def _members(content: bytes) -> dict[str, bytes]:
    if content[-len(TAR_END) :] != TAR_END:  # cut off between two members it would look whole
        raise tarfile.ReadError("it has no end")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        return {info.name.split(".", 1)[1]: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


class DamagedSampleError(Exception):
    """A prepared sample that cannot be read back."""

    def __init__(self, file: Folder, error: Exception) -> None:
        super().__init__(f"{file} is damaged ({in_a_line(error)})")
        self.file = file


@dataclass(frozen=True)
class Only:
    """The rows whose column has a value, or has ``another`` one; a row without any is not among them."""

    column: str
    value: str
    another: bool = False

    def of(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """Tell which rows of a batch these are."""
        return (pc.not_equal if self.another else pc.equal)(batch[self.column], self.value)

    def may_be_in(self, group: pq.RowGroupMetaData) -> bool:
        """Tell by a row group's least and greatest value whether it may hold such rows."""
        (told,) = (
            group.column(n).statistics
            for n in range(group.num_columns)
            if group.column(n).path_in_schema == self.column
        )
        if told is None or not told.has_min_max:
            return told is None or told.null_count != group.num_rows
        return not (told.min == told.max == self.value) if self.another else told.min <= self.value <= told.max


def record_of(tar: Folder) -> Folder:
    """Path of a tar's commit record."""
    return tar.with_suffix(".parquet")


def tar_sha256(tar: Folder) -> str:
    """Hash of a tar as its commit record promises it."""
    return str((pq.read_schema(readable(record_of(tar))).metadata or {})[b"tar_sha256"].decode())


def is_committed(tar: Folder) -> bool:
    """Tell whether a shard stands: tar and record, since one without the other does not exist."""
    return tar.exists() and record_of(tar).exists()


def committed_shards(folder: Folder) -> list[Folder]:
    """Tars of all shards of a set that stand, in the order of their names, from one listing."""
    tars, records = _tars_and_records(folder)
    return [tar for stem, tar in tars.items() if stem in records]


def stale_records(folder: Folder) -> list[Folder]:
    """Commit records whose tar is gone."""
    tars, records = _tars_and_records(folder)
    return [record for stem, record in records.items() if stem not in tars]


def tars_without_record(folder: Folder) -> list[Folder]:
    """Tars of shards that do not stand: half packed, or their record was lost."""
    tars, records = _tars_and_records(folder)
    return [tar for stem, tar in tars.items() if stem not in records and TAR_NAME.fullmatch(tar.name)]


def _tars_and_records(folder: Folder) -> tuple[dict[str, Folder], dict[str, Folder]]:
    found = files_in(folder, *(f"{split}-*" for split in SPLITS))
    tars, records = ({file.stem: file for file in found if file.suffix == suffix} for suffix in (".tar", ".parquet"))
    return tars, records


def write_rows(
    target: Folder, rows: Iterable[Row], schema: pa.Schema, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write rows as parquet, whole or not at all; the file's metadata always holds the schema version."""
    write_tables(target, tables_of(rows, schema), schema, metadata=metadata)


def tables_of(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows as tables of some thousand each."""
    left = iter(rows)
    while some := [{name: row.get(name) for name in schema.names} for row in islice(left, ROWS_AT_ONCE)]:
        yield pa.Table.from_pylist(some, schema=schema)


def write_tables(
    target: Folder, tables: Iterable[pa.Table], schema: pa.Schema, *, metadata: Mapping[str, str] | None = None
) -> None:
    """The same for tables, of which only some thousand rows are held."""
    schema = schema.with_metadata({"schema_version": str(SCHEMA_VERSION), **(metadata or {})})
    with publishing(target) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        some, num_rows = [], 0
        for table in tables:
            some.append(table.select(schema.names).cast(schema))
            num_rows += len(table)
            if num_rows >= ROWS_AT_ONCE:
                writer.write_table(pa.concat_tables(some), row_group_size=ROWS_AT_ONCE)
                some, num_rows = [], 0
        writer.write_table(pa.concat_tables([schema.empty_table(), *some]))


def read_rows(file: Folder, columns: Sequence[str] | None = None, *, only: Only | None = None) -> list[Row]:
    """Read back what ``write_rows`` wrote: all of it, or some columns and rows.

    A column that the file lacks, since there was none when it was written, is empty.

    Raises
    ------
    SchemaError
        If the file is of another schema version.
    """
    return [row for rows in read_tables(file, columns, only=only) for row in rows.to_pylist()]


def read_tables(file: Folder, columns: Sequence[str] | None = None, *, only: Only | None = None) -> Iterator[pa.Table]:
    """The same as tables one after another, of which only one is held, of some thousand rows."""
    with open_table(file) as opened:
        schema = opened.schema_arrow
        version = (schema.metadata or {}).get(b"schema_version", b"none").decode()
        if version != str(SCHEMA_VERSION):
            raise SchemaError(
                f"{file} is of schema version {version}, this software writes {SCHEMA_VERSION}; choose another --out"
            )
        if only and only.column not in schema.names:
            raise pa.ArrowInvalid(f"it has no column {only.column}")
        there = [name for name in columns or schema.names if name in schema.names]
        read = list(dict.fromkeys([*there, *([only.column] if only else [])]))
        groups = ((n, opened.metadata.row_group(n)) for n in range(opened.num_row_groups))
        held = [n for n, group in groups if only is None or only.may_be_in(group)]
        for batch in opened.iter_batches(ROWS_AT_ONCE, row_groups=held, columns=read, use_threads=False):
            table = pa.Table.from_batches([batch.filter(only.of(batch)) if only else batch]).select(there)
            for name in columns or ():
                if name not in there:
                    table = table.append_column(name, pa.nulls(len(table)))
            yield table


def count(rows: Iterable[Row]) -> dict[str, Any]:
    """Candidates by status and code; every candidate is counted once."""
    status = Counter(row["status"] for row in rows)
    by_code = Counter(row["code"] for row in rows if row["code"])
    return {name: status[name] for name in ("kept", "rejected", "failed")} | {"by_code": dict(sorted(by_code.items()))}


def split_summary(kept: Iterable[Row], labels: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Shards, samples and samples of each class by split."""
    samples, per_class, shards = Counter[str](), Counter[tuple[str, str]](), defaultdict[str, set[str]](set)
    for row in kept:
        samples[row["split"]] += 1
        per_class[row["split"], row["label"]] += 1
        shards[row["split"]].add(row["shard"])
    return {
        split: {
            "shards": sorted(shards[split]),
            "samples": samples[split],
            "per_class": {label: per_class[split, label] for label in labels or ()},
        }
        for split in SPLITS
        if samples[split]
    }


def normalization(index: pa.Table) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation of each channel of each array over the training (or unlabelled) split.

    Where there is no such split, over all that is kept.

    Parameters
    ----------
    index
        Columns ``status``, ``split`` and those of the moments.
    """
    kept = index.filter(pc.field("status") == "kept")
    training = kept.filter(pc.field("split").isin(["train", "unlabeled"]))
    rows = training if len(training) else kept
    stats = {}
    for name in MEMBERS:
        moments = [rows[f"{moment}_{name}"].combine_chunks() for moment in ("mean", "meansq")]
        if len(rows) and all(not moment.null_count and moment.value_lengths().to_numpy().all() for moment in moments):
            mean, meansq = (moment.flatten().to_numpy().reshape(len(rows), -1).mean(axis=0) for moment in moments)
            stats[name] = {"mean": mean.tolist(), "std": np.sqrt(np.maximum(meansq - mean**2, 0)).tolist()}
    return stats


def read_manifest(folder: Folder) -> Manifest | None:
    """``dataset.json`` of a set; none where there is none yet."""
    file = folder / "dataset.json"
    return Manifest.from_json(file.read_text(), where=str(file)) if file.exists() else None
