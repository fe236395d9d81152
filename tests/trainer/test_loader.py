"""Batches against the slow, obvious way; resuming against never stopping."""

import io
import tarfile
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.loader as module
from trainer.errors import UserError
from trainer.loader import Loader, Order, Place
from trainer.shards import ShardSet

MEMBERS = ("mel_8k",)

# torch advises against more workers than cores; the order must not depend on how many cores there are.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_set):
    """A set of 23 samples in shards of 4."""
    root = tmp_path_factory.mktemp("loader") / "set"
    return ShardSet.open(str(make_set(root, splits={"train": [0, 1, 2] * 7 + [0, 1]}, modality="audio")))


def loader_of(data, **order):
    keep = order.pop("keep_workers", False)
    return Loader(data, data.shards, members=MEMBERS, order=Order(**order), keep_workers=keep)


def keys(batches):
    return [batch["keys"] for batch in batches]


def slow_and_obvious(data):
    """Every array of every tar by key, read without any of our code."""
    arrays = {}
    for shard in data.shards:
        with tarfile.open(shard.path) as tar:
            for name in tar.getnames():
                if name.endswith(".mel_8k.npy"):
                    arrays[name.split(".")[0]] = np.load(io.BytesIO(tar.extractfile(name).read()))
    return arrays


@settings(max_examples=15, deadline=None)
@given(
    ranks=st.integers(1, 4),
    readers=st.integers(1, 3),
    batch_size=st.integers(1, 9),
    buffer=st.sampled_from([1, 5, 64]),
    epoch=st.integers(0, 2),
)
def test_ranks_and_workers_together_plan_every_sample_exactly_once(data, ranks, readers, batch_size, buffer, epoch):
    planned = []
    for rank in range(ranks):
        order = Order(batch_size=batch_size, shuffle_buffer=buffer, workers=readers, rank=rank, num_ranks=ranks)
        for reader in range(rank * readers, (rank + 1) * readers):
            planned += order.deliver(order.rows(data.shards, epoch, reader), epoch, reader)
    assert sorted(planned) == [(n, i) for n, shard in enumerate(data.shards) for i in shard.rows]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 3), (2, 0), (3, 0), (2, 2), (8, 0)])
def test_every_sample_is_read_exactly_once_and_is_what_the_tar_holds(data, ranks, workers):
    oracle = slow_and_obvious(data)
    seen = []
    for rank in range(ranks):
        order = Order(batch_size=4, shuffle=False, workers=workers, rank=rank, num_ranks=ranks)
        for batch in Loader(data, data.shards, members=MEMBERS, order=order).batches():
            assert batch["mel_8k"].dtype == torch.float16
            assert batch["label"].dtype == torch.int64
            for key, mel in zip(batch["keys"], batch["mel_8k"].numpy(), strict=True):
                np.testing.assert_array_equal(mel, oracle[key])
            seen += batch["keys"]
    assert sorted(seen) == sorted(oracle)


def test_shuffled_epochs_differ_and_repeat_exactly(data):
    loader = loader_of(data, batch_size=5, shuffle_buffer=8)
    first, second = keys(loader.batches(0)), keys(loader.batches(1))
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert keys(loader_of(data, batch_size=5, shuffle_buffer=8).batches(1)) == second
    assert keys(loader_of(data, batch_size=5, shuffle_buffer=8, seed=1).batches(0)) != first


def test_with_ranks_a_shuffled_epoch_ends_for_all_at_once(data):
    lengths = {len(list(loader_of(data, batch_size=1, rank=rank, num_ranks=3).batches())) for rank in range(3)}
    assert len(lengths) == 1
    assert lengths.pop() >= 23 // 3


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_resumed_epoch_gives_exactly_the_batches_of_the_unbroken_one(data, workers):
    settings = {"batch_size": 2, "shuffle_buffer": 6, "workers": workers}
    unbroken = list(loader_of(data, **settings).batches(1))
    for skip in range(len(unbroken) + 1) if not workers else (1, 2, 5, len(unbroken) - 1, len(unbroken)):
        resumed = list(loader_of(data, **settings).batches(1, skip=skip))
        assert keys(resumed) == keys(unbroken[skip:])
        for a, b in zip(resumed, unbroken[skip:], strict=True):
            assert torch.equal(a["mel_8k"], b["mel_8k"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_over_epochs_goes_on_from_any_place(data, workers):
    settings = {"batch_size": 5, "shuffle_buffer": 6, "workers": workers, "keep_workers": True}
    stream = loader_of(data, **settings).stream(Place(0, 0), num_batches=13)
    unbroken = [(place, batch["keys"]) for place, batch in stream]
    assert sum(place.batch == 0 for place, _ in unbroken) == 13 // loader_of(data, **settings).num_batches(0)
    for done in (1, 5, 6, 10):
        place = unbroken[done - 1][0]
        rest = loader_of(data, **settings).stream(place, num_batches=13 - done)
        assert [(place, batch["keys"]) for place, batch in rest] == unbroken[done:]


def test_resuming_opens_no_shard_that_is_done(data, monkeypatch):
    opened = []
    plain = data.fs.open
    monkeypatch.setattr(type(data.fs), "open", lambda fs, path, *args: opened.append(path) or plain(path, *args))
    list(loader_of(data, batch_size=4, shuffle=False).batches(0, skip=5))
    assert opened == [data.shards[-1].path]


def test_a_shard_is_hashed_at_its_first_reading_alone(data, monkeypatch):
    verified = []
    plain = module.read
    monkeypatch.setattr(module, "read", lambda *args, verify: verified.append(verify) or plain(*args, verify=verify))
    loader = loader_of(data, batch_size=4)
    list(loader.batches(0))
    list(loader.batches(1))
    assert verified == [True] * 6 + [False] * 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_one_line_from_a_worker_too(tmp_path, make_set, workers):
    root = make_set(tmp_path / "set", splits={"train": [0] * 6}, shard_size=2, modality="audio")
    raw = bytearray((root / "train-000002.tar").read_bytes())
    raw[-1] ^= 1
    (root / "train-000002.tar").write_bytes(raw)
    data = ShardSet.open(str(root))
    with pytest.raises(UserError, match=r"train-000002\.tar has another hash") as caught:
        list(loader_of(data, batch_size=2, shuffle=False, workers=workers).batches())
    assert "\n" not in str(caught.value)


def test_a_sample_is_held_in_memory_no_longer_than_the_buffer_needs(data, monkeypatch):
    living, most = 0, 0
    plain = module.read

    def counted(*args, **kwargs):
        nonlocal living, most
        for item in plain(*args, **kwargs):
            living += 1
            most = max(most, living)
            yield item

    monkeypatch.setattr(module, "read", counted)
    for batch in loader_of(data, batch_size=1, shuffle_buffer=5).batches():
        living -= len(batch["keys"])
    assert most <= 5


def test_spawned_readers_of_remote_sets_give_the_same_batches(data, monkeypatch):
    settings = {"batch_size": 4, "workers": 1, "keep_workers": True}
    expected = [keys(loader_of(data, **settings).batches(epoch)) for epoch in (0, 1)]
    monkeypatch.setattr(module, "LOCAL_PROTOCOLS", {"none"})
    spawned = loader_of(data, **settings)
    assert [keys(spawned.batches(epoch)) for epoch in (0, 1)] == expected


def test_fewer_samples_than_ranks_is_said(data):
    loader = loader_of(data, batch_size=4, num_ranks=24)
    with pytest.raises(UserError, match="23 samples are too few for 24 ranks"):
        next(loader.stream(Place(0, 0), num_batches=1))
