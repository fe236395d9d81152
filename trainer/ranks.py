"""The processes of one run: each has a rank, all take the same steps, and rank 0 alone writes and speaks."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed
from lightning.fabric import Fabric

from trainer.errors import UserError

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """A process among those of its run, and how it tells the others something; alone, it talks to itself."""

    rank: int = 0
    count: int = 1
    group: Any = None
    """Process group for words, on the CPU whatever the gradients travel over; None is the default one."""

    @classmethod
    def of(cls, fabric: Fabric) -> "Ranks":
        """Return the ranks of a run that was launched."""
        group = None
        if fabric.world_size > 1 and torch.distributed.get_backend() != "gloo":
            group = torch.distributed.new_group(backend="gloo")
        return cls(rank=fabric.global_rank, count=fabric.world_size, group=group)

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def gather(self, value: _T) -> list[_T]:
        """Return every rank's value, in the order of ranks; all must call it."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def first(self, value: _T | None) -> _T | None:
        """Return the first value that is not None."""
        return next((told for told in self.gather(value) if told is not None), None)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Average numbers by name."""
        told = self.gather(values)
        return {name: sum(each[name] for each in told) / self.count for name in values}

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Fail on every rank if the block fails on one by a user's mistake, which rank 0 tells."""
        error = None
        try:
            yield
        except UserError as mistake:
            error = str(mistake)
        if (error := self.first(error)) is not None:
            raise UserError(error)

    def lead(self, act: Callable[[], _T]) -> _T:
        """Act on rank 0 alone; all get the result, or fail as it did."""
        result: _T | None = None
        with self.together():
            if self.leads:
                result = act()
        return self.gather(result)[0]  # type: ignore[return-value]


ALONE = Ranks()
