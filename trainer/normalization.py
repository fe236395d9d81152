"""Mean and standard deviation of some of a set's samples, from its records: no tar is opened."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from trainer.errors import UserError, one_line, storage_errors
from trainer.shards import MEMBERS, Shard, ShardSet, read_record, record_of

COLUMNS = [f"{moment}_{name}" for name in MEMBERS for moment in ("mean", "meansq")]


def normalization_of(data: ShardSet, shards: Sequence[Shard]) -> dict[str, dict[str, list[float]]]:
    """Sum up the moments that the commit records hold of each sample.

    Every sample has as many values a channel, so the mean of the samples' means is that of all values, and so for the
    squares.

    Parameters
    ----------
    shards
        Whose used rows count.

    Returns
    -------
    dict
        ``{member: {"mean": [...], "std": [...]}}`` by channel, as in ``dataset.json``, of the set's members.

    Raises
    ------
    UserError
        If the records hold no moments.
    """
    sums: dict[str, list[np.ndarray]] = {}
    for shard in shards:
        path = record_of(shard.path)
        try:
            table = read_record(data.fs.cat_file(path), COLUMNS)
            table = table.take(pa.array(shard.rows, pa.int64()))
            for name in MEMBERS:
                rows = [table[f"{moment}_{name}"].to_pylist() for moment in ("mean", "meansq")]
                if all(row for moment in rows for row in moment):
                    sums.setdefault(name, []).append(np.array(rows, np.float64))
        except storage_errors(pa.ArrowException, KeyError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    wanted = sum(len(shard.rows) for shard in shards)
    moments = {name: np.concatenate(parts, axis=1) for name, parts in sums.items()}
    if not moments or any(both.shape[1] != wanted for both in moments.values()):
        raise UserError(f"the records of {data.address} lack means of some samples; build the set again")
    normalization = {}
    for name, both in moments.items():
        mean, square = both.mean(axis=1)
        normalization[name] = {"mean": mean.tolist(), "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist()}
    return normalization
