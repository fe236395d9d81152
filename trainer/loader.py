"""Batches by epoch, round and step: as many on every rank, from any place on. ``trainer.readers`` makes them."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trainer.losses import Losses
from trainer.order import Order
from trainer.ranks import ALONE, Ranks
from trainer.readers import Batch, Readers, blank
from trainer.shards import Shard, ShardSet


class Place(NamedTuple):
    """Where in the data a batch begins."""

    epoch: int
    batch: int
    """Of this rank, within the epoch."""


class Portion(NamedTuple):
    """What one optimiser step is made of."""

    epoch: int
    """The epoch that its batches are of."""
    next: Place
    """Where the next portion begins."""
    batches: list[Batch]
    weights: list[float]
    """What the mean loss of each batch counts in the step's: its share of the samples."""

    @property
    def ends_epoch(self) -> bool:
        """Whether the epoch ends with it."""
        return self.next.batch == 0


class Loader:
    """Batches of some shards, epoch by epoch, from any place on.

    Every sample comes exactly once an epoch, unless classes are balanced; a reader's last batch may be short.

    Parameters
    ----------
    members
        Arrays wanted.
    ranks
        Those that read the other shares of the samples, as ``order`` counts them.
    losses
        Told of samples that cannot be read, if they may be; else such a sample ends everything.
    keep_workers
        Let worker processes live from epoch to epoch. Then only one iteration may be under way at a time.
    verify
        Compare each shard's hash with its record, the first time it is read. A loader that shall do so once in a run
        must live as long; one of which a few batches alone are taken need not, as it would never come to an end.
    """

    def __init__(
        self,
        data: ShardSet,
        shards: Sequence[Shard],
        *,
        members: Sequence[str],
        order: Order,
        ranks: Ranks = ALONE,
        losses: Losses | None = None,
        keep_workers: bool = False,
        verify: bool = True,
    ) -> None:
        self.shards, self.order, self.ranks, self.members, self.losses = shards, order, ranks, members, losses
        skip = losses is not None and losses.skip
        self._readers = Readers(data, shards, members=members, order=order, skip=skip, keep=keep_workers, verify=verify)

    def num_batches(self, epoch: int) -> int:
        """Batches in an epoch of the rank that has the most."""
        return max(sum(self.order.num_batches(self.shards, epoch, rank)) for rank in range(self.order.num_ranks))

    def num_steps(self, epoch: int, *, accumulate: int = 1) -> int:
        """Portions of so many batches in an epoch; the last may be short."""
        return -(-self.num_batches(epoch) // accumulate)

    def batches(self, epoch: int = 0, *, skip: int = 0) -> Iterator[Batch]:
        """Return this rank's batches of an epoch, the first ``skip`` left out without being read.

        Raises
        ------
        UserError
            If a shard is damaged or is not what its record says.
        """
        return self._readers.batches(epoch, skip=skip)

    def rounds(self, epoch: int = 0, *, done: int = 0, size: int = 1) -> Iterator[tuple[list[Batch], list[list[int]]]]:
        """Yield up to ``size`` batches a time, as often on every rank, and how large every rank's are.

        A rank whose batches have come to an end has an empty list. Samples that cannot be read leave their batch
        smaller, and it is left out if none stays; if that may not be, what one rank cannot read ends all.
        """
        batches = self.batches(epoch, skip=done)
        for _ in range(done, self.num_batches(epoch), size):
            with self.ranks.together():
                taken = list(itertools.islice(batches, size))
            whole = [batch for batch in taken if batch["keys"]]
            found = [damage for batch in taken for damage in batch["damaged"]]
            told = self.ranks.gather(([len(batch["keys"]) for batch in whole], found))
            if self.losses is not None:
                self.losses.tell(itertools.chain(*(found for _, found in told)))
            yield whole, [sizes for sizes, _ in told]
        with self.ranks.together():
            for _ in batches:  # nothing is left but the last shard's hash
                pass

    def shared(self, *, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of the samples; with a limit, so many batches over all ranks, as many on each.

        Then a round in which a rank has no sample is left out on all: what was to be in its batch cannot be read. The
        next ones are taken in its place.
        """
        rounds = self.rounds()
        if limit is not None:
            ranks = range(self.order.num_ranks)
            shortest = min(sum(self.order.num_batches(self.shards, 0, rank)) for rank in ranks)
            full = ((taken, sizes) for taken, sizes in itertools.islice(rounds, shortest) if all(sizes))
            rounds = itertools.islice(full, -(-limit // len(ranks)))
        for taken, _ in rounds:
            yield from taken

    def once(self) -> Iterator[Portion]:
        """Yield one epoch, a batch a portion."""
        return self.portions(Place(0, 0), num_steps=self.num_steps(0))

    def portions(self, start: Place, *, num_steps: int, accumulate: int = 1) -> Iterator[Portion]:
        """Yield so many portions of ``accumulate`` batches, over as many epochs as that takes, as many on every rank.

        A rank that has fewer batches than another fills up with one that counts nothing. A portion without a sample
        on any rank has no batches.
        """
        left = num_steps
        epoch, done = start
        filler = blank(self.members)
        while left > 0:
            length = self.num_batches(epoch)
            rounds = self.rounds(epoch, done=done, size=accumulate)
            for taken, sizes in itertools.islice(rounds, left):
                left, done = left - 1, min(done + accumulate, length)
                total = sum(map(sum, sizes)) / self.order.num_ranks
                weights = [len(batch["keys"]) / total for batch in taken]
                filler = taken[-1] | {"filler": True} if taken else filler
                missing = max(map(len, sizes)) - len(taken)
                place = Place(epoch, done) if done < length else Place(epoch + 1, 0)
                yield Portion(epoch, place, taken + [filler] * missing, weights + [0.0] * missing)
            if done == length:
                next(rounds, None)  # to the end of the last shard, where its hash is compared
            epoch, done = epoch + 1, 0
