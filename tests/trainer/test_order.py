"""The order of samples: complete, deterministic, mixing, bounded."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.order import Row, delivery_order, reading_order, turns

shard_rows = st.lists(st.lists(st.integers(0, 500), min_size=1, max_size=9, unique=True).map(sorted), max_size=9)


@given(shards=shard_rows, num_readers=st.integers(1, 7), seed=st.integers(0, 9), shuffle=st.booleans())
def test_over_all_readers_every_row_comes_exactly_once(shards, num_readers, seed, shuffle):
    read = [
        reading_order(shards, seed=seed, epoch=1, reader=reader, num_readers=num_readers, shuffle=shuffle)
        for reader in range(num_readers)
    ]
    assert sorted(chain(*read)) == sorted(Row(n, row) for n, rows in enumerate(shards) for row in rows)


def test_whole_shards_go_to_one_reader_and_left_over_ones_are_split_by_rows():
    shards = [range(10)] * 5
    read = [reading_order(shards, seed=0, epoch=0, reader=r, num_readers=2, shuffle=False) for r in range(2)]
    assert [{row.shard for row in rows} for rows in read] == [{0, 2, 4}, {1, 3, 4}]
    assert [len(rows) for rows in read] == [25, 25]


def test_a_shard_is_read_in_one_pass_from_its_front_to_its_end():
    rows = reading_order([range(6)] * 4, seed=3, epoch=2, reader=0, num_readers=1, shuffle=True)
    for start in range(0, 24, 6):
        assert [row.position for row in rows[start : start + 6]] == list(range(6))
    assert {row.shard for row in rows[::6]} == {0, 1, 2, 3}


@given(count=st.integers(0, 60), buffer=st.integers(1, 70), seed=st.integers(0, 5))
def test_the_shuffle_buffer_delivers_every_row_and_never_holds_more_than_its_size(count, buffer, seed):
    rows = [Row(0, i) for i in range(count)]
    delivered = delivery_order(rows, buffer=buffer, seed=seed, epoch=0, reader=0)
    assert sorted(delivered) == rows
    num_read = 0
    for num_delivered, row in enumerate(delivered):
        num_read = max(num_read, row.position + 1)
        assert num_read - num_delivered <= buffer


def test_a_buffer_of_one_keeps_the_order():
    rows = [Row(0, i) for i in range(9)]
    assert delivery_order(rows, buffer=1, seed=0, epoch=0, reader=0) == rows


def test_orders_depend_on_seed_epoch_and_reader_and_on_nothing_else():
    rows = [Row(0, i) for i in range(40)]
    orders = [
        tuple(delivery_order(rows, buffer=16, seed=seed, epoch=epoch, reader=reader))
        for seed, epoch, reader in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(delivery_order(rows, buffer=16, seed=0, epoch=0, reader=0))


def test_shuffling_mixes_neighbours_far_apart():
    rows = [Row(0, i) for i in range(1000)]
    delivered = delivery_order(rows, buffer=100, seed=0, epoch=0, reader=0)
    moved = [abs(place - row.position) for place, row in enumerate(delivered)]
    assert 50 < sum(moved) / len(moved) < 200
    assert sum(b.position == a.position + 1 for a, b in pairwise(delivered)) < 30


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), done=st.integers(0, 30))
def test_turns_go_on_where_a_plain_rotation_stopped(counts, done):
    rotation = [
        (worker, batch) for batch in range(max(counts)) for worker in range(len(counts)) if batch < counts[worker]
    ]
    resumed = turns(counts, done)
    assert sorted(worker for worker, _ in resumed) == list(range(len(counts)))
    rest, left = [], [(worker, batch) for worker, batch in resumed if batch < counts[worker]]
    while left:
        rest += left
        left = [(worker, batch + 1) for worker, batch in left if batch + 1 < counts[worker]]
    assert rest == rotation[done:]


def test_turns_of_workers_without_any_batch_come_last():
    assert turns([0, 2, 1], 0) == [(1, 0), (2, 0), (0, 0)]
    with pytest.raises(IndexError):
        turns([], 0)[0]
