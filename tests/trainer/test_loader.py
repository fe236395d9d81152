"""Batches against the slow, obvious way; resuming against never stopping."""

import io
import tarfile
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.readers as module
from trainer.errors import UserError
from trainer.loader import Loader, Place
from trainer.order import Order
from trainer.shards import ShardSet, group_number

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


def test_a_batch_tells_the_source_group_of_every_sample_as_its_record_does(data):
    of_key = {key: group for shard in data.shards for key, group in zip(shard.keys, shard.groups, strict=True)}
    for batch in loader_of(data, batch_size=5, shuffle_buffer=4).batches(epoch=1):
        assert batch["group"].dtype == torch.int64
        assert batch["group"].tolist() == [group_number(of_key[key]) for key in batch["keys"]]
    assert len({group_number(group) for group in of_key.values()}) == len(set(of_key.values()))


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
    assert sorted(planned) == [(n, i, 0) for n, shard in enumerate(data.shards) for i in shard.rows]


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
    whole = loader_of(data, **settings)
    unbroken = [(p.next, keys(p.batches)) for p in whole.portions(Place(0, 0), num_steps=13)]
    assert sum(place.batch == 0 for place, _ in unbroken) == 13 // whole.num_batches(0)
    for done in (1, 5, 6, 10):
        place = unbroken[done - 1][0]
        rest = loader_of(data, **settings).portions(place, num_steps=13 - done)
        assert [(p.next, keys(p.batches)) for p in rest] == unbroken[done:]


@given(accumulate=st.integers(1, 7), batch_size=st.integers(1, 9), done=st.integers(0, 8))
@settings(max_examples=10, deadline=None)
def test_portions_share_out_an_epoch_by_samples_and_go_on_from_any_place(data, accumulate, batch_size, done):
    loader = loader_of(data, batch_size=batch_size, shuffle_buffer=6)
    num_steps = loader.num_steps(0, accumulate=accumulate)
    unbroken = list(loader.portions(Place(0, 0), num_steps=num_steps, accumulate=accumulate))
    assert [key for p in unbroken for batch in keys(p.batches) for key in batch] == list(chain(*keys(loader.batches())))
    for p in unbroken:
        sizes = [len(batch) for batch in keys(p.batches)]
        assert len(sizes) == accumulate or p.ends_epoch
        assert p.weights == [size / sum(sizes) for size in sizes]
    assert [p.ends_epoch for p in unbroken] == [False] * (num_steps - 1) + [True]
    done %= num_steps
    start = unbroken[done - 1].next if done else Place(0, 0)
    rest = loader.portions(start, num_steps=num_steps - done, accumulate=accumulate)
    assert [keys(p.batches) for p in rest] == [keys(p.batches) for p in unbroken[done:]]


def test_resuming_opens_no_shard_that_is_done(data, monkeypatch):
    opened = []
    plain = data.fs.open
    monkeypatch.setattr(type(data.fs), "open", lambda fs, path, *args: opened.append(path) or plain(path, *args))
    list(loader_of(data, batch_size=4, shuffle=False).batches(0, skip=5))
    assert opened == [data.shards[-1].path]


def test_a_shard_is_hashed_at_its_first_reading_alone(data, monkeypatch):
    verified = []
    plain = module.read
    monkeypatch.setattr(
        module, "read", lambda *args, verify, skip: verified.append(verify) or plain(*args, verify=verify)
    )
    loader = loader_of(data, batch_size=4)
    list(loader.batches(0))
    list(loader.batches(1))
    assert verified == [True] * 6 + [False] * 6


@pytest.mark.parametrize("batch_size", [1, 6, 23])
def test_the_last_shard_is_hashed_too_whether_or_not_the_last_batch_is_full(data, monkeypatch, batch_size):
    verified = []
    plain = module.read
    monkeypatch.setattr(
        module, "read", lambda *args, verify, skip: verified.append(verify) or plain(*args, verify=verify)
    )
    loader = loader_of(data, batch_size=batch_size)
    for _ in range(2):
        assert sum(len(batch["keys"]) for portion in loader.once() for batch in portion.batches) == 23
    assert verified == [True] * 6 + [False] * 6


def test_what_is_read_only_in_part_need_not_be_hashed(data, monkeypatch):
    verified = []
    plain = module.read
    monkeypatch.setattr(
        module, "read", lambda *args, verify, skip: verified.append(verify) or plain(*args, verify=verify)
    )
    order = Order(batch_size=4, shuffle_buffer=1)
    for _ in range(2):
        list(Loader(data, data.shards, members=MEMBERS, order=order, verify=False).shared(limit=2))
    assert verified == [False] * 4


def test_readers_tell_each_other_which_shards_they_have_hashed(data, monkeypatch, tmp_path):
    plain = module.read

    def noted(fs, shard, rows, members, *, verify, skip):
        with (tmp_path / "hashed").open("a") as file:
            file.write(f"{shard.name}\n" * verify)
        return plain(fs, shard, rows, members, verify=verify, skip=skip)

    monkeypatch.setattr(module, "read", noted)
    loader = loader_of(data, batch_size=4, workers=2, keep_workers=True)
    for epoch in range(3):
        list(loader.batches(epoch))
    assert sorted((tmp_path / "hashed").read_text().split()) == [shard.name for shard in data.shards]


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
