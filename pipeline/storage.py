"""Folders of a disk and of an object store: files that appear whole or not at all, and one writer a folder.

A folder is a ``pathlib.Path``, or the ``UPath`` of an address such as ``s3://bucket/set``, which has pathlib's ways.
What costs a store more than a disk has a verb here: a listing is one request and tells many names, a small file is
read in one piece, a large one in ranges, and what a program needs as a file comes as a copy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import io
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from upath import UPath

from pipeline import object_lock
from pipeline.errors import UserError

Folder = Path | UPath

STORES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "fsspec",
}
"""Protocols of object stores, and the package that speaks each."""

S3_PART_BYTES = 16 << 20  # of a multipart upload; twice that goes up in one piece
S3_PARTS_AT_ONCE = 4  # so much is held of a shard that goes up: 64 MiB
WHOLE_BYTES = 8 << 20  # a table up to this size is read in one request
TABLE_STEP_BYTES = 1 << 20  # read ahead in a larger one
STREAM_STEP_BYTES = 16 << 20  # and in a tar


def is_remote(word: str) -> bool:
    """Tell whether a word is an address in an object store."""
    scheme, is_address, _ = word.partition("://")
    return bool(is_address) and scheme in STORES


def folder_of(address: str | Folder, *, flag: str = "DIR") -> Folder:
    """Turn a word into a folder, which need not be there yet; an object store is asked for its bucket.

    Endpoint and credentials are what the store's own package finds in the environment; no address holds them.

    Raises
    ------
    UserError
        If nobody speaks the protocol, or the bucket cannot be reached; ``flag`` is what named the address.
    """
    if not isinstance(address, str):
        return address
    scheme, is_address, place = address.partition("://")
    if not is_address:
        return Path(address)
    bucket = place.split("/")[0]
    if scheme not in STORES or not place.strip("/"):
        raise UserError(f"{flag} {address} is no folder; give one of this machine, or s3://bucket/folder")
    if ":" in bucket or (scheme in ("s3", "s3a") and "@" in bucket):
        told = "credentials would be written down; put them into the environment (AWS_ACCESS_KEY_ID, ...)"
        raise UserError(f"{flag} {scheme}://...: {told}")
    try:
        importlib.import_module(STORES[scheme])
    except ImportError as error:
        extra = ": pip install 'music-video-emotion[s3]'" if STORES[scheme] == "s3fs" else ""
        raise UserError(
            f"{flag} {address} needs the package {STORES[scheme]}, which is not installed{extra}"
        ) from error
    # Other processes write there too: what was listed a while ago is not believed.
    folder = UPath(address.rstrip("/"), use_listings_cache=False)
    try:
        found = folder.fs.exists(folder.path) or scheme == "memory" or folder.fs.exists(bucket)
    except Exception as error:  # each store's package has its own
        raise UserError(f"{flag} {address} cannot be reached: {_in_a_line(error)}") from error
    if not found:
        raise UserError(
            f"{flag} {address}: there is no bucket {bucket}, or you may not see it; make it, or name another"
        )
    return folder


def absolute(folder: Folder) -> Folder:
    """The same folder or file, wherever the reader stands."""
    return folder.absolute() if isinstance(folder, Path) else folder


def name_of(folder: Folder) -> str:
    """Last word of a folder's address."""
    return folder.resolve().name if isinstance(folder, Path) else folder.path.rsplit("/", 1)[-1]


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
    """Paths of all files in a folder and its folders, relative to it; links to folders are not followed."""
    if isinstance(folder, Path):
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    root = PurePosixPath(folder.path)
    try:
        return [PurePosixPath(path).relative_to(root).as_posix() for path in folder.fs.find(folder.path)]
    except FileNotFoundError:
        return []


def opened(file: Folder) -> BufferedReader:
    """Open a file to be read from its beginning on."""
    if isinstance(file, Path):
        return file.open("rb")
    return _stream(file, STREAM_STEP_BYTES)


def readable(file: Folder) -> Path | BinaryIO:
    """What a reader of tables takes: a path, or a handle, which reads a small file in one piece."""
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
    if target.protocol in ("s3", "s3a"):
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
    if remote:  # all of one store
        fs, paths = remote[0].fs, [file.path for file in remote]
        try:
            fs.rm(paths)  # a thousand at a time, where the store can do that
        except FileNotFoundError:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    fs.rm_file(path)


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


# --- one writer --------------------------------------------------------------------------------------------------


@contextmanager
def single_writer(folder: Folder, *, doing: str, flag: str) -> Iterator[None]:
    """Hold the folder's lock; the lock goes with the process, however it ends.

    In a store that is an object, and goes some minutes after a process that was killed on another machine.

    Raises
    ------
    UserError
        If another process holds it, or the folder cannot be made; ``flag`` is what names another folder.
    """
    if not isinstance(folder, Path):
        with object_lock.held(folder / "lock", doing=doing, flag=flag):
            yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; mend that, or choose another {flag}") from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is {doing}; wait for it, or choose another {flag}") from error
        yield


@contextmanager
def no_writer(folder: Folder) -> Iterator[None]:
    """Keep writers out of a folder while it is read, if it has a lock; nothing is written.

    In a store it is only looked whether there is a writer.

    Raises
    ------
    UserError
        If a writer holds it.
    """
    if not isinstance(folder, Path):
        if object_lock.is_held(folder / "lock"):
            raise UserError(f"another process is writing {folder.parent}; wait for it")
        yield
        return
    try:
        lock = (folder / "lock").open()
    except OSError:  # a copy, or a set that nobody can write
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing {folder.parent}; wait for it") from error
        yield
