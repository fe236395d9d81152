"""Where clips lie on a map of two dimensions: those that the network sees alike, near each other.

t-SNE (van der Maaten & Hinton, 2008) of the first principal components, started from them, with a fixed seed: begun so
it keeps large distances about as well as UMAP does, whose advantage there is its start (Kobak & Linderman, "UMAP does
not preserve global structure any better than t-SNE when using the same initialization", 2019). UMAP is faster beyond
some ten thousand points, which this map does not draw, and would bring a compiler and two packages along.
"""

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

MAX_POINTS = 10_000
"""On a map; of a larger set a random sample is laid out."""
COMPONENTS = 50  # as van der Maaten & Hinton: noise goes, distances stay
PERPLEXITY = 30.0
FEWEST = 5  # points that have neighbourhoods
SEED = 0


def chosen_rows(num_samples: int, *, first: int) -> np.ndarray:
    """Choose the rows of a set that are on its map: all, or a random sample, the same for the same number.

    Returns
    -------
    numpy.ndarray
        The first ``first`` are a random sample themselves, in ascending order; so are the others.
    """
    drawn = np.random.default_rng(SEED).permutation(num_samples)[:MAX_POINTS]
    return np.concatenate([np.sort(drawn[:first]), np.sort(drawn[first:])])


def lay_out(standardised_ND: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Place points.

    Parameters
    ----------
    standardised_ND
        Embeddings, each dimension standardised.

    Returns
    -------
    (places_N2, method)
        float32, without a unit; and how, for ``embed.json``.
    """
    num_points = len(standardised_ND)
    if num_points < 2 or not standardised_ND.std(0).any():
        return np.zeros((num_points, 2), np.float32), {"method": "none: the clips do not differ"}
    components = min(COMPONENTS, *standardised_ND.shape)
    pca = PCA(components, random_state=SEED)
    reduced_NC = pca.fit_transform(standardised_ND)
    about = {"components": components, "explained": float(pca.explained_variance_ratio_.sum()), "seed": SEED}
    if num_points < FEWEST or components < 2:
        places_N2 = np.zeros((num_points, 2), np.float32)
        places_N2[:, : min(2, components)] = reduced_NC[:, :2]
        return places_N2, {"method": "pca", **about}
    perplexity = min(PERPLEXITY, (num_points - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED)
    return tsne.fit_transform(reduced_NC.astype(np.float32)), {"method": "t-sne", "perplexity": perplexity, **about}
