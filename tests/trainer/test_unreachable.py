"""What a command says of a set that it cannot have."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from trainer.errors import UserError
from trainer.shards import ShardSet, num_samples
from trainer.tars import read

pytest.importorskip("s3fs")


@pytest.mark.parametrize("name", ["set[1]", "a*b", "what?"])
def test_a_set_whose_name_looks_like_a_pattern_is_opened(sets, tmp_path, name):
    shutil.copytree(sets / "unlabeled", tmp_path / name)
    assert num_samples(ShardSet.open(str(tmp_path / name)).shards) == 10


@pytest.fixture
def unreachable(monkeypatch):
    """Have clients of a store not find it from now on, until the test is over."""
    import s3fs

    def change(**environment: str) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()

    yield change
    s3fs.S3FileSystem.clear_instance_cache()


NOBODY = {"ACCESS_KEY_ID": "", "SECRET_ACCESS_KEY": "", "EC2_METADATA_DISABLED": "true"}


@pytest.mark.parametrize(
    "environment", [NOBODY, pytest.param({"ENDPOINT_URL": "http://127.0.0.1:9"}, marks=pytest.mark.slow)]
)
def test_a_store_that_cannot_be_reached_is_one_line(bucket, unreachable, environment):
    unreachable(**environment)
    with pytest.raises(UserError, match=r"--shards s3://\S+ cannot be (opened|read): [^\n]+$"):
        ShardSet.open(f"{bucket}/set")


@pytest.mark.parametrize("verify", [False, True])
def test_a_store_that_goes_away_while_a_shard_is_read_is_no_damage(bucket, sets, unreachable, verify):
    import s3fs

    s3fs.S3FileSystem().put(f"{sets}/unlabeled/", f"{bucket}/set/", recursive=True)
    data = ShardSet.open(f"{bucket}/set")
    unreachable(**NOBODY)
    with pytest.raises(UserError, match=r"000000\.tar cannot be read: [^\n]+$"):
        list(read(s3fs.S3FileSystem(), data.shards[0], [0], ("mel_8k",), verify=verify))


def test_a_disk_that_fails_is_no_damage(sets, monkeypatch):
    data = ShardSet.open(str(sets / "unlabeled"))

    def fails(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(data.fs, "open", fails)
    with pytest.raises(UserError, match=r"cannot be read: .*Input/output error"):
        list(read(data.fs, data.shards[0], [0], ("mel_8k",), verify=True))
