"""Work that is sent to another machine, and what is looked at there before it begins: tools and storage.

It is looked at with every piece of work, so that it holds for workers that join later as well.
"""

from __future__ import annotations

import functools
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.storage import Folder, storage_errors
from pipeline.workers import WORKER_ENV, keep_torch_out


@dataclass(frozen=True, kw_only=True)
class Errand:
    """A function and its arguments, with what a worker must have to carry it out."""

    work: bytes
    """Pickled, so that nothing is loaded before the process is made ready for it."""
    versions: dict[str, str]
    """Of the tools that shape a sample: equal bytes need equal ones."""
    must_see: tuple[Folder, ...]
    """Files and folders that all machines share."""
    owns_process: bool
    """Whether the worker's process serves nobody else."""


def errand(
    function: Callable[..., Any], args: Sequence[Any], *, must_see: Sequence[Folder], owns_process: bool
) -> Errand:
    """Pack work for a worker that is like this process; the function must be one that a module names."""
    return Errand(
        work=pickle.dumps((function, tuple(args))),
        versions=_versions(),
        must_see=tuple(must_see),
        owns_process=owns_process,
    )


def carry_out(errand: Errand) -> Any:
    """Do the work, if this worker is like the flow that sent it.

    Raises
    ------
    UserError
        If a tool's version differs, or what all machines must share is not seen here.
    """
    for name, value in WORKER_ENV.items():
        os.environ.setdefault(name, value)
    if errand.owns_process:
        keep_torch_out()
    here = _versions()
    if differing := sorted(name for name in here | errand.versions if here.get(name) != errand.versions.get(name)):
        told = "; ".join(f"{name} {here.get(name)}, here {errand.versions.get(name)}" for name in differing)
        raise UserError(f"the worker on {socket.gethostname()} has {told}; the same bytes need the same tools")
    for path in errand.must_see:
        told = f"the worker on {socket.gethostname()} does not see {path}; all machines need the same files there"
        try:
            seen = path.exists()
        except storage_errors() as error:
            raise UserError(f"{told} ({error})") from error
        if not seen:
            raise UserError(told)
    function, args = pickle.loads(errand.work)
    return function(*args)


@functools.cache
def _versions() -> dict[str, str]:
    from pipeline.prepare import versions  # here, since it loads what reads the environment

    return versions()
