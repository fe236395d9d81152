"""Clips compared the slow way: at every offset, not only where an index would look."""

from __future__ import annotations

import numpy as np
import soxr

from pipeline.audio import BASE_RATE_HZ
from pipeline.matching import quarter_changes
from pipeline.slices import Kind


class EveryOffset:
    """Differences of a query and every clip at every offset, by correlation of their bits.

    Where there is little to compare they are raised, as the limit shrinks there: a match is what is not above it.
    """

    SIZE = 512

    def __init__(self, fingerprints: list[np.ndarray], kind: Kind) -> None:
        self.kind, self.bits, self.masks, self.changes = kind, *self._spectra(fingerprints, kind)

    def _spectra(self, fingerprints: list[np.ndarray], kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        signs = np.zeros((len(fingerprints), self.SIZE // 2, kind.bits), np.float32)
        change = np.zeros(signs.shape[:2], np.float32)
        for n, items in enumerate(fingerprints):
            ones = (items[:, None] >> np.arange(kind.bits, dtype=items.dtype)) & items.dtype.type(1)
            signs[n, : len(items)] = np.where(items[:, None] != 0, 2.0 * ones - 1, 0)
            change[n, : len(items)] = quarter_changes(items, np.zeros(len(items))) / 4 * (items != 0)
        mask = np.abs(signs[:, :, 0])
        return self._spectrum(signs), self._spectrum(mask), self._spectrum(change)

    def _spectrum(self, part: np.ndarray) -> np.ndarray:
        return np.fft.rfft(part, self.SIZE, axis=1).astype(np.complex64)

    def smallest(self, query: np.ndarray) -> np.ndarray:
        """Of all offsets, a number a clip; infinite where no overlap has enough change to tell."""
        bits, mask, change = (part[0].conj() for part in self._spectra([query], self.kind))
        overlap = np.fft.irfft(self.masks * mask, axis=1).round()
        differing = (self.kind.bits * overlap - np.fft.irfft((self.bits * bits).sum(axis=2), axis=1)) / 2
        own = np.minimum(np.fft.irfft(self.masks * change, axis=1), np.fft.irfft(self.changes * mask, axis=1))
        enough = own >= self.kind.min_change_bits
        raised = np.maximum(self.kind.sure_change_bits / np.maximum(own, 1), 1)
        return np.asarray(np.where(enough, differing / np.maximum(own, 1) * raised, np.inf).min(axis=1))

    def least(self, query: np.ndarray) -> np.ndarray:
        """The same, of the query and its mirror image."""
        turned = [query]
        if self.kind.mirror_bits:
            turned.append(np.where(query == 0, query, query ^ self.kind.dtype.type(self.kind.mirror_bits)))
        return np.asarray(np.min([self.smallest(items) for items in turned], axis=0))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Peak of the normalised cross-correlation of two sounds, at 8 kHz: near 1 for one recording."""
    a, b = (soxr.resample(sound, BASE_RATE_HZ, 8000) for sound in (one, other))
    size = len(a) + len(b)
    peak = np.abs(np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size).conj())).max()
    return float(peak / np.sqrt(np.square(a).sum() * np.square(b).sum()))
