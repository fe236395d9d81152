"""The order of samples: a pure function of (seed, epoch, reader) over what the index says, known before a tar is read.

A *reader* is one worker process of one rank. Resuming replays this order and drops what was delivered already; no
queue and no buffer is ever saved.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """A sample: its shard's number and its position in that tar."""

    shard: int
    position: int


def reading_order(
    shards: Sequence[Sequence[int]], *, seed: int, epoch: int, reader: int, num_readers: int, shuffle: bool
) -> list[Row]:
    """Return the rows that one reader reads, shard after shard, each in tar order.

    Whole shards are dealt out in rounds of ``num_readers``; the few that are left over, all of them where there are
    fewer shards than readers, are split row by row. Over all readers every row comes exactly once.

    Parameters
    ----------
    shards
        Positions wanted of each shard, in tar order.
    """
    numbers = list(range(len(shards)))
    if shuffle:
        numbers = np.random.default_rng([seed, epoch]).permutation(len(shards)).tolist()
    dealt = len(numbers) - len(numbers) % num_readers
    whole = [Row(n, position) for n in numbers[reader:dealt:num_readers] for position in shards[n]]
    return whole + [Row(n, position) for n in numbers[dealt:] for position in shards[n][reader::num_readers]]


def delivery_order(rows: Sequence[Row], *, buffer: int, seed: int, epoch: int, reader: int) -> list[Row]:
    """Return the rows as a shuffle buffer of that many samples delivers them; a buffer of 1 changes nothing.

    Each row read takes the place of a random one in the full buffer, which is delivered; what stays at the end is
    delivered in random order. So at most ``buffer`` samples are in memory at once, however large a shard is.
    """
    rng = np.random.default_rng([seed, epoch, reader])
    held, delivered = list(rows[:buffer]), []
    for row, place in zip(rows[buffer:], rng.integers(buffer, size=max(0, len(rows) - buffer)), strict=True):
        delivered.append(held[place])
        held[place] = row
    return delivered + [held[i] for i in rng.permutation(len(held))]


def turns(num_batches: Sequence[int], done: int) -> list[tuple[int, int]]:
    """Return whose turn it is after ``done`` batches were taken from the workers in rotation.

    Parameters
    ----------
    num_batches
        Batches that each worker has in all; one that has none left is passed over.

    Returns
    -------
    list of (worker, batches it delivered already)
        The next to deliver first; those with nothing left last.
    """
    waiting = deque(worker for worker, count in enumerate(num_batches) if count)
    delivered = [0] * len(num_batches)
    for _ in range(min(done, sum(num_batches))):
        worker = waiting.popleft()
        delivered[worker] += 1
        if delivered[worker] < num_batches[worker]:
            waiting.append(worker)
    finished = [worker for worker in range(len(num_batches)) if worker not in waiting]
    return [(worker, delivered[worker]) for worker in (*waiting, *finished)]
