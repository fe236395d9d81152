"""Shards to batches: one stream a reader, in the order of ``trainer.order``, resumed without reading what is done.

A batch is a dict: ``epoch`` (int), ``keys`` (list of str), ``damaged`` (what was to be in it and cannot be read),
``group`` (int64 (B,), a number that stands for the source group), ``label`` (int64 (B,), absent where there are none)
and the members wanted, still small: ``frames`` uint8 ``video_BTHWC``, ``mel_…`` float16 ``mel_BCMT``.
``trainer.inputs`` makes them large. One that is to count nothing has ``filler`` (True), and one that is trained on
``place`` (int): which of its step's batches it is.
"""

import ctypes
import itertools
import os
import signal
import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainer.errors import UserError
from trainer.order import Order, Row, turns
from trainer.shards import MEMBERS, Sample, Shard, ShardSet, group_number
from trainer.tars import Damage, read

Batch = dict[str, Any]

LOCAL_PROTOCOLS = {"file", "local"}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 512 << 20  # at most, of what is free


class Readers:
    """The processes that read one rank's batches; with no workers, this one.

    Parameters
    ----------
    members
        Arrays wanted.
    skip
        Hand out damage in place of a sample that cannot be read.
    keep
        Let worker processes live from epoch to epoch. Then only one iteration may be under way at a time.
    verify
        Compare each shard's hash with its record, the first time it is read.
    """

    def __init__(
        self,
        data: ShardSet,
        shards: Sequence[Shard],
        *,
        members: Sequence[str],
        order: Order,
        skip: bool,
        keep: bool,
        verify: bool,
    ) -> None:
        if not order.workers:
            _keep_memory()
        self._stream = _Stream(data, shards, members, order, skip, verify)
        protocol = data.fs.protocol
        local = not LOCAL_PROTOCOLS.isdisjoint([protocol] if isinstance(protocol, str) else protocol)
        self._batches: DataLoader[Batch | UserError] = DataLoader(
            self._stream,
            batch_size=None,  # the readers make whole batches
            num_workers=order.workers,
            persistent_workers=keep and order.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_begin if order.workers else None,
            # An async file system (s3fs) must not be forked after use.
            multiprocessing_context=("fork" if local else "spawn") if order.workers else None,
        )

    def batches(self, epoch: int, *, skip: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, the first ``skip`` left out without being read.

        Raises
        ------
        UserError
            If a shard is damaged or is not what its record says.
        """
        self._stream.start.copy_(torch.tensor([epoch, skip]))
        with _sigterm_blocked():  # workers begin with it blocked
            stream = iter(self._batches)
        for batch in stream:
            if isinstance(batch, UserError):
                raise batch
            yield batch


class _Stream(IterableDataset[Batch | UserError]):
    """One reader's batches of one epoch. An error travels as a value: as an exception it would bring a traceback."""

    def __init__(
        self, data: ShardSet, shards: Sequence[Shard], members: Sequence[str], order: Order, skip: bool, verify: bool
    ) -> None:
        self.data, self.shards, self.members, self.order, self.skip = data, shards, members, order, skip
        self.start = torch.zeros(2, dtype=torch.int64)  # epoch and batch, shared: told to living workers
        self.verified = torch.full((len(shards),), not verify)  # those whose hash needs no comparing any more
        for shared in (self.start, self.verified):
            shared.share_memory_()  # type: ignore[no-untyped-call]

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
                groups = (group_number(self.shards[row.shard].groups[row.position]) for row in wanted)
                while taken := list(itertools.islice(samples, self.order.batch_size)):
                    numbered = zip(list(itertools.islice(groups, len(taken))), taken, strict=True)
                    group = [number for number, sample in numbered if isinstance(sample, Sample)]
                    yield {"epoch": epoch, "group": torch.tensor(group, dtype=torch.int64), **collate(taken)}
        except UserError as error:
            yield error

    def _samples(self, rows: Sequence[Row], wanted: Sequence[Row]) -> Generator[Sample | Damage, None, None]:
        """Read ahead, in tar order, only as far as the next sample wanted: what is held is the shuffle buffer."""
        held: dict[Row, Sample | Damage] = {}
        with closing(self._read(rows, set(wanted))) as stream:
            for row in wanted:
                while row not in held:
                    position, sample = next(stream)
                    held[position] = sample
                yield held.pop(row)
            for _ in stream:  # nothing is left but the last shard's hash
                pass

    def _read(self, rows: Sequence[Row], wanted: Collection[Row]) -> Generator[tuple[Row, Sample | Damage], None, None]:
        for (turn, number), group in itertools.groupby(rows, key=lambda row: (row.turn, row.shard)):
            positions = [row.position for row in group if row in wanted]
            if positions:
                verify = not self.verified[number]
                shard, skip = self.shards[number], self.skip
                for position, sample in read(self.data.fs, shard, positions, self.members, verify=verify, skip=skip):
                    yield Row(number, position, turn), sample
                self.verified[number] = True


def collate(taken: Sequence[Sample | Damage]) -> Batch:
    """Stack the samples that could be read; there may be none."""
    samples = [sample for sample in taken if isinstance(sample, Sample)]
    damaged = [sample for sample in taken if isinstance(sample, Damage)]
    batch: Batch = {"keys": [sample.key for sample in samples], "damaged": damaged}
    labels = [sample.label for sample in samples if sample.label is not None]
    if labels:
        batch["label"] = torch.tensor(labels)
    for name in samples[0].arrays if samples else ():
        batch[name] = _stack([sample.arrays[name] for sample in samples])
    return batch


def _stack(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Copy arrays of one shape into a tensor; a worker's in shared memory, where it would be copied to otherwise."""
    shape, dtype = (len(arrays), *arrays[0].shape), getattr(torch, arrays[0].dtype.name)
    tensor = torch.empty(shape if get_worker_info() is None else 0, dtype=dtype)
    if get_worker_info() is not None:
        storage = torch.UntypedStorage._new_shared(sum(array.nbytes for array in arrays))  # type: ignore[no-untyped-call]
        tensor.set_(storage, 0, shape)  # type: ignore[call-overload]
    np.stack(arrays, out=tensor.numpy())
    return tensor


def blank(members: Sequence[str]) -> Batch:
    """Return a batch of one sample of zeros, for a rank that has nothing else to fill up with."""
    arrays = {name: torch.from_numpy(np.zeros((1, *MEMBERS[name].shape), MEMBERS[name].dtype)) for name in members}
    numbers = {name: torch.zeros(1, dtype=torch.int64) for name in ("label", "group")}
    return {"epoch": 0, "filler": True, "keys": ["nothing"], "damaged": [], **numbers, **arrays}


def _begin(worker: int) -> None:
    """Make a process ready to be a worker.

    Ctrl-C and a batch system's SIGTERM reach the whole group, but the main process alone answers them: it still wants
    its batches. The main process' own SIGTERM ends a worker, and a worker whose main process is gone ends by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        threading.Thread(target=_obey_parent, daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _keep_memory()


def _obey_parent() -> None:
    """End this process at its parent's SIGTERM; those of others are passed over."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Have SIGTERM wait; processes and threads that are started meanwhile begin so, and stay so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep_memory() -> None:
    """Have glibc keep arrays' memory for the next ones: to map and clear it anew is half the time of reading."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # others than glibc may have none
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(parameter, KEPT_BYTES)
