"""Samples that training has to do without, since they cannot be read: each told once, and counted."""

from collections.abc import Iterable

from trainer.runtime import warn
from trainer.tars import Damage


class Losses:
    """The samples lost so far; a resumed run takes them up, and tells of them no more.

    Parameters
    ----------
    skip
        Whether a sample may be lost at all; else the first one ends everything.
    keys
        Those known already.
    """

    def __init__(self, *, skip: bool, keys: Iterable[str] = ()) -> None:
        self.skip = skip
        self._keys = set(keys)

    def tell(self, found: Iterable[Damage]) -> None:
        """Tell of those that are new."""
        for key, why in found:
            if key not in self._keys:
                self._keys.add(key)
                warn(f"{key} is left out: {why}")

    @property
    def state(self) -> dict[str, list[str]]:
        """What a checkpoint holds of them."""
        return {"damaged": sorted(self._keys)}

    @property
    def record(self) -> dict[str, int]:
        """What the log says of them."""
        return {"damaged": len(self._keys)} if self.skip else {}

    @property
    def words(self) -> str:
        """What the end of a run says of them."""
        return f"; {len(self._keys)} samples could not be read and were left out" if self._keys else ""
