"""Work that is sent to another machine, and what is looked at there before it begins: tools and storage.

It is looked at with every piece of work, so that it holds for workers that join later as well.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.locations import Folder
from pipeline.storage import storage_errors
from pipeline.workers import WORKER_ENV, keep_torch_out


@dataclass(frozen=True, kw_only=True)
class RemoteCall:
    """A function and its arguments, with what a worker must have to carry it out."""

    work: bytes
    """Pickled, so that nothing is loaded before the process is made ready for it."""
    versions: dict[str, str]
    """Of this software and of the tools that shape a part: equal bytes need equal ones."""
    must_see: tuple[Folder, ...]
    """Files and folders that all machines share."""
    owns_process: bool
    """Whether the worker's process serves nobody else."""


def wrap(
    function: Callable[..., Any], args: Sequence[Any], *, must_see: Sequence[Folder], owns_process: bool
) -> RemoteCall:
    """Pack work for a worker that is like this process; the function must be one that a module names."""
    return RemoteCall(
        work=pickle.dumps((function, tuple(args))),
        versions=tools(),
        must_see=tuple(must_see),
        owns_process=owns_process,
    )


def execute(call: RemoteCall) -> Any:
    """Do the work, if this worker is like the flow that sent it.

    Raises
    ------
    UserError
        If this software or a tool differs, or what all machines must share is not seen here.
    """
    for name, value in WORKER_ENV.items():
        os.environ.setdefault(name, value)
    if call.owns_process:
        keep_torch_out()
    here = tools()
    if differing := sorted(name for name in here | call.versions if here.get(name) != call.versions.get(name)):
        told = "; ".join(f"{name} {here.get(name)}, here {call.versions.get(name)}" for name in differing)
        raise UserError(f"the worker on {socket.gethostname()} has {told}; the same bytes need the same tools")
    for path in call.must_see:
        told = f"the worker on {socket.gethostname()} does not see {path}; all machines need the same files there"
        try:
            seen = path.exists()
        except storage_errors() as error:
            raise UserError(f"{told} ({error})") from error
        if not seen:
            raise UserError(told)
    function, args = pickle.loads(call.work)
    return function(*args)


@functools.cache
def tools() -> dict[str, str]:
    """What a worker must have as the flow has it: this software, the tools of a sample, and what writes the tables."""
    from pipeline import media  # here, since these load what reads the environment
    from pipeline.prepare import versions

    beside = {"pyarrow": metadata.version("pyarrow"), "ffmpeg for Chromaprint": media.chromaprint_version()}
    return versions() | beside | {"sources of pipeline/": hash_of_sources(Path(__file__).parent)}


def hash_of_sources(folder: Path) -> str:
    """First digits of a hash of a package's modules and tables, by name and content."""
    told = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.csv")]):
        content = path.read_bytes()
        told.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return told.hexdigest()[:12]
