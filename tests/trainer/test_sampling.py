"""Class-balanced epochs: counts, mixing, and the same again wherever an epoch is taken up."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.loader import Loader
from trainer.order import Order
from trainer.sampling import balanced_rounds
from trainer.shards import ShardSet

SIZES = {0: 9, 1: 4, 2: 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_set):
    classes = [
        label for label, size in SIZES.items() for _ in range(size)
    ]  # shards of one class, as a walk leaves them
    root = tmp_path_factory.mktemp("uneven")
    return ShardSet.open(str(make_set(root, splits={"train": classes}, shard_size=4, modality="audio")))


@settings(deadline=None, max_examples=50)
@given(
    labels=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_every_class_comes_as_often_as_the_largest_and_its_samples_alike(labels, seed, epoch):
    rows = [list(range(len(shard))) for shard in labels]
    rounds = balanced_rounds(labels, rows, seed=seed, epoch=epoch)
    assert rounds == balanced_rounds(labels, rows, seed=seed, epoch=epoch)
    sizes = Counter(label for shard in labels for label in shard)
    largest = max(sizes.values())
    times = Counter((shard, row) for turn in rounds for shard, used in enumerate(turn) for row in used)
    by_class = Counter()
    for (shard, row), n in times.items():
        label = labels[shard][row]
        by_class[label] += n
        assert n in (largest // sizes[label], largest // sizes[label] + 1)
    assert by_class == dict.fromkeys(sizes, largest)
    assert len(rounds) == max(times.values())
    for turn in rounds:
        assert all(used == sorted(set(used)) for used in turn)  # once a round, in tar order


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_balanced_and_resumes_at_any_batch(data, workers):
    order = Order(batch_size=4, seed=5, shuffle_buffer=3, workers=workers, balanced=True)
    loader = Loader(data, data.split("train"), members=["mel_8k"], order=order)
    batches = list(loader.batches(1))
    assert len(batches) == loader.num_batches(1)
    counts = Counter(label for batch in batches for label in batch["label"].tolist())
    assert counts == dict.fromkeys(SIZES, max(SIZES.values()))
    keys = [batch["keys"] for batch in batches]
    assert keys != [batch["keys"] for batch in loader.batches(2)]
    for skip in (1, 3) if workers else range(len(keys)):
        assert [batch["keys"] for batch in loader.batches(1, skip=skip)] == keys[skip:]
    if not workers:
        halves = np.array_split([label for batch in batches for label in batch["label"].tolist()], 2)
        assert all(set(half) == set(SIZES) for half in halves)


def test_unbalanced_every_sample_comes_once(data):
    loader = Loader(data, data.split("train"), members=["mel_8k"], order=Order(batch_size=4, seed=5))
    keys = [key for batch in loader.batches() for key in batch["keys"]]
    assert len(keys) == len(set(keys)) == sum(SIZES.values())
