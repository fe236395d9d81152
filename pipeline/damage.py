"""What reading a damaged set raises, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.locations import Folder
from pipeline.schema import SchemaError

DAMAGE = (
    pa.ArrowException,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    ZeroDivisionError,
)
"""What code that believes a set's files runs into where they hold something else."""


@contextmanager
def reading(folder: Folder) -> Iterator[None]:
    """Tell in one line that a set's tables or ``dataset.json`` cannot be believed; write nothing inside.

    Raises
    ------
    UserError
        If they cannot.
    """
    try:
        yield
    except SchemaError:  # it names the thing and the mend
        raise
    except (*DAMAGE, OSError) as error:
        if not is_damage(error):
            raise
        told = f"a table or dataset.json is damaged ({in_a_line(error)})"
        raise UserError(f"{folder}: {told}; python -m pipeline.verify {folder} tells which") from error


def is_damage(error: Exception) -> bool:
    """Tell a damaged file from a disk or a store that does not answer, and from a table of another version."""
    if isinstance(error, SchemaError):
        return False
    if isinstance(error, OSError):
        return error.errno is None  # pyarrow's own have no number
    return isinstance(error, DAMAGE)


def in_a_line(error: Exception) -> str:
    """Kind of an error and the first line of its words."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"
