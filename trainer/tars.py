"""Samples out of a shard's tar, read with distrust.

Names come from the listing, never from inside a file; nothing is unpickled or executed, nothing but the JPEG of frames
is decompressed, and no member may be larger than its schema allows. A tar is hashed as it is first read through and
compared with its commit record.
"""

import hashlib
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from webdataset.tariterators import base_plus_ext

from trainer.errors import UserError, one_line, storage_errors
from trainer.runtime import warn
from trainer.shards import MEMBERS, Sample, SchemaError, Shard, decode, files_of

NPY_HEADER_BYTES = 4096  # room for a member's header; its array's bytes are known
CLS_BYTES = 32
TAR_BUFFER_BYTES = 256 * 1024


class _File(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...
    def tell(self) -> int: ...


class _Hashed:
    """A file that is hashed as it is read; what is sought past is read too, and there is no way back."""

    def __init__(self, file: _File) -> None:
        self.file, self.place = file, 0
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self.file.read(size)
        self.sha256.update(data)
        self.place += len(data)
        return data

    def seek(self, offset: int, /) -> int:
        if offset < self.place:
            raise tarfile.ReadError("it leads backwards")
        while self.place < offset and self.read(min(offset - self.place, TAR_BUFFER_BYTES)):
            pass
        return self.place

    def tell(self) -> int:
        return self.place


class Damage(NamedTuple):
    """A sample that cannot be had, and why."""

    key: str
    why: str


class _DamagedError(Exception):
    """What is wrong with one sample; those after it may be whole."""


def read(
    fs: Any, shard: Shard, rows: Collection[int], members: Sequence[str], *, verify: bool, skip: bool = False
) -> Iterator[tuple[int, Sample | Damage]]:
    """Read some samples of a shard in tar order, and of them only the arrays wanted.

    Parameters
    ----------
    rows
        Positions in the tar.
    verify
        Read all of the tar and compare its hash with the record at the end. Otherwise other rows are sought past.
    skip
        Yield damage in place of a sample that cannot be had, instead of raising. Of a tar that is cut short the rest
        is lost.

    Yields
    ------
    (position, sample)

    Raises
    ------
    UserError
        If the tar is damaged, is not what its record says, or a sample breaks the schema; with ``skip`` only if the
        store cannot be reached.
    """
    wanted = {shard.keys[row]: row for row in rows}
    limits = {file: _array_bytes(name) + NPY_HEADER_BYTES for name in members for file in files_of(name)}
    limits["cls"] = CLS_BYTES
    lost, why = 0, ""
    stream: Any = None
    try:
        with fs.open(shard.path, "rb") as file:
            stream = _Hashed(file) if verify else file
            with tarfile.open(fileobj=stream, mode="r:") as tar:  # nothing compressed
                for key, entries in groupby(tar, key=lambda entry: base_plus_ext(entry.name)[0]):
                    if key not in wanted:
                        continue
                    row = wanted[key]
                    try:
                        sample: Sample | Damage = _sample(stream, key, entries, limits, members, shard.labels[row])
                    except _DamagedError as error:
                        if not skip:
                            raise UserError(f"{shard.path}: {error}") from None
                        sample, lost = Damage(key, f"{shard.path}: {error}"), lost + 1
                    del wanted[key]
                    yield row, sample
                    if not wanted and not verify:
                        return
            if verify:
                while stream.read(TAR_BUFFER_BYTES):
                    pass
    except (tarfile.TarError, EOFError) as error:
        why = f"{shard.path} is damaged ({one_line(error)}); build the shard again"
    except FileNotFoundError as error:
        why = f"{shard.path} cannot be read: {one_line(error)}"
    except storage_errors() as error:
        raise UserError(f"{shard.path} cannot be read: {one_line(error)}") from None
    if wanted and not why:
        why = f"{shard.path} ends without {next(iter(wanted))}, which its record promises; build it again"
    if verify and stream and not why and not lost and stream.sha256.hexdigest() != shard.tar_sha256:
        why = f"{shard.path} has another hash than its commit record says; build the shard again"
    if why and not skip:
        raise UserError(why)
    if why and not wanted:  # which samples were altered cannot be told
        warn(f"{why}; until then what can be read of it is used")
    yield from ((row, Damage(key, why)) for key, row in wanted.items())


def _sample(
    file: _File,
    key: str,
    entries: Iterable[tarfile.TarInfo],
    limits: Mapping[str, int],
    members: Sequence[str],
    label: int,
) -> Sample:
    """Decode one sample's members; its class must be the record's."""
    record: dict[str, Any] = {"__key__": key}
    for entry in entries:
        suffix = base_plus_ext(entry.name)[1]
        if suffix in limits and entry.isreg():
            if entry.size > limits[suffix]:
                raise _DamagedError(f"{entry.name} is {entry.size} bytes, more than can be")
            file.seek(entry.offset_data)  # tarfile's own reading copies each member three times
            record[suffix] = file.read(entry.size)
            if len(record[suffix]) < entry.size:
                raise tarfile.ReadError("unexpected end of data")
    try:
        sample = decode(record, members)
    except SchemaError as error:
        raise _DamagedError(str(error)) from None
    found = -1 if sample.label is None else sample.label
    if found != label:
        raise _DamagedError(f"{key} is of class {found}, its record says {label}")
    return sample


def _array_bytes(name: str) -> int:
    member = MEMBERS[name]
    size = member.dtype.itemsize
    for side in member.shape:
        size *= side
    return size
