"""The files of an embedded set, written a row at a time and read back.

embeddings.npy        float32 (N, D), under the head
embeddings.parquet    a row a sample, in the same order: who it is, what the run says of it, where it is on the map
map.html              ``trainer.page.mapping``
embed.json            which run made them of which samples, and how
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import UserError, one_line, storage_errors
from trainer.files import require_own, says
from trainer.shards import Shard, ShardSet, read_record, record_of

FILES = ("embeddings.npy", "embeddings.parquet", "map.html", "embed.json")
DESCRIBED = ("key", "split", "label", "source_group", "source_id", "link", "title", "start_s")
"""What the index says of a sample, and ``embeddings.parquet`` repeats."""
PROBABILITY, SCORE = "probability_", "score_"
"""What the columns of each emotion begin with: softmax's probability, and the calibrated score."""
MEND = "embed the set anew: python -m trainer.embed"


def require_ours(out: Path) -> None:
    """Refuse a folder where files of these names are of others.

    Raises
    ------
    UserError
        Naming the first.
    """
    require_own(
        out,
        FILES,
        mark=lambda folder: says(folder / "embed.json", "weights", "samples", "embedded"),
        by="an earlier trainer.embed",
    )


def described(data: ShardSet, shards: Sequence[Shard]) -> pa.Table:
    """Return ``DESCRIBED`` of every sample used, in tar order, from the shards' commit records.

    Raises
    ------
    UserError
        If a record cannot be read.
    """
    tables = []
    for shard in shards:
        path = record_of(shard.path)
        try:
            table = read_record(data.fs.cat_file(path), DESCRIBED).take(list(shard.rows))
        except storage_errors(pa.ArrowException) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from None
        groups = pa.array([shard.groups[row] for row in shard.rows], pa.string())
        tables.append(table.set_column(table.schema.get_field_index("source_group"), "source_group", groups))
    return pa.concat_tables(tables).replace_schema_metadata(None)


class VectorFile:
    """A float32 ``.npy`` of (N, D) that is written a row at a time, in any order, without holding it in memory.

    Not by mapping it: a full disk would kill the process in mid-write, where here it is an ``OSError``.
    """

    def __init__(self, descriptor: int, *, num_rows: int, width: int) -> None:
        header = io.BytesIO()
        shape = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, width)}
        np.lib.format.write_array_header_1_0(header, shape)
        self._descriptor, self._start, self._row_bytes = descriptor, len(header.getvalue()), 4 * width
        self._put(header.getvalue(), 0)

    def write(self, row: int, vector_D: np.ndarray) -> None:
        """Write one row."""
        self._put(np.asarray(vector_D, "<f4").tobytes(), self._start + row * self._row_bytes)

    def _put(self, data: bytes, at: int) -> None:
        while data:  # the system may take less than it is given
            done = os.pwrite(self._descriptor, data, at)
            data, at = data[done:], at + done


@contextmanager
def vector_file(path: Path, *, num_rows: int, width: int) -> Iterator[VectorFile]:
    """Open a new ``.npy`` to write rows to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        yield VectorFile(descriptor, num_rows=num_rows, width=width)
    finally:
        os.close(descriptor)


def with_said(table: pa.Table, labels: Sequence[str], probabilities_NK: np.ndarray, scores_NK: np.ndarray) -> pa.Table:
    """Add the columns of each emotion."""
    for start, values_NK in ((PROBABILITY, probabilities_NK), (SCORE, scores_NK)):
        for label, values_N in zip(labels, values_NK.T, strict=True):
            table = table.append_column(start + label, pa.array(values_N))
    return table


def with_places(table: pa.Table, rows: np.ndarray, places_N2: np.ndarray) -> pa.Table:
    """Add x and y of the map, null for samples that are not on it."""
    for axis, name in enumerate("xy"):
        values = np.full(table.num_rows, np.nan, np.float32)
        values[rows] = places_N2[:, axis]
        table = table.append_column(name, pa.array(values, from_pandas=True))  # NaN to null
    return table


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """An embedded set."""

    folder: Path
    about: dict[str, Any]
    """``embed.json``."""
    vectors_ND: np.ndarray
    """float32, mapped from disk."""
    table: pa.Table

    @property
    def labels(self) -> list[str] | None:
        """Emotions of the run; None if it was pretrained alone."""
        labels: list[str] | None = self.about["labels"]
        return labels

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of every sample, float64 (N, classes).

        Raises
        ------
        UserError
            If the run tells no emotions.
        """
        if self.labels is None:
            raise UserError(
                f"{self.folder} was made by a pretrained run, {self.about['run']}, which tells no emotions: ask by "
                "content, or embed the set with a fine-tuned run"
            )
        return np.stack([self.table[PROBABILITY + label].to_numpy() for label in self.labels], axis=1)


def open_embeddings(folder: Path) -> Embeddings:
    """Open what ``trainer.embed`` wrote.

    Raises
    ------
    UserError
        If it is not there, or its files do not belong together.
    """
    if not (folder / "embed.json").is_file():
        raise UserError(f"--embeddings {folder}: no embed.json there; {MEND}")
    try:
        about = json.loads((folder / "embed.json").read_text(encoding="utf-8"))
        vectors_ND = np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
        table = pq.read_table(folder / "embeddings.parquet")
        wanted = {*DESCRIBED, *(PROBABILITY + label for label in about["labels"] or ())}
        if (vectors_ND.shape, vectors_ND.dtype) != ((about["n"], about["dimensions"]), np.dtype("<f4")):
            raise ValueError(f"embeddings.npy is {vectors_ND.dtype} {vectors_ND.shape}")
        if table.num_rows != about["n"] or not wanted <= set(table.column_names):
            raise ValueError("embeddings.parquet has other rows or columns")
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"--embeddings {folder} cannot be read ({one_line(error)}); {MEND}") from None
    return Embeddings(folder=folder, about=about, vectors_ND=vectors_ND, table=table)
