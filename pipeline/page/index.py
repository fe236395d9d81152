"""An index read by columns: never all rows as dicts, never all pictures at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.locations import Folder
from pipeline.schema import INDEX
from pipeline.storage import open_table

Row = dict[str, Any]

BATCH_ROWS = 512  # about 3 MB of thumbnails
BUFFER_BYTES = 1 << 20  # read ahead, in place of a whole column


class Index:
    """The ``index.parquet`` of a data set. A column that an older set lacks is one without values.

    Whatever cannot be read of it raises ``UserError``.
    """

    def __init__(self, file: Folder) -> None:
        """Open an index.

        Raises
        ------
        UserError
            If it is none.
        """
        self._path = file
        try:
            self._file = open_table(file, buffer_size=BUFFER_BYTES)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{file} cannot be read as an index; name the folder of a data set, or build it") from error
        self.columns: frozenset[str] = frozenset(self._file.schema_arrow.names)
        if missing := {"status", "source_id"} - self.columns:
            raise UserError(f"{file} is no index of a data set: it has no column {', '.join(sorted(missing))}")
        self.num_rows: int = self._file.metadata.num_rows
        self.status = self.text("status")
        self.kept: np.ndarray = self.status == "kept"

    def column(self, name: str) -> pa.ChunkedArray:
        """One column whole."""
        if name in self.columns:
            with self._whole():
                return self._file.read(columns=[name], use_threads=False).column(0)
        known = INDEX.field(name).type if name in INDEX.names else pa.null()
        return pa.chunked_array([pa.nulls(self.num_rows, known)])

    def text(self, name: str) -> np.ndarray:
        """A column of few different words: object (rows,), None where there is none."""
        words: np.ndarray = self.column(name).dictionary_encode().combine_chunks().to_numpy(zero_copy_only=False)
        return words

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers: float64 (rows,), NaN where there is none."""
        column = self.column(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            return np.full(self.num_rows, np.nan)
        numbers: np.ndarray = column.cast(pa.float64()).to_numpy()
        return numbers

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column of lists, flat: the row of each item, and the item."""
        column = self.column(name)
        if not pa.types.is_list(column.type):
            return np.empty(0, np.int64), np.empty(0, object)
        whole = column.combine_chunks()
        parents: np.ndarray = pc.list_parent_indices(whole).to_numpy()
        items: np.ndarray = pc.list_flatten(whole).to_numpy(zero_copy_only=False)
        return parents, items

    def has_value(self, name: str) -> np.ndarray:
        """Tell which rows have something in a column that is too large to be read whole: bool (rows,)."""
        if name not in self.columns:
            return np.zeros(self.num_rows, bool)
        found = [batch.column(0).is_valid().to_numpy(zero_copy_only=False) for batch in self._batches([name])]
        return np.concatenate([np.zeros(0, bool), *found])

    def rows(self, positions: Sequence[int] | np.ndarray, columns: Sequence[str]) -> dict[int, Row]:
        """A few rows by their positions."""
        wanted = np.unique(np.asarray(positions, dtype=np.int64))
        present = [name for name in columns if name in self.columns]
        absent = dict.fromkeys(columns)
        found: dict[int, Row] = {}
        first = 0
        for batch in self._batches(present) if len(wanted) else ():
            here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
            for position, row in zip(here.tolist(), batch.take(pa.array(here - first)).to_pylist(), strict=True):
                found[position] = absent | row
            first += batch.num_rows
        return found

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._whole():
            yield from self._file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns), use_threads=False)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            told = str(error).splitlines()[0]
            raise UserError(f"{self._path} is damaged ({told}); build the set again") from error


def tally(values: pa.ChunkedArray | np.ndarray, chosen: np.ndarray | None = None) -> dict[str | None, int]:
    """Count the values of a column, the most frequent first, equal ones by name; those without a value last."""
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values, pa.string())])
    if chosen is not None:
        column = column.filter(pa.array(chosen))
    counts = {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}
    names = sorted(counts, key=lambda name: (name is None, -counts[name], str(name)))
    return {name: counts[name] for name in names}
