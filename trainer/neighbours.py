"""Which clips are alike: by content, what the network sees in them, or by emotion, what it says of them.

**Content** is the cosine of the angle between embeddings, each dimension standardised over the set first. Averages of
rectified maps are all positive and of very different size: unstandardised, every pair has a cosine near 1, and what is
left of it is told by the few largest dimensions. Standardised, every dimension has the same say, and a cosine of 0
means no more alike than two clips of the set are on average. ``trainer.probe`` judges by the same.

**Emotion** is the Hellinger distance of softmax's probabilities, 0 (the same) to 1 (nothing in common): the length of
the difference of their square roots, over the square root of 2. Jensen-Shannon's distance orders pairs much the same,
but needs logarithms, which the zeros that softmax rounds to do not have; plain Euclidean distance takes 0.50 and 0.51
for as far apart as 0.00 and 0.01.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

BLOCK_ROWS = 4096  # read at a time: 130,000 embeddings need not be in memory at once


def blocks(vectors_ND: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows, some at a time; the array may be mapped from disk."""
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        yield np.asarray(vectors_ND[start : start + BLOCK_ROWS])


class Standard(NamedTuple):
    """What embeddings of a set are standardised by."""

    scaler: StandardScaler

    @classmethod
    def of(cls, vectors_ND: np.ndarray) -> "Standard":
        """Learn each dimension's mean and standard deviation over the set; one that never varies stays 0."""
        scaler = StandardScaler()
        for block in blocks(vectors_ND):
            scaler.partial_fit(block.astype(np.float64))
        return cls(scaler)

    def __call__(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return them standardised, float64 (N, D)."""
        return np.asarray(self.scaler.transform(np.asarray(vectors_ND, np.float64)))

    def directions(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return them standardised and of length 1, float64 (N, D); a clip that is the mean itself stays 0."""
        return np.asarray(normalize(self(vectors_ND)))


def content_similarity(query_D: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """Cosine of a query's embedding with every embedding of a set, standardised over the set.

    Returns
    -------
    numpy.ndarray
        float64 (N,), -1 to 1.
    """
    standard = Standard.of(vectors_ND)
    direction_D = standard.directions(query_D[None])[0]
    return np.concatenate([standard.directions(block) @ direction_D for block in blocks(vectors_ND)])


def emotion_distance(query_K: np.ndarray, probabilities_NK: np.ndarray) -> np.ndarray:
    """Hellinger distance of a query's probabilities from those of every clip.

    After Hellinger (1909); it is a metric.

    Returns
    -------
    numpy.ndarray
        float64 (N,), 0 to 1.
    """
    difference_NK = np.sqrt(probabilities_NK) - np.sqrt(query_K)
    return np.asarray(np.linalg.norm(difference_NK, axis=1) / np.sqrt(2))


def nearest_each(standardised_ND: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each clip the others that are nearest by content.

    Returns
    -------
    (rows, similarity)
        int and float64, each (N, min(count, N - 1)), the most alike first.
    """
    num_others = min(count, len(standardised_ND) - 1)
    if num_others < 1:
        return np.zeros((len(standardised_ND), 0), int), np.zeros((len(standardised_ND), 0))
    finder = NearestNeighbors(n_neighbors=num_others, metric="cosine", algorithm="brute").fit(standardised_ND)
    distance, rows = finder.kneighbors()  # of the fitted points themselves: each without itself
    return rows, 1 - distance
