"""Data sets of tar shards, as the trainer sees them: what a set holds.

The only module that knows the pipeline, and of it the schema alone; what others need of that is re-exported here.

A set is opened by its folder, a glob of its tars, or an fsspec address (``s3://bucket/mved``). Shards are what their
commit records (``<split>-000000.parquet``) say: a tar without one does not exist. ``trainer.tars`` reads them.
"""

import fnmatch
import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import (
    MEMBERS,
    N_FFT,
    SAMPLE_RATES_HZ,
    SCHEMA_VERSION,
    SPLITS,
    Manifest,
    Modality,
    Sample,
    SchemaError,
    decode,
    files_of,
    members_of,
)
from trainer.errors import UserError, one_line, storage_errors

__all__ = [
    "MEMBERS",
    "N_FFT",
    "SAMPLE_RATES_HZ",
    "Manifest",
    "Modality",
    "Sample",
    "SchemaError",
    "decode",
    "files_of",
]

BUILD = "python -m flows.build_shards --source DIR --out"  # how to make what is missing

Damaged = Literal["stop", "skip"]
"""What is done about a sample that cannot be read."""

RECORD_COLUMNS = ["key", "source_id", "source_group", "label"]
_RECORD = re.compile(rf"({'|'.join(SPLITS)})-\d+\.parquet")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar and what its commit record says of it."""

    path: str
    """Within the set's file system."""
    split: str
    keys: tuple[str, ...]
    """In tar order."""
    labels: tuple[int, ...]
    """Class indices, -1 where there is none."""
    groups: tuple[str, ...]
    """Source groups: what must not straddle splits."""
    tar_sha256: str
    rows: tuple[int, ...]
    """Positions that are used; all, unless a subset was taken."""

    @property
    def name(self) -> str:
        """Bare name of the tar."""
        return self.path.rsplit("/", 1)[-1]


def num_samples(shards: Iterable[Shard]) -> int:
    """Count the samples used."""
    return sum(len(shard.rows) for shard in shards)


def keys_of(shards: Iterable[Shard]) -> list[str]:
    """List the key of every sample used, in tar order."""
    return [shard.keys[row] for shard in shards for row in shard.rows]


def labels_of(shards: Iterable[Shard]) -> list[int]:
    """List the class index of every sample used, in tar order."""
    return [shard.labels[row] for shard in shards for row in shard.rows]


def groups_of(shards: Iterable[Shard]) -> list[str]:
    """List the source group of every sample used, in tar order."""
    return [shard.groups[row] for shard in shards for row in shard.rows]


def group_number(group: str) -> int:
    """Return 64 bits that stand for a source group, the same in every process."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], signed=True)


def select(shards: Iterable[Shard], keep: Callable[[str], bool]) -> list[Shard]:
    """Return the shards with only the samples whose source group is to be kept."""
    kept = (replace(shard, rows=tuple(row for row in shard.rows if keep(shard.groups[row]))) for shard in shards)
    return [shard for shard in kept if shard.rows]


def fingerprint(shards: Iterable[Shard]) -> str:
    """Hash which samples are used and where they lie: what a resumed run must find again."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.name} {shard.tar_sha256} {shard.rows}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """A data set: its manifest and its shards. Samples themselves are read by ``trainer.tars``."""

    address: str
    fs: Any
    """fsspec file system."""
    manifest: Manifest
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, address: str, *, flag: str = "--shards", damaged: Damaged = "stop") -> "ShardSet":
        """Open a set by folder, glob of tars or fsspec address, reading its manifest and commit records alone.

        Parameters
        ----------
        damaged
            ``skip`` also opens a set with tars that are missing or of another size than recorded: what they lack is
            found when they are read.

        Raises
        ------
        UserError
            If there is none, it is empty, of another schema version, incomplete, or damaged as far as sizes tell.
        """
        fs, root, pattern = _locate(address, flag)
        try:
            entries = {entry["name"].rsplit("/", 1)[-1]: entry for entry in fs.ls(root, detail=True)}
            if "dataset.json" not in entries:
                raise UserError(
                    f"{flag} {address}: no dataset.json there, so no data set; build one: {BUILD} {address}"
                )
            manifest = Manifest.from_json(
                fs.cat_file(f"{root}/dataset.json").decode(errors="replace"), where=f"{root}/dataset.json"
            )
            records = sorted(name for name in entries if _RECORD.fullmatch(name))
            records = [name for name in records if fnmatch.fnmatchcase(_tar_of(name), pattern)]
            # Not fs.cat, to which a folder such as `set[1]` is a pattern. All at once, where the store can do that.
            contents = fs.cat_ranges([f"{root}/{name}" for name in records], None, None, on_error="raise")
            shards = tuple(
                _shard(root, name, raw, entries, manifest, damaged) for name, raw in zip(records, contents, strict=True)
            )
        except SchemaError as error:
            raise UserError(str(error)) from None
        except storage_errors(pa.ArrowException) as error:
            raise UserError(f"{flag} {address} cannot be read: {one_line(error)}") from None
        if not num_samples(shards):
            counts = ", ".join(f"{n} {status}" for status, n in manifest.counts.items() if isinstance(n, int))
            raise UserError(
                f"{flag} {address} holds no samples ({counts or 'nothing counted'}); "
                f"index.parquet there says why; build it again: {BUILD} {address}"
            )
        return cls(address=address, fs=fs, manifest=manifest, shards=shards)

    def split(self, name: str) -> list[Shard]:
        """Return the shards of a split.

        Raises
        ------
        UserError
            If the set has no such split.
        """
        shards = [shard for shard in self.shards if shard.split == name]
        if not shards:
            raise UserError(f"{self.address} has no split {name!r}; it has {', '.join(self.split_names)}")
        return shards

    @property
    def split_names(self) -> list[str]:
        """Names of the splits there are, in the schema's order."""
        present = {shard.split for shard in self.shards}
        return [name for name in SPLITS if name in present]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes by index.

        Raises
        ------
        UserError
            If the set has no labels, or one alone.
        """
        if not self.manifest.labels:
            raise UserError(
                f"{self.address} has no labels, and this command needs them; build it with --labels, "
                "or train without them: python -m trainer.pretrain"
            )
        if len(self.manifest.labels) < 2:
            raise UserError(
                f"{self.address} has one label alone, {self.manifest.labels[0]}: there is nothing to tell apart; "
                "give a set of two or more, or train without labels: python -m trainer.pretrain"
            )
        return self.manifest.labels

    @property
    def modality(self) -> Modality:
        """Which arrays the set holds."""
        held: Modality = self.manifest.recipe.get("modality", "both")
        return held

    def require(self, members: Collection[str]) -> None:
        """Refuse a set whose modality lacks arrays that the network reads."""
        if missing := sorted(set(members) - set(members_of(self.modality))):
            raise UserError(
                f"{self.address} was built with modality {self.modality} and has no {', '.join(missing)}; "
                f"--modality {self.modality} trains on what it holds; or build the set with both"
            )


def _locate(address: str, flag: str) -> tuple[Any, str, str]:
    """Return the file system, the set's folder, and the pattern its tars must match."""
    try:
        fs, path = fsspec.url_to_fs(address)
        path = path.rstrip("/")
        if path.endswith(".tar"):
            root, _, pattern = path.rpartition("/")
        else:
            root, pattern = path, "*"
        found = fs.isdir(root)
    except storage_errors(ValueError, ImportError) as error:
        raise UserError(f"{flag} {address} cannot be opened: {one_line(error)}") from None
    if not found:
        raise UserError(f"{flag} {address}: there is no such folder; build a set: {BUILD} {address}")
    return fs, root, pattern


