"""Opening sets and reading their samples, the damaged and hostile ones too."""

import gzip
import io
import json
import pickle
import shutil
import tarfile
import threading

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer import shards
from trainer.errors import UserError
from trainer.shards import ShardSet, fingerprint, groups_of, labels_of, num_samples, select
from trainer.tars import read


@pytest.fixture
def small(tmp_path, make_set):
    """A set of one shard that a test may damage."""
    return make_set(tmp_path / "small", splits={"train": [0, 1]}, modality="audio")


def rows_of(data, *, members=("mel_8k",), verify=True):
    return [sample for shard in data.shards for _, sample in read(data.fs, shard, shard.rows, members, verify=verify)]


def rebuild(path, change):
    """Write a tar anew with its members as ``change(name, bytes)`` gives them."""
    with tarfile.open(path) as tar:
        members = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            content = change(name, content)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def test_a_set_tells_its_splits_labels_and_groups(sets):
    data = ShardSet.open(str(sets / "mved"))
    assert data.split_names == ["train", "val", "test"]
    assert data.class_names == ["Calm", "Loud", "Sad"]
    train = data.split("train")
    assert [shard.name for shard in train] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert num_samples(train) == 12
    assert labels_of(train) == [0, 1, 2] * 4
    assert groups_of(train)[:2] == ["train-0", "train-1"]


def test_samples_are_what_the_tar_holds_and_only_the_members_asked_for_are_read(sets):
    data = ShardSet.open(str(sets / "mved"))
    shard = data.split("val")[0]
    for verify in (True, False):
        (row, sample), *rest = read(data.fs, shard, [1, 3], ("mel_8k",), verify=verify)
        assert (row, [row for row, _ in rest]) == (1, [3])
        assert list(sample.arrays) == ["mel_8k"]
        with tarfile.open(shard.path) as tar:
            expected = np.load(io.BytesIO(tar.extractfile(f"{shard.keys[1]}.mel_8k.npy").read()))
        np.testing.assert_array_equal(sample.arrays["mel_8k"], expected)
        assert sample.label == 1


def test_a_set_is_opened_by_glob_of_tars_and_by_fsspec_address(sets):
    data = ShardSet.open(str(sets / "mved" / "t*-000000.tar"))
    assert [shard.name for shard in data.shards] == ["test-000000.tar", "train-000000.tar"]
    memory = fsspec.filesystem("memory")
    memory.put(str(sets / "unlabeled"), "/bucket/unlabeled", recursive=True)
    remote = ShardSet.open("memory://bucket/unlabeled")
    assert num_samples(remote.shards) == 10
    local = ShardSet.open(str(sets / "unlabeled"))
    assert [s.key for s in rows_of(remote)] == [s.key for s in rows_of(local)]
    assert fingerprint(remote.shards) == fingerprint(local.shards)


def test_commit_records_are_read_in_the_thread_that_asks(sets, monkeypatch):
    """Arrow's own threads would hold on to their bytes, and abort a process that ends meanwhile."""
    threads = set()

    class Handle(io.BytesIO):
        def read(self, size=-1):
            threads.add(threading.get_ident())
            return super().read(size)

    monkeypatch.setattr(shards.io, "BytesIO", Handle)
    data = ShardSet.open(str(sets / "mved"))
    assert threads == {threading.get_ident()}
    record = data.fs.cat_file(shards.record_of(data.shards[0].path))
    assert shards.read_record(record, ["label", "key"]).column_names == ["label", "key"]
    with pytest.raises(pa.ArrowInvalid, match="no column colour"):
        shards.read_record(record, ["key", "colour"])


def test_selecting_by_source_group_keeps_whole_groups(sets):
    train = ShardSet.open(str(sets / "mved")).split("train")
    kept = select(train, {"train-1", "train-7"}.__contains__)
    assert [(shard.name, shard.rows) for shard in kept] == [("train-000000.tar", (1,)), ("train-000001.tar", (2,))]
    assert fingerprint(kept) != fingerprint(train)


def test_a_tar_without_a_commit_record_does_not_exist(small):
    shutil.copy(small / "train-000000.tar", small / "train-000001.tar")
    assert len(ShardSet.open(str(small)).shards) == 1


