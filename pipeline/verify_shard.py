"""One shard, read through and compared with its commit record: the half of ``verify`` that reads tars.

A shard is untrusted: nothing is unpickled or executed, no more than one sample is in memory, and what breaks the
contract is told and not raised.
"""

from __future__ import annotations

import functools
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import shards
from pipeline.locations import Folder
from pipeline.schema import INDEX, MEMBERS, SCHEMA_VERSION, SHEET, Manifest, file_of, members_of, sample_key
from pipeline.sheet import decode_sheet
from pipeline.storage import open_table, opened
from pipeline.tars import NPY_HEADER_BYTES, Hashed, TarError, TarSample, read_samples
from pipeline.text import clean_text

Row = dict[str, Any]

MOMENT_TOLERANCE = 1e-9  # of a channel's root mean square: another processor may sum in another order
NEEDED = ("key", "source_id", "status", "code", "split", "label", "source_group", "shard", "start_s", "title")
IN_JSON = ("source_id", "link", "title", "split", "label", "source_group", "start_s", "duration_s", "valid_s", "sha256")
"""What a sample's json and its row both tell."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is not as it should be."""

    file: str
    sample: str | None = None
    """Its key, or a candidate's identity."""
    what: str

    def __str__(self) -> str:
        """One line, whatever a file may hold."""
        return clean_text(": ".join(filter(None, (self.file, self.sample, self.what)))) or ""


class NotAsPromisedError(Exception):
    """What is wrong with one thing."""


def read_record(tar: Folder) -> tuple[list[Row], dict[str, str]]:
    """Rows of a tar's commit record, and what its metadata promise.

    Raises
    ------
    NotAsPromisedError
        If it is no commit record.
    """
    try:
        with open_table(shards.record_of(tar)) as opened:
            promise = {k.decode(): v.decode() for k, v in (opened.schema_arrow.metadata or {}).items()}
            check_columns(opened.schema_arrow)
            if opened.metadata.num_rows * 512 > tar.stat().st_size:  # bytes of a tar's header
                raise NotAsPromisedError(f"has {opened.metadata.num_rows} rows, more than its tar can hold")
            return opened.read(use_threads=False).to_pylist(), promise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise NotAsPromisedError(f"cannot be read: {error}") from error


def check_columns(columns: pa.Schema) -> None:
    """Refuse a table that is no index: later columns may be missing, but what is there has its type.

    Raises
    ------
    NotAsPromisedError
        If it is none.
    """
    if repeated := sorted({name for name in columns.names if columns.names.count(name) > 1}):
        raise NotAsPromisedError(f"has more than one column {', '.join(repeated)}")
    for name in INDEX.names:
        if name not in columns.names:
            if name in NEEDED:
                raise NotAsPromisedError(f"has no column {name}")
        elif columns.field(name).type != INDEX.field(name).type:
            raise NotAsPromisedError(f"has {columns.field(name).type} in column {name}, not {INDEX.field(name).type}")


def shard_faults(tar: Folder, rows: Sequence[Row], promise: Mapping[str, str], manifest: Manifest) -> Iterator[Fault]:
    """Compare a record with its tar's name and size and with ``dataset.json``."""
    record = shards.record_of(tar).name
    if promise.get("schema_version") != str(SCHEMA_VERSION):
        told = f"is of schema version {promise.get('schema_version')}, this software reads {SCHEMA_VERSION}"
        yield Fault(file=record, what=told)
    if promise.get("recipe_hash") != manifest.recipe_hash:
        told = f"is of recipe {promise.get('recipe_hash')}, dataset.json of {manifest.recipe_hash}"
        yield Fault(file=record, what=told)
    for row in rows:
        told = ""
        if row["status"] != "kept" or row["code"] is not None:
            told = f"is {row['status']} with code {row['code']}, and stands in a shard"
        elif row["shard"] != tar.name or row["split"] != tar.name.rsplit("-", 1)[0]:
            told = f"names shard {row['shard']} and split {row['split']}"
        elif manifest.labels is None and row["label"] is not None:
            told = f"has label {row['label']} in a set without labels"
        elif manifest.labels is not None and row["label"] not in manifest.labels:
            told = f"has label {row['label']}, which dataset.json does not know"
        elif row["key"] != _key_of(row):
            told = f"its title, source and start make the key {_key_of(row)}"
        if told:
            yield Fault(file=record, sample=str(row["key"]), what=told)


