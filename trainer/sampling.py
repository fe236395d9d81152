"""Class-balanced epochs: how often each sample comes, decided from the index before a tar is read."""

from collections.abc import Sequence

import numpy as np

STREAM = 1  # tells these draws from those of trainer.order


def balanced_rounds(
    labels: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], *, seed: int, epoch: int
) -> list[list[list[int]]]:
    """Return the rounds of an epoch in which every class comes as often as the largest.

    A sample of a class of n, the largest having N, comes N // n times, and N % n of them, other ones each epoch, once
    more. Its turns are dealt to rounds over the set by chance, at most one in each: so repetitions lie apart, the
    classes are mixed from the first batch to the last, and each shard is read once a round.

    Parameters
    ----------
    labels
        Class index of each position of each shard.
    rows
        Positions used of each shard, in tar order.

    Returns
    -------
    list of list of list of int
        By round, by shard: positions, in tar order.
    """
    rng = np.random.default_rng([seed, epoch, 0, STREAM])
    shards = np.repeat(np.arange(len(rows)), [len(used) for used in rows])
    positions = np.array([position for used in rows for position in used], dtype=np.int64)
    classes = np.array([labels[shard][position] for shard, used in enumerate(rows) for position in used])
    _, inverse, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    times = largest // sizes[inverse]
    for index, size in enumerate(sizes):
        members = np.flatnonzero(inverse == index)
        times[rng.permutation(members)[: largest % size]] += 1
    num_rounds = int(times.max())
    turns = rng.random((len(classes), num_rounds)).argsort(1)  # of each sample, all rounds in random order
    comes = np.zeros((len(classes), num_rounds), dtype=bool)
    np.put_along_axis(comes, turns, np.arange(num_rounds) < times[:, None], axis=1)
    return [
        [positions[comes[:, turn] & (shards == shard)].tolist() for shard in range(len(rows))]
        for turn in range(num_rounds)
    ]
