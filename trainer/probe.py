"""What a frozen encoder knows of labels: the judge of pretraining, whose own loss does not tell.

Every clip of a labelled set is embedded as a classifier would see it, the averages of all pathways side by side; each
dimension is standardised by the training clips'. Two plain methods then learn from the training clips and are scored on
others: the vote of the nearest neighbours by cosine (as Wu et al., "Unsupervised feature learning via non-parametric
instance discrimination", CVPR 2018), and logistic regression. Nothing is tuned: numbers of one setting compare steps
and runs, and a split `test` is never looked at.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from trainer.errors import UserError
from trainer.inputs import Inputs
from trainer.loader import Loader
from trainer.models.blocks import global_average
from trainer.models.encoder import Encoder
from trainer.order import Order
from trainer.ranks import ALONE, Ranks
from trainer.runs import SAME_MEANING, first_difference
from trainer.shards import Shard, ShardSet, groups_of, labels_of, num_samples, select
from trainer.splits import draw_validation

MAX_NEIGHBOURS = 20  # the square root of the training clips, up to DINO's best (Caron et al., ICCV 2021)
INVERSE_STRENGTH = 0.1  # scikit-learn's C: of the penalty on squared weights, of standardised embeddings
MAX_ITERATIONS = 2000
TEST_FRACTION = 0.2  # of the training clips, by source group, where the set has no split val


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A labelled set, and which of its clips are learned from and which are scored."""

    data: ShardSet
    train: list[Shard]
    test: list[Shard]
    words: str
    """What it is, for people."""


def open_probe(address: str, *, recipe: dict[str, Any], members: Iterable[str], seed: int) -> Probe:
    """Open the labelled set of ``--probe``.

    Raises
    ------
    UserError
        If there is none, it has no labels, was built by another recipe, or has too few classes or clips.
    """
    data = ShardSet.open(address, flag="--probe")
    if not data.manifest.labels:
        raise UserError(f"--probe {address} has no labels; give a labelled set")
    if name := first_difference(data.manifest.recipe, recipe, but=SAME_MEANING):
        raise UserError(
            f"--probe {address} was built by another recipe: its {name} is {data.manifest.recipe.get(name)}, that of "
            f"the set pretrained on {recipe.get(name)}; build both by the same"
        )
    data.require(list(members))
    train = data.split("train")
    if "val" in data.split_names:
        test, whose = data.split("val"), "its split val"
    else:
        drawn = draw_validation(labels_of(train), groups_of(train), fraction=TEST_FRACTION, seed=seed)
        train, test = select(train, lambda group: group not in drawn), select(train, drawn.__contains__)
        whose = f"{len(drawn)} source groups drawn from train, as it has no split val"
    if len(set(labels_of(train))) < 2:
        raise UserError(f"--probe {address}: its training clips are of one class; give a set of two or more")
    words = f"{num_samples(train)} clips of {address} to learn from, {num_samples(test)} of {whose} to score"
    return Probe(data=data, train=train, test=test, words=words)


def overlap(probe: Probe, shards: Iterable[Shard]) -> int:
    """Count the source groups of the clips scored that are pretrained on too."""
    return len(set(groups_of(probe.test)).intersection(groups_of(shards)))


def load(probe: Probe, *, members: Sequence[str], order: Order, ranks: Ranks = ALONE) -> tuple[Loader, Loader]:
    """Return what reads the clips to learn from and those to score, for all probes of a run: tars are hashed once.

    Parameters
    ----------
    order
        The training's, which says how the clips are read.
    """
    plain = replace(order, shuffle=False)
    train, test = (
        Loader(probe.data, shards, members=members, order=plain, ranks=ranks) for shards in (probe.train, probe.test)
    )
    return train, test


def run_probe(
    loaders: tuple[Loader, Loader], encoder: Encoder, to_inputs: Inputs, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Embed all clips, each rank its share, and score both methods; ``scores`` tells what comes back."""
    embedded = []
    for loader in loaders:
        told = [part for part in ranks.gather(embed(encoder, loader.shared(), to_inputs)) if part is not None]
        embedded += [np.concatenate(arrays) for arrays in zip(*told, strict=True)]
    return ranks.lead(lambda: scores(*embedded))


@torch.no_grad()
def embed(
    encoder: Encoder,
    batches: Iterable[dict[str, Any]],
    to_inputs: Callable[[dict[str, Any]], dict[str, Tensor]],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return embeddings, float64 (N, D), and class indices, (N,), in evaluation mode; nothing of no batches."""
    was_training = encoder.training
    encoder.eval()
    rows, labels = [], []
    for batch in batches:
        latents = encoder(to_inputs(batch))
        rows.append(torch.cat([global_average(x.double()) for x in latents.values()], 1).cpu().numpy())
        labels.append(batch["label"].numpy())
    encoder.train(was_training)
    return (np.concatenate(rows), np.concatenate(labels)) if rows else None


def scores(
    train_ND: np.ndarray, train_labels: np.ndarray, test_ND: np.ndarray, test_labels: np.ndarray
) -> dict[str, float]:
    """Score nearest neighbours and logistic regression.

    Returns
    -------
    dict
        ``knn_accuracy, linear_accuracy, linear_macro_f1`` (over the classes that are scored); ``most_frequent``, the
        accuracy of always saying the class that is most frequent in training; ``n``, the clips scored.
    """
    num_neighbours = min(MAX_NEIGHBOURS, math.isqrt(len(train_labels)))
    neighbours = KNeighborsClassifier(num_neighbours, metric="cosine", algorithm="brute")
    linear = LogisticRegression(C=INVERSE_STRENGTH, max_iter=MAX_ITERATIONS)
    said = {
        name: make_pipeline(StandardScaler(), method).fit(train_ND, train_labels).predict(test_ND)
        for name, method in (("knn", neighbours), ("linear", linear))
    }
    return {
        "knn_accuracy": float((said["knn"] == test_labels).mean()),
        "linear_accuracy": float((said["linear"] == test_labels).mean()),
        "linear_macro_f1": float(
            f1_score(test_labels, said["linear"], labels=np.unique(test_labels), average="macro", zero_division=0)
        ),
        "most_frequent": float((test_labels == np.bincount(train_labels).argmax()).mean()),
        "n": len(test_labels),
    }


def better(now: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """Tell whether a probe is the best so far: by regression, then by neighbours; of equals the earlier one."""
    return best is None or (now["linear_accuracy"], now["knn_accuracy"]) > (
        best["linear_accuracy"],
        best["knn_accuracy"],
    )


def in_words(judged: dict[str, Any]) -> str:
    """What a probe found, for people."""
    return (
        f"linear {judged['linear_accuracy']:.3f}, neighbours {judged['knn_accuracy']:.3f} "
        f"of {judged['n']} clips (most frequent class {judged['most_frequent']:.3f})"
    )
