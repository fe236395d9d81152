"""Samples out of a shard's tar, read with distrust.

Names come from the listing, never from inside a file; nothing is unpickled or executed, nothing but the JPEG of frames
is decompressed, and no member may be larger than its schema allows. A tar is hashed as it is first read through and
compared with its commit record.
"""

import hashlib
import tarfile
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

from webdataset.tariterators import base_plus_ext

from trainer.errors import UserError, one_line
from trainer.shards import MEMBERS, Sample, SchemaError, Shard, decode, files_of

NPY_HEADER_BYTES = 4096  # room for a member's header; its array's bytes are known
CLS_BYTES = 32
TAR_BUFFER_BYTES = 256 * 1024


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Hashed:
    """A stream that is hashed as it is read."""

    def __init__(self, stream: _Readable) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self.stream.read(size)
        self.sha256.update(data)
        return data


def read(
    fs: Any, shard: Shard, rows: Collection[int], members: Sequence[str], *, verify: bool
) -> Iterator[tuple[int, Sample]]:
    """Read some samples of a shard in tar order, and of them only the arrays wanted.

    Parameters
    ----------
    rows
        Positions in the tar.
    verify
        Read all of the tar and compare its hash with the record at the end. Otherwise other rows are sought past.

    Yields
    ------
    (position, sample)

    Raises
    ------
    UserError
        If the tar is damaged, is not what its record says, or a sample breaks the schema.
    """
    wanted = {shard.keys[row]: row for row in rows}
    limits = {file: _array_bytes(name) + NPY_HEADER_BYTES for name in members for file in files_of(name)}
    limits["cls"] = CLS_BYTES
    try:
        with fs.open(shard.path, "rb") as file:
            stream: Any = _Hashed(file) if verify else file
            mode: Any = "r|" if verify else "r:"  # the former reads forward alone, the latter may seek; no compression
            with tarfile.open(fileobj=stream, mode=mode, bufsize=TAR_BUFFER_BYTES) as tar:
                for key, entries in groupby(tar, key=lambda entry: base_plus_ext(entry.name)[0]):
                    if key not in wanted:
                        continue
                    record: dict[str, Any] = {"__key__": key}
                    for entry in entries:
                        suffix = base_plus_ext(entry.name)[1]
                        if suffix in limits and entry.isreg():
                            if entry.size > limits[suffix]:
                                raise UserError(f"{shard.path}: {entry.name} is {entry.size} bytes, more than can be")
                            record[suffix] = tar.extractfile(entry).read()  # type: ignore[union-attr]
                    row = wanted.pop(key)
                    yield row, _checked(decode(record, members), shard, row)
                    if not wanted and not verify:
                        return
            if verify:
                while stream.read(TAR_BUFFER_BYTES):
                    pass
    except SchemaError as error:
        raise UserError(f"{shard.path}: {error}") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{shard.path} is damaged ({one_line(error)}); build the shard again") from None
    if wanted:
        raise UserError(f"{shard.path} ends without {next(iter(wanted))}, which its record promises; build it again")
    if verify and stream.sha256.hexdigest() != shard.tar_sha256:
        raise UserError(f"{shard.path} has another hash than its commit record says; build the shard again")


def _array_bytes(name: str) -> int:
    member = MEMBERS[name]
    size = member.dtype.itemsize
    for side in member.shape:
        size *= side
    return size


def _checked(sample: Sample, shard: Shard, row: int) -> Sample:
    label = -1 if sample.label is None else sample.label
    if label != shard.labels[row]:
        raise UserError(f"{shard.path}: {sample.key} is of class {label}, its record says {shard.labels[row]}")
    return sample