def _key_of(row: Row) -> str | None:
    try:
        start_ms = round(row["start_s"] * 1000)
        return sample_key(title=row["title"] or "", source_id=row["source_id"], start_ms=start_ms)
    except (TypeError, ValueError, AttributeError, OverflowError):  # nothing, or no number
        return None


def tar_faults(
    tar: Folder,
    rows: Sequence[Row],
    promise: Mapping[str, str],
    manifest: Manifest,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> Iterator[Fault]:
    """Read a tar through and compare it with its record; ``progress`` is told of the bytes of each sample."""
    size = tar.stat().st_size
    if str(size) != promise.get("tar_bytes"):
        yield Fault(file=tar.name, what=f"is {size} bytes, its record says {promise.get('tar_bytes')}")
    row_of, found, damaged = {row["key"]: row for row in rows}, dict[str, None](), False
    with opened(tar) as stream:
        hashed = Hashed(stream)
        try:
            for sample in read_samples(hashed):
                if sample.key not in row_of:
                    yield Fault(file=tar.name, sample=sample.key, what="is not in the record")
                elif sample.key in found:
                    yield Fault(file=tar.name, sample=sample.key, what="its members do not stand together")
                else:
                    found[sample.key] = None
                    for told in sample_faults(sample, row_of[sample.key], manifest):
                        yield Fault(file=tar.name, sample=sample.key, what=told)
                progress(sample.num_bytes)
        except TarError as error:
            damaged = True
            told = f"is damaged: {error}; {len(row_of) - len(found)} of {len(row_of)} samples are not reached"
            yield Fault(file=tar.name, what=told)
        digest = hashed.hexdigest_of_all()
    lost = [key for key in row_of if key not in found]
    if not damaged:
        for key in lost:
            yield Fault(file=tar.name, sample=key, what="is in the record, and not in the tar")
        if not lost and list(found) != list(row_of):
            yield Fault(file=tar.name, what="its samples stand in another order than in the record")
    if str(size) == promise.get("tar_bytes") and digest != promise.get("tar_sha256"):
        yield Fault(file=tar.name, what="has another SHA-256 than its record says")


def sample_faults(sample: TarSample, row: Row, manifest: Manifest) -> Iterator[str]:
    """Say what of a sample is not as schema, ``dataset.json`` and its row promise."""
    if row.get("sample_sha256") not in (None, sample.sha256):
        yield "was altered: its members have another hash than its record says"
    place = (row.get("sample_offset"), row.get("sample_bytes"))
    if place not in ((None, None), (sample.offset, sample.num_bytes)):
        yield f"lies at byte {sample.offset}, {sample.num_bytes} bytes; its record says {place[0]} and {place[1]}"
    name_of = {file_of(name, manifest.recipe): name for name in members_of(manifest.recipe["modality"])}
    expected = name_of.keys() | {"json"} | ({"cls"} if manifest.labels is not None else set())
    for name in sorted(expected - sample.members.keys()):
        yield f"has no {name}"
    for name in sorted(sample.members.keys() - expected):
        yield f"has a member {name}, which no sample of this set has"
    for suffix in sorted(expected & sample.members.keys()):
        try:
            raw = sample.members[suffix]
            if suffix == "json":
                _check_json(raw, row)
            elif suffix == "cls":
                _check_class(raw, row, manifest.labels or [])
            else:
                array = read_sheet(raw) if suffix == SHEET else read_array(name_of[suffix], raw)
                _check_moments(name_of[suffix], array, row)
        except NotAsPromisedError as error:
            yield f"{suffix} {error}"


def _check_json(raw: bytes, row: Row) -> None:
    try:
        meta = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise NotAsPromisedError(f"cannot be read: {error}") from error
    if not isinstance(meta, dict):
        raise NotAsPromisedError("is no object")
    for name in IN_JSON:
        if name not in meta or meta[name] != row.get(name):
            told = repr(meta[name])[:100] if name in meta else "no"
            raise NotAsPromisedError(f"says {told} {name}, its record {row.get(name)!r}")


def _check_class(raw: bytes, row: Row, labels: Sequence[str]) -> None:
    if row["label"] in labels and raw != str(labels.index(row["label"])).encode():
        raise NotAsPromisedError(f"is {raw[:20]!r}, its label {row['label']} is class {labels.index(row['label'])}")


def _check_moments(name: str, array: np.ndarray, row: Row) -> None:
    with np.errstate(all="ignore"):
        mean, meansq = shards.channel_moments(name, array)
    if not np.isfinite(meansq).all():
        raise NotAsPromisedError("holds numbers that are not finite")
    said = [row.get(f"mean_{name}"), row.get(f"meansq_{name}")]
    try:
        said_mean, said_meansq = (np.array(moments, dtype=np.float64) for moments in said)
    except (TypeError, ValueError):
        said_mean = said_meansq = np.empty(0)
    if said_mean.shape != mean.shape or said_meansq.shape != meansq.shape:
        raise NotAsPromisedError("has no mean or mean square in its record")
    close = np.abs(said_mean - mean) <= MOMENT_TOLERANCE * np.sqrt(meansq)
    close &= np.abs(said_meansq - meansq) <= MOMENT_TOLERANCE * meansq
    if not close.all():
        raise NotAsPromisedError("has another mean or mean square than its record says")


def read_array(name: str, raw: bytes) -> np.ndarray:
    """Read a member of the schema's dtype and shape; nothing is unpickled.

    Raises
    ------
    NotAsPromisedError
        If it is anything else.
    """
    member, header = MEMBERS[name], _header(name)
    offset = len(header)
    if not raw.startswith(header):
        shape, dtype, offset = _read_header(raw)
        if dtype != member.dtype or shape != member.shape:
            raise NotAsPromisedError(f"is {dtype}{shape}, the schema says {member.dtype}{member.shape}")
    wanted = member.dtype.itemsize * math.prod(member.shape)
    if len(raw) - offset != wanted:
        raise NotAsPromisedError(f"holds {len(raw) - offset} bytes of numbers, its shape takes {wanted}")
    return np.frombuffer(raw, member.dtype, offset=offset).reshape(member.shape)


def read_sheet(raw: bytes) -> np.ndarray:
    """Read frames that are stored as one JPEG.

    Raises
    ------
    NotAsPromisedError
        If it is no such JPEG.
    """
    try:
        return decode_sheet(raw, MEMBERS["frames"].shape)
    except ValueError as error:
        raise NotAsPromisedError(f"cannot be read: {error}") from error


@functools.cache
def _header(name: str) -> bytes:
    """Header as ``schema.encode`` writes it."""
    stream, member = io.BytesIO(), MEMBERS[name]
    descr = np.lib.format.dtype_to_descr(member.dtype)
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": member.shape})
    return stream.getvalue()


def _read_header(raw: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    stream = io.BytesIO(raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a header that numpy has to mend is none of ours
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise NotAsPromisedError(f"is of .npy version {version[0]}.{version[1]}, not 1.0")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=NPY_HEADER_BYTES)
    except NotAsPromisedError:
        raise
    except Exception as error:  # numpy's parser of Python literals has many
        raise NotAsPromisedError(f"has no header of an array: {type(error).__name__}: {error}") from error
    if fortran:
        raise NotAsPromisedError("is stored column by column (Fortran order)")
    return shape, dtype, stream.tell()
