"""Where a folder lies, from what a user wrote: a path of this machine, or an address such as ``s3://bucket/set``."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from upath import UPath

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
}
"""Protocols of object stores, and the package that speaks each."""

S3 = ("s3", "s3a")

MAX_NAME_BYTES = 255  # of a file or folder, on the disks in use


def is_remote(word: str) -> bool:
    """Tell whether a word is an address in an object store."""
    scheme, is_address, _ = word.partition("://")
    return bool(is_address) and scheme.lower() in STORES


def spelled_out(word: str, *, flag: str) -> str:
    """Spell a folder the one way: protocols in small letters, and file:///folder as the path that it is.

    What is no address, or one of the web, is left alone.

    Raises
    ------
    UserError
        If it is nearly an address: it would be taken for a folder of that name.
    """
    scheme, colon, place = word.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in (*STORES, "file"):
        return word
    if scheme == "file":
        path = place.removeprefix("//").removeprefix("localhost")
        if place.startswith("//") and path.startswith("/"):
            return path
        raise UserError(f"{flag} {word} is no address; a folder of this machine is /folder or file:///folder")
    if not place.startswith("//"):
        meant = f"{scheme}://{place.lstrip('/')}"
        raise UserError(f"{flag} {word} is no address; write {meant}, or ./{word} if it is a folder of this machine")
    return f"{scheme}:{place}"


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
    address = spelled_out(address, flag=flag)
    scheme, is_address, place = address.partition("://")
    if not is_address:
        if long := next((name for name in Path(address).parts if len(os.fsencode(name)) > MAX_NAME_BYTES), None):
            raise UserError(
                f"{flag}: the name {long[:20]}... has more than {MAX_NAME_BYTES} bytes; choose a shorter one"
            )
        return Path(address)
    bucket = place.split("/")[0]
    if scheme not in STORES or not bucket:
        raise UserError(f"{flag} {address} is no folder; give one of this machine, or s3://bucket/folder")
    if ":" in bucket or (scheme in S3 and "@" in bucket):
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
        found = folder.fs.exists(folder.path) or folder.fs.exists(bucket)
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
    return folder.resolve().name if isinstance(folder, Path) else folder.path.rstrip("/").rsplit("/", 1)[-1]


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
