from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.operating import Assumed, Measured, derive, table

MEASURED = Measured(
    clip_cpu_s=1.0,
    global_h=0.5,
    tables_gb=1.0,
    store_gb=0.1,
    index_gb=0.6,
    server_cpu_s=0.016,
    task_bytes=20_000,
    sample_bytes=5e6,
    jpeg_bytes=2e6,
)
ASSUMED = Assumed(candidates=14_400, cores=2, machine_hour=0.5, gb_month=0.1, disk_mb_s=100, samples_per_shard=144)


def test_hours_are_those_of_the_clips_over_all_cores_and_of_the_bytes_over_all_disks():
    one = derive(ASSUMED, MEASURED, 1)
    assert one["prepare, h"] == pytest.approx(14_400 / 2 / 3600)
    assert one["pack, h"] == pytest.approx(2 * 14_400 * 5 / 100 / 3600)
    assert one["crawl, h"] == pytest.approx(14_400 * 12 / 3600)
    assert one["from a folder, h"] == pytest.approx(2 + 0.4 + 0.5)
    assert one["from a crawl, h"] == pytest.approx(48 + 0.4 + 0.5)  # it prepares while it waits


def test_more_machines_shorten_what_is_shared_and_nothing_else():
    one, four = (derive(ASSUMED, MEASURED, number) for number in (1, 4))
    for name in ("prepare, h", "pack, h"):
        assert four[name] == pytest.approx(one[name] / 4)
    for name in ("crawl, h", "plan and finish, h", "set, npy frames, GB", "Prefect's tasks", "Prefect's database, GB"):
        assert four[name] == one[name]
    load = "share of a core for Prefect's server"
    assert four[load] == pytest.approx(4 * one[load]) == pytest.approx(4 * 2 / 16 * 0.016)


def test_room_and_cost_follow_from_bytes_and_prices():
    one = derive(ASSUMED, MEASURED, 1)
    assert one["set, npy frames, GB"] == pytest.approx(72 + 0.6)
    assert one["set, jpeg frames, GB"] == pytest.approx(28.8 + 0.6)
    assert one["most at once without the clips, GB"] == pytest.approx(72.6 + 1.0 + 2 * 144 * 5e6 / 1e9)
    assert one["Prefect's tasks"] == 900 + 100
    assert one["storage of the set, a month"] == pytest.approx(7.26)
    assert one["machines, from a folder"] == pytest.approx(2.9 * 0.5)


def test_what_was_not_measured_is_told_as_such():
    told = table(ASSUMED, replace(MEASURED, jpeg_bytes=None))
    assert "| set, jpeg frames, GB | to be measured | to be measured | to be measured |" in told
    assert "to be measured" not in table(ASSUMED, MEASURED)
