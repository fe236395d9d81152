"""The order of samples: a pure function of (seed, epoch, reader) over what the index says, known before a tar is read.

A *reader* is one worker process of one rank. Resuming replays this order and drops what was delivered already; no
queue and no buffer is ever saved.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trainer.sampling import balanced_rounds
from trainer.shards import Shard


class Row(NamedTuple):
    """A sample: its shard's number and its position in that tar."""

    shard: int
    position: int
    turn: int = 0
    """Which time round the set it is read, where an epoch takes several."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What decides which sample comes when; two equal ones over equal shards give equal batches."""

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    shuffle_buffer: int = 64
    """Samples a reader holds; about 4.3 MB each for the slow-fast network."""
    balanced: bool = False
    """Repeat samples of smaller classes: ``trainer.sampling``."""
    workers: int = 0
    """Reader processes of a rank; 0 reads in the main process."""
    rank: int = 0
    num_ranks: int = 1

    @property
    def readers_a_rank(self) -> int:
        """Streams that this rank's batches come from."""
        return max(1, self.workers)

    def rows(self, shards: Sequence[Shard], epoch: int, reader: int) -> list[Row]:
        """Rows of one reader, as it reads them."""
        orders = (
            reading_order(positions, reader=reader, turn=turn, **self._dealing(epoch))
            for turn, positions in enumerate(self._turns(shards, epoch))
        )
        return list(itertools.chain.from_iterable(orders))

    def _turns(self, shards: Sequence[Shard], epoch: int) -> Sequence[Sequence[Sequence[int]]]:
        """Positions used of each shard, each time round the set."""
        rows = [shard.rows for shard in shards]
        if not self.balanced:
            return [rows]
        return balanced_rounds([shard.labels for shard in shards], rows, seed=self.seed, epoch=epoch)

    def _dealing(self, epoch: int) -> dict[str, Any]:
        num_readers = self.readers_a_rank * self.num_ranks
        return {"seed": self.seed, "epoch": epoch, "num_readers": num_readers, "shuffle": self.shuffle}

    def deliver(self, rows: Sequence[Row], epoch: int, reader: int) -> list[Row]:
        """Return the same rows as they leave the reader."""
        buffer = self.shuffle_buffer if self.shuffle else 1
        return delivery_order(rows, buffer=buffer, seed=self.seed, epoch=epoch, reader=reader)

    def num_batches(self, shards: Sequence[Shard], epoch: int, rank: int) -> list[int]:
        """Batches that each of a rank's readers has in an epoch; the last of each may be short."""
        sizes = [[len(rows) for rows in positions] for positions in self._turns(shards, epoch)]
        counts = []
        for reader in range(rank * self.readers_a_rank, (rank + 1) * self.readers_a_rank):
            dealing = self._dealing(epoch)
            rows = sum(num_rows(of_shards, reader=reader, turn=turn, **dealing) for turn, of_shards in enumerate(sizes))
            counts.append(-(-rows // self.batch_size))
        return counts


def reading_order(
    shards: Sequence[Sequence[int]],
    *,
    seed: int,
    epoch: int,
    reader: int,
    num_readers: int,
    shuffle: bool,
    turn: int = 0,
) -> list[Row]:
    """Return the rows that one reader reads, shard after shard, each in tar order.

    Whole shards are dealt out in rounds of ``num_readers``; the few that are left over, all of them where there are
    fewer shards than readers, are split row by row. Over all readers every row comes exactly once.

    Parameters
    ----------
    shards
        Positions wanted of each shard, in tar order.
    turn
        Which time round the set this is within the epoch.
    """
    draw = [seed, epoch, turn] if shuffle else None
    whole, split = _deal(len(shards), reader=reader, num_readers=num_readers, draw=draw)
    rows = [Row(n, position, turn) for n in whole for position in shards[n]]
    return rows + [Row(n, position, turn) for n in split for position in shards[n][reader::num_readers]]


def num_rows(
    sizes: Sequence[int], *, seed: int, epoch: int, reader: int, num_readers: int, shuffle: bool, turn: int = 0
) -> int:
    """Return how many rows ``reading_order`` gives for shards of these sizes, without listing them."""
    draw = [seed, epoch, turn] if shuffle else None
    whole, split = _deal(len(sizes), reader=reader, num_readers=num_readers, draw=draw)
    return sum(sizes[n] for n in whole) + sum(len(range(reader, sizes[n], num_readers)) for n in split)


def _deal(num_shards: int, *, reader: int, num_readers: int, draw: list[int] | None) -> tuple[list[int], list[int]]:
    """Return the shards that a reader has to itself, and those that all readers share; shuffled by a seed, if any."""
    numbers = list(range(num_shards))
    if draw is not None:
        numbers = np.random.default_rng(draw).permutation(num_shards).tolist()
    dealt = num_shards - num_shards % num_readers
    return numbers[reader:dealt:num_readers], numbers[dealt:]


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
