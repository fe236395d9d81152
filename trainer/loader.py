"""Shards to batches: one stream a reader, in the order of ``trainer.order``, resumed without reading what is done.

A batch is a dict: ``keys`` (list of str), ``label`` (int64 (B,), absent where there are none) and the members wanted,
still small: ``frames`` uint8 ``video_BTHWC``, ``mel_…`` float16 ``mel_BCMT``. ``trainer.inputs`` makes them large.
"""

import itertools
import signal
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainer.errors import UserError
from trainer.order import Row, delivery_order, reading_order, turns
from trainer.shards import Sample, Shard, ShardSet, num_samples
from trainer.tars import read

Batch = dict[str, Any]

LOCAL_PROTOCOLS = {"file", "local"}


class Place(NamedTuple):
    """Where in the data a batch begins."""

    epoch: int
    batch: int
    """Of this rank, within the epoch."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What decides which sample comes when; two equal ones over equal shards give equal batches."""

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    shuffle_buffer: int = 64
    """Samples a reader holds; about 4.3 MB each for the slow-fast network."""
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
        return reading_order(
            [shard.rows for shard in shards],
            seed=self.seed,
            epoch=epoch,
            reader=reader,
            num_readers=self.readers_a_rank * self.num_ranks,
            shuffle=self.shuffle,
        )

    def deliver(self, rows: Sequence[Row], epoch: int, reader: int) -> list[Row]:
        """Return the same rows as they leave the reader."""
        buffer = self.shuffle_buffer if self.shuffle else 1
        return delivery_order(rows, buffer=buffer, seed=self.seed, epoch=epoch, reader=reader)

    def num_batches(self, shards: Sequence[Shard], epoch: int, rank: int) -> list[int]:
        """Batches that each of a rank's readers has in an epoch; the last of each may be short."""
        readers = range(rank * self.readers_a_rank, (rank + 1) * self.readers_a_rank)
        return [-(-len(self.rows(shards, epoch, reader)) // self.batch_size) for reader in readers]


class _Stream(IterableDataset[Batch | UserError]):
    """One reader's batches of one epoch. An error travels as a value: as an exception it would bring a traceback."""

    def __init__(self, data: ShardSet, shards: Sequence[Shard], members: Sequence[str], order: Order) -> None:
        self.data, self.shards, self.members, self.order = data, shards, members, order
        self.start = torch.zeros(2, dtype=torch.int64)  # epoch and batch, shared: told to living workers
        self.start.share_memory_()  # type: ignore[no-untyped-call]
        self.verified: set[int] = set()  # shards whose hash this process has compared

    def __iter__(self) -> Iterator[Batch | UserError]:
        epoch, done = self.start.tolist()
        worker = get_worker_info()
        counts = self.order.num_batches(self.shards, epoch, self.order.rank)
        # DataLoader starts with worker 0 again; so worker 0 becomes the reader whose turn it is.
        local, delivered = turns(counts, done)[worker.id if worker else 0]
        reader = self.order.rank * self.order.readers_a_rank + local
        rows = self.order.rows(self.shards, epoch, reader)
        wanted = self.order.deliver(rows, epoch, reader)[delivered * self.order.batch_size :]
        try:
            with closing(self._samples(rows, wanted)) as samples:
                while taken := list(itertools.islice(samples, self.order.batch_size)):
                    yield collate(taken)
        except UserError as error:
            yield error

    def _samples(self, rows: Sequence[Row], wanted: Sequence[Row]) -> Generator[Sample, None, None]:
        """Read ahead, in tar order, only as far as the next sample wanted: what is held is the shuffle buffer."""
        held: dict[Row, Sample] = {}
        with closing(self._read(rows, set(wanted))) as stream:
            for row in wanted:
                while row not in held:
                    position, sample = next(stream)
                    held[position] = sample
                yield held.pop(row)
            for _ in stream:  # nothing is left but the last shard's hash
                pass

    def _read(self, rows: Sequence[Row], wanted: Collection[Row]) -> Generator[tuple[Row, Sample], None, None]:
        for number, group in itertools.groupby(rows, key=lambda row: row.shard):
            positions = [row.position for row in group if row in wanted]
            if positions:
                verify = number not in self.verified
                for position, sample in read(self.data.fs, self.shards[number], positions, self.members, verify=verify):
                    yield Row(number, position), sample
                self.verified.add(number)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples."""
    batch: Batch = {"keys": [sample.key for sample in samples]}
    labels = [sample.label for sample in samples if sample.label is not None]
    if labels:
        batch["label"] = torch.tensor(labels)
    for name in samples[0].arrays:
        batch[name] = torch.from_numpy(np.stack([sample.arrays[name] for sample in samples]))
    return batch


class Loader:
    """Batches of some shards, epoch by epoch, from any place on.

    Every sample comes exactly once an epoch; a reader's last batch may be short. With several ranks a shuffled epoch
    ends with the rank that has the fewest batches, so that no rank waits for another in vain.

    Parameters
    ----------
    members
        Arrays wanted.
    keep_workers
        Let worker processes live from epoch to epoch. Then only one iteration may be under way at a time.
    """

    def __init__(
        self,
        data: ShardSet,
        shards: Sequence[Shard],
        *,
        members: Sequence[str],
        order: Order,
        keep_workers: bool = False,
    ) -> None:
        self.shards, self.order = shards, order
        self._stream = _Stream(data, shards, members, order)
        protocol = data.fs.protocol
        local = not LOCAL_PROTOCOLS.isdisjoint([protocol] if isinstance(protocol, str) else protocol)
        self._loader: DataLoader[Batch | UserError] = DataLoader(
            self._stream,
            batch_size=None,  # the readers make whole batches
            num_workers=order.workers,
            persistent_workers=keep_workers and order.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_interrupts if order.workers else None,
            # An async file system (s3fs) must not be forked after use.
            multiprocessing_context=("fork" if local else "spawn") if order.workers else None,
        )

    def num_batches(self, epoch: int) -> int:
        """Batches of this rank in an epoch."""
        ranks = range(self.order.num_ranks) if self.order.shuffle else [self.order.rank]
        return min(sum(self.order.num_batches(self.shards, epoch, rank)) for rank in ranks)

    def batches(self, epoch: int = 0, *, skip: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches, the first ``skip`` left out without being read.

        Raises
        ------
        UserError
            If a shard is damaged or is not what its record says.
        """
        self._stream.start.copy_(torch.tensor([epoch, skip]))
        # To the very end where no rank waits for another: there the last shard's hash is compared.
        together = self.order.shuffle and self.order.num_ranks > 1
        for batch in itertools.islice(self._loader, self.num_batches(epoch) - skip if together else None):
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def stream(self, start: Place, *, num_batches: int) -> Iterator[tuple[Place, Batch]]:
        """Yield so many batches over as many epochs as that takes, each with the place where the next one begins."""
        left = num_batches
        epoch, done = start
        while left > 0:
            length = self.num_batches(epoch)
            if not length:
                raise UserError(f"{num_samples(self.shards)} samples are too few for {self.order.num_ranks} ranks")
            for batch in itertools.islice(self.batches(epoch, skip=done), left):
                done, left = done + 1, left - 1
                yield (Place(epoch, done) if done < length else Place(epoch + 1, 0)), batch
            epoch, done = epoch + 1, 0


def _ignore_interrupts(worker: int) -> None:
    """Let the main process alone answer Ctrl-C, which reaches the whole group: it still wants its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
