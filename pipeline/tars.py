"""A shard's tar, sample by sample: read with distrust, and copied in part.

What the pipeline writes is a plain ustar of plain files, so nothing else is read: no links, no long names, no
compression. No more than one sample is in memory, and no size that a header claims is believed beyond what a member
can have.
"""

from __future__ import annotations

import hashlib
import math
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pipeline.schema import MEMBERS

NPY_HEADER_BYTES = 4096  # room for the header of an array, whose own bytes are known
MAX_MEMBER_BYTES = NPY_HEADER_BYTES + max(m.dtype.itemsize * math.prod(m.shape) for m in MEMBERS.values())
MAX_MEMBERS = 16  # of a sample; the largest has six
CHUNK_BYTES = 1 << 20  # copied or skipped at once


class TarError(Exception):
    """A tar that is damaged, or holds what no shard holds."""


class Readable(Protocol):
    """What a tar is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes, none at the end."""
        ...


class Hashed:
    """A stream that is hashed as it is read."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0

    def read(self, size: int, /) -> bytes:
        """Read on."""
        data = self._stream.read(size)
        self._sha256.update(data)
        self.num_bytes += len(data)
        return data

    def hexdigest_of_all(self) -> str:
        """SHA-256 of the whole, what was not read yet included."""
        while self.read(CHUNK_BYTES):
            pass
        return self._sha256.hexdigest()


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """One sample as it lies in a tar."""

    key: str
    members: dict[str, bytes]
    """By their names after the key's dot, in the order of the tar."""
    offset: int
    """Of its first header."""
    num_bytes: int
    """Headers and padding included: the bytes to copy."""
    sha256: str
    """Over each member's name in the tar, a zero byte, its length as 8 bytes (little-endian), and its bytes."""


def read_samples(stream: Readable) -> Iterator[TarSample]:
    """Read a tar from its beginning to its last byte.

    Raises
    ------
    TarError
        If it is cut short, damaged, or holds anything but plain files of bounded size.
    """
    key, members, digest, begin, end = "", dict[str, bytes](), hashlib.sha256(), 0, 0

    def sample() -> TarSample:
        return TarSample(key=key, members=members, offset=begin, num_bytes=end - begin, sha256=digest.hexdigest())

    while (info := _next_header(stream, end)) is not None:
        data = _exactly(stream, info.size, info.name)
        _exactly(stream, -info.size % tarfile.BLOCKSIZE, info.name)
        own_key, _, suffix = info.name.partition(".")
        if own_key != key or not members:
            if members:
                yield sample()
            key, members, digest, begin = own_key, {}, hashlib.sha256(), end
        if suffix in members or len(members) == MAX_MEMBERS:
            raise TarError(f"{info.name} is there twice, or one of more than {MAX_MEMBERS} members")
        members[suffix] = data
        name = info.name.encode(errors="surrogateescape")
        digest.update(name + b"\0" + info.size.to_bytes(8, "little") + data)
        end += tarfile.BLOCKSIZE + info.size + -info.size % tarfile.BLOCKSIZE
    if members:
        yield sample()
    while rest := stream.read(CHUNK_BYTES):
        if rest.strip(b"\0"):
            raise TarError("data stand behind its end mark")


def copy_samples(source: BinaryIO, target: BinaryIO, spans: Iterable[tuple[int, int]]) -> None:
    """Copy samples byte by byte, by offset and length, and end the tar as ``tarfile`` does."""
    written = 0
    for offset, num_bytes in spans:
        source.seek(offset)
        while num_bytes:
            data = source.read(min(CHUNK_BYTES, num_bytes))
            if not data:
                raise TarError("it is shorter than its samples")
            target.write(data)
            num_bytes -= len(data)
            written += len(data)
    written += target.write(bytes(2 * tarfile.BLOCKSIZE))
    target.write(bytes(-written % tarfile.RECORDSIZE))


def _next_header(stream: Readable, offset: int) -> tarfile.TarInfo | None:
    block = stream.read(tarfile.BLOCKSIZE)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros, which typeshed does not list
        return None
    except tarfile.HeaderError as error:
        told = "it ends without its end mark" if len(block) < tarfile.BLOCKSIZE else str(error)
        raise TarError(f"at byte {offset}: {told}") from error
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise TarError(f"{info.name} is no plain file")
    if not 0 <= info.size <= MAX_MEMBER_BYTES:
        raise TarError(f"{info.name} claims {info.size} bytes; no member has more than {MAX_MEMBER_BYTES}")
    return info


def _exactly(stream: Readable, num_bytes: int, name: str) -> bytes:
    data = stream.read(num_bytes)
    if len(data) < num_bytes:
        raise TarError(f"it ends in the middle of {name}")
    return data