def test_a_pickle_in_an_npy_member_is_refused_and_never_run(small, rewrite_record):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    def poison(name, content):
        if not name.endswith("mel_8k.npy"):
            return content
        buffer = io.BytesIO()
        header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue() + pickle.dumps([Bomb()])

    rebuild(small / "train-000000.tar", poison)
    rewrite_record(small / "train-000000.parquet")
    with pytest.raises(UserError, match=r"mel_8k is object\(1,\), but schema"):
        rows_of(ShardSet.open(str(small)))


def test_a_member_larger_than_it_can_be_is_refused_unread(small, rewrite_record):
    rebuild(small / "train-000000.tar", lambda name, raw: b"1" * 100 if name.endswith(".cls") else raw)
    rewrite_record(small / "train-000000.parquet")
    with pytest.raises(UserError, match=r"\.cls is 100 bytes, more than can be"):
        rows_of(ShardSet.open(str(small)))


def test_a_label_that_differs_from_the_record_is_refused(small, rewrite_record):
    rebuild(small / "train-000000.tar", lambda name, raw: b"2" if name.endswith(".cls") else raw)
    rewrite_record(small / "train-000000.parquet")
    with pytest.raises(UserError, match="is of class 2, its record says 0"):
        rows_of(ShardSet.open(str(small)))


def test_a_truncated_tar_is_named_before_anything_is_read(small):
    tar = small / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"train-000000\.tar is truncated or altered: \d+ bytes, its record says \d+"):
        ShardSet.open(str(small))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("length", [700, 60_000, 700_000])
def test_a_tar_that_ends_early_is_named_though_its_record_agrees(small, rewrite_record, length, verify):
    tar = small / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:length])
    rewrite_record(small / "train-000000.parquet")
    with pytest.raises(UserError, match=r"train-000000\.tar (is damaged|ends without)"):
        rows_of(ShardSet.open(str(small)), verify=verify)


def test_a_tar_of_another_hash_than_its_record_is_named_when_read_through(small):
    tar = small / "train-000000.tar"
    raw = bytearray(tar.read_bytes())
    raw[-1] ^= 1  # in the padding: no sample changes
    tar.write_bytes(raw)
    data = ShardSet.open(str(small))
    assert len(rows_of(data, verify=False)) == 2
    with pytest.raises(UserError, match=r"train-000000\.tar has another hash than its commit record"):
        rows_of(data, verify=True)


def test_a_compressed_tar_is_refused_not_inflated(small, rewrite_record):
    tar = small / "train-000000.tar"
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    rewrite_record(small / "train-000000.parquet")
    for verify in (True, False):
        with pytest.raises(UserError, match="is damaged"):
            rows_of(ShardSet.open(str(small)), verify=verify)


def test_a_record_that_is_none_is_named(small):
    record = small / "train-000000.parquet"
    pq.write_table(pq.read_table(record).replace_schema_metadata(None), record)
    with pytest.raises(UserError, match=r"train-000000\.parquet is no commit record"):
        ShardSet.open(str(small))
    record.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        ShardSet.open(str(small))


def test_a_missing_tar_is_named(small):
    (small / "train-000000.tar").unlink()
    with pytest.raises(UserError, match=r"train-000000\.tar is missing, though its record is there"):
        ShardSet.open(str(small))


def test_a_record_of_another_recipe_is_named(small, rewrite_record):
    rewrite_record(small / "train-000000.parquet", recipe_hash="other")
    with pytest.raises(UserError, match="was built by recipe other"):
        ShardSet.open(str(small))


def test_a_set_of_another_schema_version_is_refused_by_manifest_and_by_record(small, rewrite_record):
    rewrite_record(small / "train-000000.parquet", version=7)
    with pytest.raises(UserError, match=r"train-000000\.parquet is of schema version 7, this software reads 1"):
        ShardSet.open(str(small))
    manifest = json.loads((small / "dataset.json").read_text())
    (small / "dataset.json").write_text(json.dumps(manifest | {"schema_version": 7}))
    with pytest.raises(UserError, match=r"dataset\.json is of schema version 7"):
        ShardSet.open(str(small))


def test_a_set_that_lacks_a_modality_says_which_flag_helps(small):
    data = ShardSet.open(str(small))
    data.require(["mel_8k"])
    with pytest.raises(UserError, match="has no frames; --modality audio trains on"):
        data.require(["frames", "mel_8k"])


@pytest.mark.parametrize("address", ["nosuchprotocol://x/y", "/nowhere/at/all", "/nowhere/*.tar"])
def test_an_address_that_leads_nowhere_is_one_line(address):
    with pytest.raises(UserError, match="--shards"):
        ShardSet.open(address)