def _tar_of(record: str) -> str:
    return record.removesuffix(".parquet") + ".tar"


def record_of(tar: str) -> str:
    """Return the path of a tar's commit record."""
    return tar.removesuffix(".tar") + ".parquet"


def read_record(raw: bytes, columns: Sequence[str]) -> pa.Table:
    """Read columns of a commit record.

    In this thread: Arrow's own may hold on to the bytes until after the interpreter's end, and abort the process then
    (https://github.com/apache/arrow/issues/33975).

    Raises
    ------
    pyarrow.ArrowException
        If it is none, or lacks one.
    """
    with pq.ParquetFile(io.BytesIO(raw), pre_buffer=False) as opened:
        table = opened.read(list(columns), use_threads=False)
    if missing := set(columns) - set(table.column_names):
        raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(missing))}")
    return table.select(list(columns))


def _shard(root: str, record: str, raw: bytes, entries: dict[str, Any], manifest: Manifest, damaged: Damaged) -> Shard:
    """Check one commit record against the manifest and its tar's size."""
    name = _tar_of(record)
    table = read_record(raw, RECORD_COLUMNS)
    try:
        promised = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        columns = {name: table[name].to_pylist() for name in RECORD_COLUMNS}
        version, tar_bytes = int(promised["schema_version"]), int(promised["tar_bytes"])
        tar_sha256, recipe_hash = promised["tar_sha256"], promised["recipe_hash"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{root}/{record} is no commit record ({one_line(error)}); build the shard again") from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{root}/{record} is of schema version {version}, this software reads {SCHEMA_VERSION}; build the set again"
        )
    if recipe_hash != manifest.recipe_hash:
        raise UserError(
            f"{root}/{record} was built by recipe {recipe_hash}, dataset.json by {manifest.recipe_hash}; "
            "build the set again in a folder of its own"
        )
    if name not in entries and damaged == "stop":
        raise UserError(f"{root}/{name} is missing, though its record is there; build the shard again")
    if damaged == "stop" and entries[name]["size"] != tar_bytes:
        raise UserError(
            f"{root}/{name} is truncated or altered: {entries[name]['size']} bytes, its record says {tar_bytes}; "
            "build the shard again"
        )
    class_index = {label: i for i, label in enumerate(manifest.labels or [])}
    try:
        labels = tuple(-1 if label is None else class_index[label] for label in columns["label"])
    except KeyError as error:
        raise UserError(f"{root}/{record} has a label {error} that dataset.json does not know") from None
    if manifest.labels and -1 in labels:
        raise UserError(f"{root}/{record}: {columns['key'][labels.index(-1)]} has no label in a labelled set")
    return Shard(
        path=f"{root}/{name}",
        split=record.split("-")[0],
        keys=tuple(columns["key"]),
        labels=labels,
        groups=tuple(
            group or source for group, source in zip(columns["source_group"], columns["source_id"], strict=True)
        ),
        tar_sha256=tar_sha256,
        rows=tuple(range(table.num_rows)),
    )
