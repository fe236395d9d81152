"""Folders of a disk and of an object store: files that appear whole or not at all.

A folder is a ``pathlib.Path``, or the ``UPath`` of an address such as ``s3://bucket/set``, which has pathlib's ways.
What costs a store more than a disk has a verb here: a listing is one request and tells many names, a small file is
read in one piece, a large one in ranges, and what a program needs as a file comes as a copy.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

import pyarrow.parquet as pq
from upath import UPath

from pipeline import object_lock
from pipeline.locations import S3, Folder

S3_REMOVED_AT_ONCE = 1000  # the most that S3 takes
S3_PART_BYTES = 16 << 20  # of a multipart upload; twice that goes up in one piece
S3_PARTS_AT_ONCE = 4  # so much is held of a shard that goes up: 64 MiB
WHOLE_BYTES = 8 << 20  # a table up to this size is read in one request
TABLE_STEP_BYTES = 1 << 20  # read ahead in a larger one
STREAM_STEP_BYTES = 16 << 20  # and in a tar


def storage_errors() -> tuple[type[Exception], ...]:
    """``OSError``, and what the packages of object stores raise beside it, as far as they are in use."""
    known = (
        ("botocore.exceptions", "BotoCoreError"),
        ("aiohttp", "ClientError"),
        ("fsspec.exceptions", "FSTimeoutError"),
    )
    return (OSError, *(getattr(sys.modules[module], name) for module, name in known if module in sys.modules))


# --- reading -----------------------------------------------------------------------------------------------------


def files_in(folder: Folder, *patterns: str) -> list[Folder]:
    """What lies in a folder under a name that matches, by name, from one listing; nothing where there is no folder."""
    try:
        if isinstance(folder, Path):
            names = [path.name for path in folder.iterdir()]
        else:
            names = [PurePosixPath(path).name for path in folder.fs.ls(folder.path, detail=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def files_below(folder: Folder) -> list[str]:
    """Paths of all files in a folder and its folders, relative to it; links to folders are not followed.

    Of a store they are the keys as they stand, which may be no paths (``a//b``); those of mere folders (``a/``) are
    left out.

    Raises
    ------
    OSError
        If one of the folders cannot be read.
    """
    if isinstance(folder, Path):
        if not folder.is_dir():
            return []
        walked = os.walk(folder, onerror=_raise)
        return [Path(top, name).relative_to(folder).as_posix() for top, _, names in walked for name in names]
    root = folder.path.rstrip("/") + "/"
    try:
        keys = folder.fs.find(folder.path)
    except FileNotFoundError:
        return []
    return [key.removeprefix(root) for key in keys if not key.endswith("/")]


def _raise(error: OSError) -> NoReturn:
    raise error


def opened(file: Folder) -> BufferedReader:
    """Open a file to be read from its beginning on."""
    if isinstance(file, Path):
        return file.open("rb")
    return _stream(file, STREAM_STEP_BYTES)


def open_table(file: Folder, *, buffer_size: int = 0) -> pq.ParquetFile:
    """Open a table, to be read with ``use_threads=False``.

    Arrow's own threads may hold on to a handle until after the interpreter's end, and abort the process then
    (https://github.com/apache/arrow/issues/33975): they must not see it, as they do in ``pyarrow.parquet.read_table``
    and with ``pre_buffer``.
    """
    return pq.ParquetFile(readable(file), buffer_size=buffer_size, pre_buffer=False)


def readable(file: Folder) -> Path | BinaryIO:
    """What reads the head of a table takes: a path, or a handle, which reads a small file in one piece."""
    if isinstance(file, Path):
        return file
    stream = _stream(file, TABLE_STEP_BYTES)
    if stream.seek(0, io.SEEK_END) > WHOLE_BYTES:
        stream.seek(0)
        return stream
    with stream:
        return io.BytesIO(read_bytes(file))


def _stream(file: UPath, step_bytes: int) -> BufferedReader:
    stream: BufferedReader = file.fs.open(file.path, "rb", block_size=step_bytes, cache_type="readahead")
    return stream


def read_bytes(file: Folder) -> bytes:
    """All of a file; in one request."""
    if isinstance(file, Path):
        return file.read_bytes()
    raw: bytes = file.fs.cat_file(file.path)
    return raw


def read_span(file: Folder, offset: int, num_bytes: int) -> bytes:
    """Some bytes of a file, fewer where it ends before; in one request."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(num_bytes)
    raw: bytes = file.fs.cat_file(file.path, start=offset, end=offset + num_bytes)
    return raw


@contextmanager
def local_copy(file: Folder) -> Iterator[Path]:
    """Yield a file of this machine's disk: this one, or a copy for as long as it is needed.

    What is not there is not there under the name that is yielded either.
    """
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="from-store-", ignore_cleanup_errors=True) as scratch:
        copy = Path(scratch) / f"copy{file.suffix}"
        try:
            file.fs.get_file(file.path, str(copy))
        except FileNotFoundError:
            copy.unlink(missing_ok=True)
        yield copy


# --- writing -----------------------------------------------------------------------------------------------------


@contextmanager
def publishing(target: Folder) -> Iterator[Path]:
    """Yield a temporary path; on a clean exit its file is stored under the final name, whole.

    On a disk it lies beside ``target`` and is renamed. A store has no rename: there it lies in the folder for temporary
    files and goes up, and an object appears at the end of its upload.
    """
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory(prefix="to-store-", ignore_cleanup_errors=True) as folder:
            made = Path(folder) / target.name
            yield made
            upload(made, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # No two writers share it, be they on two machines: a cluster may run a task again while the first run lives on.
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield scratch
        with scratch.open("rb") as stream:
            os.fsync(stream.fileno())
        scratch.replace(target)
        sync_folder(target.parent)
    finally:
        scratch.unlink(missing_ok=True)


def upload(file: Path, target: UPath) -> None:
    """Put a file into a store; where it breaks off, nothing has the name, or what had it before."""
    object_lock.require_held(target)
    how: dict[str, Any] = {}
    if target.protocol in S3:
        how = {"chunksize": S3_PART_BYTES, "max_concurrency": S3_PARTS_AT_ONCE}
    target.fs.put_file(str(file), target.path, **how)


def take_in(file: Path, target: Folder) -> None:
    """Move a file that is whole and on disk to its place: renamed on one disk, else copied whole first."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.replace(target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with publishing(target) as scratch:
            shutil.copyfile(file, scratch)
    else:
        upload(file, target)
    file.unlink()


def publish_text(target: Folder, text: str) -> None:
    """Write a text file whole."""
    with publishing(target) as scratch:
        scratch.write_text(text, encoding="utf-8")


def replace(source: Folder, target: Folder) -> None:
    """Have a file bear another name, in place of what had it.

    In a store that is a copy, whole or not at all, and then a removal: killed between the two, both are there.
    """
    if isinstance(source, Path):
        source.replace(str(target))
        return
    assert not isinstance(target, Path)  # both are of one folder
    object_lock.require_held(source)
    source.fs.cp_file(source.path, target.path)
    source.fs.rm_file(source.path)


def remove(files: Iterable[Folder]) -> None:
    """Remove files; those that are gone already are no matter."""
    remote: list[UPath] = []
    for file in files:
        if isinstance(file, Path):
            file.unlink(missing_ok=True)
        else:
            remote.append(file)
    if not remote:
        return
    object_lock.require_held(remote[0])  # all are of one store, and of one folder's lock
    # Never fs.rm: to it `set[1]` is a pattern, which matches what lies in `set1`.
    fs, paths = remote[0].fs, [file.path for file in remote]
    if remote[0].protocol in S3:
        _remove_from_s3(fs, paths)
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)


def _remove_from_s3(fs: Any, paths: Sequence[str]) -> None:
    """Remove objects a thousand at a time; those that are not there count as removed."""
    keys = defaultdict(list)
    for path in paths:
        bucket, _, key = path.partition("/")
        keys[bucket].append({"Key": key})
    for bucket, named in keys.items():
        for first in range(0, len(named), S3_REMOVED_AT_ONCE):
            some = {"Objects": named[first : first + S3_REMOVED_AT_ONCE], "Quiet": True}
            told = fs.call_s3("delete_objects", Bucket=bucket, Delete=some)
            for error in told.get("Errors", ()):
                raise OSError(f"{bucket}/{error.get('Key')} cannot be removed: {error.get('Message')}")


def sync_folder(folder: Folder) -> None:
    """Have a folder's names on disk, where its file system can promise that."""
    if not isinstance(folder, Path):
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def free_bytes(folder: Folder) -> int:
    """Room on the disk of a folder that may not be there yet; for a store, where its files are made."""
    here = folder if isinstance(folder, Path) else Path(tempfile.gettempdir())
    while not here.exists():
        here = here.parent
    return shutil.disk_usage(here).free
