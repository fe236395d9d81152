"""Sets, sources and clips in an object store: a real S3 server on loopback, asked by the real client."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from upath import UPath

from flows.tasks import pack_in_worker
from pipeline import journal, object_lock, purge, report, shards, storage, verify
from pipeline.build import Build
from pipeline.errors import UserError
from pipeline.exclude import Excluded
from pipeline.filters.__main__ import judged_again
from pipeline.filters.thresholds import Thresholds
from pipeline.locations import folder_of
from pipeline.locking import no_writer, single_writer
from pipeline.prepare import Recipe
from pipeline.sources import list_sources
from pipeline.stages import prepare_samples
from pipeline.storage import publish_text, publishing
from pipeline.store import ClipKey, Video, open_store, standing_clips
from pipeline.workers import WorkerPool
from tests.pipeline import standing
from tests.pipeline.standing import LABELLED, build
from trainer.shards import ShardSet

s3fs = pytest.importorskip("s3fs")

ROOT = Path(__file__).parents[2]


def objects(address: str) -> dict[str, str]:
    """Hash of every object below an address."""
    fs, root = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False), address.removeprefix("s3://")
    found = {path.removeprefix(f"{root}/"): fs.cat_file(path) for path in fs.find(root)}
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in found.items()}


def of_set(address: str) -> dict[str, str]:
    """The same of a set's own files, without those of a build that goes on."""
    return {name: digest for name, digest in objects(address).items() if not name.startswith(".build/")}


def upload(folder: Path, address: str) -> None:
    s3fs.S3FileSystem().put(f"{folder}/", f"{address}/", recursive=True)


def command(*words: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    build(folder, LABELLED)
    return folder


# --- a set -----------------------------------------------------------------------------------------------------------


def test_a_set_in_a_bucket_has_the_bytes_of_one_on_a_disk_and_leaves_nothing_else(bucket, local):
    address = f"{bucket}/deep/set"
    build(folder_of(address), LABELLED)
    expected = standing.fingerprint(local)
    assert of_set(address) == expected
    assert objects(address).keys() == {*expected, ".build/request.json"}


WRITES = ("put_file", "call_s3", "rm_file", "cp_file")
"""All that changes anything in a store, but for its lock."""

EVERY = [pytest.param(12, id="at some objects"), pytest.param(1, id="at every object", marks=pytest.mark.slow)]


@contextmanager
def dying(fs, number: int) -> Iterator[None]:
    """End what runs inside before it stores or removes something for so many times."""
    left = itertools.count(number, -1)
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(fs, name, partial(_die_or, getattr(fs, name), left))
        yield


def _die_or(call, left, *words, **settings):
    if not str(words[-1]).endswith("/lock") and next(left) == 0:
        raise KeyboardInterrupt
    return call(*words, **settings)


@pytest.mark.parametrize("every", EVERY)
def test_killed_at_any_object_and_run_again_it_ends_in_the_same_bytes(bucket, tmp_path, every):
    """Die before the n-th object is stored or removed."""
    clips = [standing.Clip(name=f"{n}.mp4", label=None) for n in range(3)]
    build(tmp_path, clips)
    expected = standing.fingerprint(tmp_path)
    for n in itertools.count(every - 1, every):
        folder = folder_of(f"{bucket}/killed-{n}")
        try:
            with dying(folder.fs, n):
                build(folder, clips)
            break
        except KeyboardInterrupt:
            build(folder, clips)
        assert of_set(str(folder)) == expected, n
    assert n >= 20


@pytest.mark.slow
def test_new_clips_append_shards_and_leave_the_old_ones_alone(bucket):
    folder = folder_of(f"{bucket}/set")
    clips = [standing.Clip(name=f"{n}.mp4", label=None) for n in range(5)]
    build(folder, clips[:3])
    before = of_set(f"{bucket}/set")
    build(folder, clips)
    after = of_set(f"{bucket}/set")
    tars = {name for name in before if name.endswith(".tar")}
    assert {name: after[name] for name in tars} == {name: before[name] for name in tars}
    assert len([name for name in after if name.endswith(".tar")]) > len(tars)
    assert build(folder, clips).counts["kept"] == 5


def test_a_shard_goes_up_in_parts_and_an_upload_that_breaks_off_leaves_nothing(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "S3_PART_BYTES", 5 << 20)  # the least that S3 takes
    monkeypatch.setattr(storage, "S3_PARTS_AT_ONCE", 1)
    content = os.urandom(11 << 20)
    folder, calls = folder_of(f"{bucket}/set"), []
    real = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *words, **settings):
        calls.append(method)
        if method == "upload_part" and settings["PartNumber"] == fails_at:
            raise OSError("the line is cut")
        return await real(self, method, *words, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    fails_at = 2
    with pytest.raises(OSError, match="the line is cut"), publishing(folder / "train-000000.tar") as scratch:
        scratch.write_bytes(content)
    assert not objects(f"{bucket}/set")
    assert not scratch.exists()
    fails_at = 0
    with publishing(folder / "train-000000.tar") as scratch:
        scratch.write_bytes(content)
    assert calls.count("upload_part") == 2 + 3
    assert calls.count("abort_multipart_upload") == 1
    assert objects(f"{bucket}/set") == {"train-000000.tar": hashlib.sha256(content).hexdigest()}
    fails_at = 3
    with pytest.raises(OSError, match="the line is cut"), publishing(folder / "train-000000.tar") as scratch:
        scratch.write_bytes(content[::-1])
    assert objects(f"{bucket}/set") == {"train-000000.tar": hashlib.sha256(content).hexdigest()}


def test_a_file_that_could_not_be_made_is_not_stored(bucket):
    folder = folder_of(f"{bucket}/set")
    with pytest.raises(FileNotFoundError), publishing(folder / "x") as scratch:
        scratch.with_name("another").read_bytes()
    assert not objects(f"{bucket}/set")


def test_what_another_process_stored_meanwhile_is_seen(bucket):
    folder = folder_of(f"{bucket}/set")
    assert storage.files_in(folder, "*") == []
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    for n in range(3):
        other.pipe_file(f"{bucket}/set/part-{n}.parquet", b"1")
        assert [file.name for file in storage.files_in(folder, "part-*")] == [f"part-{i}.parquet" for i in range(n + 1)]
        assert (folder / f"part-{n}.parquet").exists()


def test_a_set_whose_name_looks_like_a_pattern_leaves_others_alone(bucket, tmp_path):
    clips = [standing.Clip(name=f"{n}.mp4", label=None) for n in range(2)]
    build(tmp_path / "set", clips)
    upload(tmp_path / "set", f"{bucket}/set1")
    publish_text(folder_of(f"{bucket}/set1/.build") / "part-1.parquet", "another's")
    before = objects(f"{bucket}/set1")
    build(folder_of(f"{bucket}/set[1]"), clips)
    assert objects(f"{bucket}/set1") == before
    assert of_set(f"{bucket}/set[1]") == standing.fingerprint(tmp_path / "set")
    assert ShardSet.open(f"{bucket}/set[1]").manifest == ShardSet.open(f"{bucket}/set1").manifest


@pytest.mark.parametrize("address", ["BUCKET/", "memory://removed/"])
@pytest.mark.parametrize("odd", ["set[1]", "set?", "set*", "**", "set{1,2}"])
def test_what_is_removed_has_this_name_and_matches_no_pattern(bucket, odd, address):
    root = UPath(address) if address.startswith("memory") else folder_of(bucket)
    for name in ("set1", odd):
        root.fs.pipe_file((root / name / ".build/part-1").path, name.encode())
    work = root / odd / ".build"
    storage.remove([*storage.files_in(work, "part-*"), work / "part-2"])  # of which one is not there
    assert storage.files_in(work, "part-*") == []
    assert (root / "set1/.build/part-1").read_text() == "set1"


def test_an_object_that_may_not_be_removed_is_told(bucket, monkeypatch):
    folder = folder_of(f"{bucket}/set")
    publish_text(folder / "a", "a")
    refused = {"Errors": [{"Key": "set/a", "Message": "Access Denied"}]}
    monkeypatch.setattr(folder.fs, "call_s3", lambda *_, **__: refused)  # the server on loopback refuses nobody
    with pytest.raises(OSError, match="set/a cannot be removed: Access Denied"):
        storage.remove([folder / "a"])


def test_more_objects_are_removed_than_one_request_takes(bucket, monkeypatch):
    monkeypatch.setattr(storage, "S3_REMOVED_AT_ONCE", 2)
    folder = folder_of(f"{bucket}/set")
    for n in range(5):
        publish_text(folder / f"a{n}", "a")
    storage.remove(storage.files_in(folder, "a[0-3]"))
    assert objects(f"{bucket}/set").keys() == {"a4"}


def test_a_large_table_is_read_in_ranges(bucket, local, monkeypatch):
    upload(local, f"{bucket}/set")
    whole = shards.read_rows(local / "index.parquet")
    monkeypatch.setattr(storage, "WHOLE_BYTES", 100)
    index = folder_of(f"{bucket}/set") / "index.parquet"
    assert shards.read_rows(index) == whole
    kept = shards.read_rows(index, ["key"], only=shards.Only("status", "kept"))
    assert [row["key"] for row in kept] == [row["key"] for row in whole if row["status"] == "kept"]


@pytest.mark.slow
def test_requests_of_a_build_grow_with_its_clips_by_few_each(bucket, monkeypatch):
    real, calls = s3fs.S3FileSystem._call_s3, []

    async def counted(self, method, *words, **settings):
        calls.append(method)
        return await real(self, method, *words, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    needed = {}
    for count in (8, 40):
        clips = [standing.Clip(name=f"{n}.mp4", label=None) for n in range(count)]
        folder, calls[:] = folder_of(f"{bucket}/set-{count}"), []
        order = standing.request(folder, clips, samples_per_shard=1000)
        order.begin()
        outcomes = [shards.prepared(clip.source, standing.outcome(clip, "audio")) for clip in clips]
        for first in range(0, count, 8):
            shards.write_part(order.work, order.sources[first : first + 8], outcomes[first : first + 8])
        order.make_plan()
        standing.pack(order)
        order.finish()
        needed[count] = len(calls)
    assert (needed[40] - needed[8]) / 32 < 5, needed  # up, down, and its share of parts and shard


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(bucket, local) -> str:
    """The local set's copy in a bucket."""
    upload(local, f"{bucket}/set")
    return f"{bucket}/set"


def test_a_sound_set_verifies_and_a_damaged_object_is_found(remote, local, capsys):
    assert verify.main([remote]) == 0, capsys.readouterr()
    told = capsys.readouterr().out
    assert verify.main([str(local)]) == 0
    assert told == capsys.readouterr().out
    tar = next(iter(sorted(local.glob("*.tar"))))
    raw = bytearray(tar.read_bytes())
    raw[len(raw) // 2] ^= 1
    s3fs.S3FileSystem().pipe_file(f"{remote}/{tar.name}", bytes(raw))
    assert verify.main([remote]) == 1
    assert tar.name in capsys.readouterr().out
    s3fs.S3FileSystem().rm_file(f"{remote}/{tar.name}")
    assert verify.main([remote]) == 1
    assert f"{tar.stem}.parquet: is the record of a tar that is not there" in capsys.readouterr().out


def test_card_and_page_are_drawn_anew(remote, local):
    s3fs.S3FileSystem().rm_file(f"{remote}/report.html")
    assert report.main([remote]) == 0
    assert of_set(remote) == standing.fingerprint(local)


@pytest.mark.parametrize("every", EVERY[1:])
def test_a_purge_ends_as_one_on_a_disk_wherever_it_was_killed(bucket, local, tmp_path, every, capsys):
    here = standing.copy(local, tmp_path / "here")
    keys = [row["key"] for row in shards.read_rows(here / "index.parquet") if row["status"] == "kept"]
    (tmp_path / "ids.txt").write_text("\n".join([keys[0], keys[3], keys[-1]]))
    words = ["--ids", str(tmp_path / "ids.txt")]
    assert purge.main([str(here), *words]) == 0
    expected = standing.fingerprint(here)
    for n in itertools.count(every - 1, every):
        address = f"{bucket}/purged-{n}"
        upload(local, address)
        with dying(folder_of(address).fs, n):
            ended = purge.main([address, *words]) == 0
        if not ended:
            began = journal.file_of(folder_of(address)).exists()
            assert verify.main([address]) == 0, (n, capsys.readouterr())
            if not began:
                assert purge.main([address, *words]) == 0
        told = of_set(address)
        assert told | {journal.LOG: ""} == expected | {journal.LOG: ""}, n  # the log tells when
        if ended:
            break
    assert n >= 10


def test_tables_of_a_bucket_are_read_in_the_thread_that_asks(remote, monkeypatch, capsys):
    """Arrow's own threads would hold on to a handle, and abort a process that ends meanwhile."""
    threads = set()

    class Handle(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            threads.add(threading.get_ident())
            return super().read(size)

    monkeypatch.setattr(storage, "WHOLE_BYTES", 0)
    monkeypatch.setattr(storage, "_stream", lambda file, step_bytes: Handle(storage.read_bytes(file)))
    folder = folder_of(remote)
    (tar, *_) = shards.committed_shards(folder)
    (first, *_) = shards.read_rows(shards.record_of(tar))
    assert shards.read_rows(shards.record_of(tar), only=shards.Only("key", first["key"])) == [first]
    assert list(judged_again(folder, Thresholds()))
    assert verify.main([remote]) == 0, capsys.readouterr()
    report.publish(folder, shards.read_manifest(folder))
    assert threads == {threading.get_ident()}


@pytest.mark.slow
def test_thresholds_are_tried_on_a_set_in_a_bucket(remote, local):
    assert command("pipeline.filters", remote)[:2] == command("pipeline.filters", str(local))[:2]


def test_room_for_a_purge_is_that_for_the_copy_of_a_shard_and_the_new_one(remote, local, tmp_path, monkeypatch, capsys):
    tar = max((file.stat().st_size, file) for file in local.glob("*.tar"))[1]
    key = shards.read_rows(shards.record_of(tar))[0]["key"]
    (tmp_path / "ids.txt").write_text(key)
    monkeypatch.setattr(purge, "SPARE_BYTES", 0)
    index = 2 * (local / "index.parquet").stat().st_size
    monkeypatch.setattr(purge, "free_bytes", lambda _: index + tar.stat().st_size + 1)
    words = ["--ids", str(tmp_path / "ids.txt"), "--dry-run"]
    assert purge.main([str(local), *words]) == 0
    assert purge.main([remote, *words]) == 2
    assert "temporary files (TMPDIR) has" in capsys.readouterr().err


def test_a_set_in_a_bucket_is_excluded_like_one_on_a_disk(remote, local):
    there, here = Excluded.of([folder_of(remote)]), Excluded.of([local])
    assert there.identities == here.identities != {}


# --- one writer ------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_and_the_lock_goes_with_the_first(bucket):
    folder = folder_of(f"{bucket}/set/.build")
    with single_writer(folder, doing="building it", flag="--out"):
        with pytest.raises(UserError, match="another process is building it; wait for it, or choose another --out"):
            with single_writer(folder, doing="building it", flag="--out"):
                pass
        with pytest.raises(UserError, match="another process is writing"), no_writer(folder):
            pass
        told = json.loads(s3fs.S3FileSystem().cat_file(f"{bucket}/set/.build/lock"))
        assert told["pid"] == os.getpid()
    assert not objects(f"{bucket}/set")
    with no_writer(folder):
        assert not objects(f"{bucket}/set")


def test_of_many_writers_that_begin_at_once_one_goes_on(bucket):
    folder, entered, refused = folder_of(f"{bucket}/set/.build"), [], []
    together, done = threading.Barrier(8), threading.Event()

    def write(number: int) -> None:
        lock = object_lock._Lock(folder / "lock")
        together.wait()
        (entered if object_lock._make(lock) or object_lock._take_over(lock) else refused).append(number)
        done.wait()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    while len(entered) + len(refused) < 8:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(entered) == 1


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        ({}, False),
        ({"host": "another machine"}, False),
        ({"host": "another machine", "renewed": time.time() - object_lock.STALE_AFTER_S - 60}, True),
        ({"pid": 2**22 + 1}, True),  # no process has such a number
        ({"renewed": "yesterday"}, True),
    ],
)
def test_a_lock_is_taken_over_from_whoever_is_gone(bucket, change, goes_on):
    folder = folder_of(f"{bucket}/set/.build")
    told = {"host": object_lock._here(), "pid": os.getppid(), "renewed": time.time(), "token": "x"} | change
    s3fs.S3FileSystem().pipe_file(f"{bucket}/set/.build/lock", json.dumps(told).encode())
    try:
        with single_writer(folder, doing="building it", flag="--out"):
            assert goes_on
    except UserError:
        assert not goes_on
    assert bool(objects(f"{bucket}/set")) != goes_on


def test_a_lock_is_renewed_and_whoever_lost_his_writes_no_more(bucket, monkeypatch):
    monkeypatch.setattr(object_lock, "RENEWED_EVERY_S", 0.05)
    folder = folder_of(f"{bucket}/set")
    fs = s3fs.S3FileSystem()
    with single_writer(folder / ".build", doing="building it", flag="--out"):
        first = fs.cat_file(f"{bucket}/set/.build/lock")
        while (told := fs.cat_file(f"{bucket}/set/.build/lock")) == first:
            time.sleep(0.01)
        assert json.loads(told)["token"] == json.loads(first)["token"]
        publish_text(folder / "a", "mine")
        lock = object_lock._held[f"{bucket}/set/.build/lock"]
        fs.pipe_file(f"{bucket}/set/.build/lock", json.dumps(json.loads(told) | {"token": "another's"}).encode())
        while not lock.is_lost:  # the thread may have renewed it in between
            fs.pipe_file(f"{bucket}/set/.build/lock", json.dumps(json.loads(told) | {"token": "another's"}).encode())
            time.sleep(0.01)
        with pytest.raises(UserError, match="run the same command again"):
            publish_text(folder / "b", "mine too")
    assert objects(f"{bucket}/set").keys() == {"a", ".build/lock"}  # and the other's lock stays


@pytest.mark.parametrize("place", ["", "/set"])
def test_whoever_lost_his_lock_writes_and_removes_no_more_in_a_whole_bucket_either(bucket, place):
    folder, another = folder_of(f"{bucket}{place}"), UPath(f"{bucket}-2/set" if not place else f"{bucket}/set2")
    another.fs.mkdirs(f"{another.path}/")  # makes the bucket, where there is none
    publish_text(folder / "part-1.parquet", "another's by now")
    with single_writer(folder / ".build", doing="building it", flag="--out"):
        (lock,) = object_lock._held.values()
        lock.taken = True
        with pytest.raises(UserError, match="run the same command again"):
            publish_text(folder / "b", "mine too")
        with pytest.raises(UserError, match="run the same command again"):
            storage.remove([folder / "part-1.parquet"])
        publish_text(another / "b", "under no lock")
    assert [file.name for file in storage.files_in(folder, "*.parquet", "b")] == ["part-1.parquet"]


@pytest.mark.parametrize("change", [{"token": "another's"}, {"renewed": time.time() - object_lock.LOST_AFTER_S - 9}])
def test_a_worker_commits_no_shard_once_its_flow_lost_the_lock(bucket, change):
    folder, clips = folder_of(f"{bucket}/set"), [standing.Clip(name=f"{n}.mp4", label=None) for n in range(4)]
    order = standing.request(folder, clips)
    with single_writer(folder / ".build", doing="building it", flag="--out"), WorkerPool(1) as workers:
        order.begin()
        for clip in clips:
            shards.write_part(
                order.work, [clip.source], [shards.prepared(clip.source, standing.outcome(clip, "audio"))]
            )
        order.make_plan()
        first, second = order.shards_to_pack()
        pack_in_worker.fn(workers, folder, first, None, order.recipe.hash)
        file = f"{bucket}/set/.build/lock"
        told = json.loads(s3fs.S3FileSystem().cat_file(file))
        s3fs.S3FileSystem().pipe_file(file, json.dumps(told | change).encode())
        with pytest.raises(UserError, match="run the same command again"):
            pack_in_worker.fn(workers, folder, second, None, order.recipe.hash)
        (lock,) = object_lock._held.values()
        assert not lock.is_lost  # the flow did not look yet
    committed = [shards.record_of(tar).name for tar in shards.committed_shards(folder)]
    assert committed == [first.replace(".tar", ".parquet")]
    assert second.replace(".tar", ".parquet") not in objects(f"{bucket}/set")


# --- sources and clips -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_videos_in_a_bucket_make_the_set_that_they_make_on_a_disk(bucket, tmp_path, make_media):
    videos = tmp_path / "videos"
    for n, name in enumerate(["a/one [x].mp4", "b#2?.mp4"]):
        make_media(videos / name, sound=f"sine=frequency={300 + 200 * n}:sample_rate=44100")
    (videos / "no video.mp4").write_text("text\n")
    (videos / "notes.txt").write_text("not listed")
    upload(videos, f"{bucket}/videos")
    made = {}
    for name, source, out in (
        ("local", str(videos), tmp_path / "set"),
        ("remote", f"{bucket}/videos", folder_of(f"{bucket}/set")),
    ):
        order = Build.request(
            out=out,
            sources=list_sources(source),
            recipe=Recipe(modality="audio"),
            seed=0,
            labelled=None,
            split_rule=None,
            samples_per_shard=8,
        )
        order.begin()
        standing.prepare(order, order.pending())
        order.make_plan()
        standing.pack(order)
        made[name] = order.finish().counts
    assert made["local"] == made["remote"] | {"kept": 2}
    assert of_set(f"{bucket}/set") == standing.fingerprint(tmp_path / "set")


def test_keys_that_are_no_paths_are_rejected_with_the_reason_and_folders_are_no_videos(bucket):
    fs = s3fs.S3FileSystem()
    for key in ("sub/a.mp4", "sub//b.mp4", "c/./d.mp4"):
        fs.pipe_file(f"{bucket}/odd/{key}", b"text")
    fs.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key="odd/folder.mp4/", Body=b"")
    found = {source.source_id: source.problem for source in list_sources(f"{bucket}/odd")}
    told = ("unavailable", "a key with empty parts or dots is no path; rename it")
    assert found == {"sub/a.mp4": None, "sub//b.mp4": told, "c/./d.mp4": told}


def test_a_video_that_is_gone_is_rejected_and_one_that_cannot_be_had_is_tried_again(bucket, monkeypatch):
    s3fs.S3FileSystem().pipe_file(f"{bucket}/videos/a.mp4", b"text")
    source = list_sources(f"{bucket}/videos")[0]
    work = folder_of(f"{bucket}/set/.build")
    (failed,) = _prepared_where_the_line_is_cut(work, source, monkeypatch)
    assert (failed["status"], failed["code"]) == ("failed", "network")
    s3fs.S3FileSystem().rm_file(f"{bucket}/videos/a.mp4")
    (gone,) = prepare_samples(work, [source], Recipe(), 0)
    assert (gone["status"], gone["code"], gone["detail"]) == ("rejected", "unavailable", "no such file")


def _prepared_where_the_line_is_cut(work, source, monkeypatch):
    def cut(*_, **__):
        raise OSError("the line is cut")

    with monkeypatch.context() as broken:
        broken.setattr(source.path.fs, "get_file", cut)
        return prepare_samples(work, [source], Recipe(), 0)


@pytest.fixture
def clip_store(bucket, tmp_path) -> tuple[Path, str, ClipKey, str]:
    """A crawl's record, and the place of its one clip in a bucket."""
    key = ClipKey(video_id="site:1", number=0, seed=0, modality="both")
    with open_store(tmp_path / "store", clips=folder_of(f"{bucket}/clips")) as store:
        store.add_listings({"search": [Video(video_id="site:1", link="https://site.example/1")]})
        store.enqueue([key])
        file = store.fetching / "clip.mkv"
        file.write_bytes(b"a clip")
        store.set_fetched(key, file, fetch_s=1.0, versions={})
        assert not file.exists()
    return tmp_path / "store", f"{bucket}/clips", key, hashlib.sha256(b"a clip").hexdigest()


def test_fetched_clips_lie_in_a_bucket_and_the_store_remembers_where(clip_store):
    folder, address, key, digest = clip_store
    assert objects(address) == {f"{digest[:2]}/{digest}.mkv": digest}
    assert not (folder / "clips").exists()
    assert standing_clips(folder) == folder_of(address)  # where a cluster's workers look
    with open_store(folder) as store:
        assert store.has_clip(digest)
        assert not store.has_clip("0" * 64)
        store.set_outcome(key, "kept")
        store.drop_files([digest])
        assert not store.has_clip(digest)
    assert not objects(address)


def test_clips_that_are_gone_are_not_removed_again_one_by_one(clip_store, monkeypatch):
    folder, address, key, digest = clip_store
    calls = []
    with open_store(folder) as store:
        store.set_outcome(key, "kept")
        real = store.clips_folder.fs.call_s3
        monkeypatch.setattr(
            store.clips_folder.fs, "call_s3", lambda *words, **how: calls.append(how) or real(*words, **how)
        )
        others = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(50)]
        for _ in range(2):
            store.drop_files([*others, digest])
    assert len(calls) == 1
    assert [file["Key"] for file in calls[0]["Delete"]["Objects"]] == [f"clips/{digest[:2]}/{digest}.mkv"]
    assert not objects(address)


def test_a_purge_of_the_store_removes_the_clip_from_the_bucket(clip_store):
    folder, address, _, _ = clip_store
    with open_store(folder) as store:
        store.purge({"site:1"}, [], "taken down")
    assert not objects(address)


def test_a_store_keeps_its_clips_where_they_are(clip_store, tmp_path):
    folder, address, _, _ = clip_store
    with pytest.raises(UserError, match=f"the clips of .* lie in {address}"):
        with open_store(folder, clips=tmp_path / "elsewhere"):
            pass
    with open_store(folder, clips=folder_of(f"{address}/")):
        pass
    with open_store(tmp_path / "other"):
        (tmp_path / "other/clips").mkdir()
    with pytest.raises(UserError, match="name another --store"), open_store(tmp_path / "other", clips=tmp_path / "b"):
        pass


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ftp://host/set", "is no folder; give one of this machine, or s3://bucket/folder"),
        ("s3://", "is no folder"),
        ("s3:///set", "is no folder"),
        ("memory://sets/set", "is no folder"),
        ("s3:/bucket/set", "is no address; write s3://bucket/set, or ./s3:/bucket/set if it is a folder"),
        ("S3:bucket/set", "is no address; write s3://bucket/set, or"),
        ("file:/bucket/set", "a folder of this machine is /folder or file:///folder"),
        ("file://host/set", "a folder of this machine is /folder or file:///folder"),
        ("S3://no-such-bucket-here/set", "there is no bucket no-such-bucket-here"),
        ("s3://key:secret@bucket/set", "put them into the environment"),
        ("s3://no-such-bucket-here/set", "there is no bucket no-such-bucket-here"),
        ("gs://bucket/set", "needs the package gcsfs, which is not installed"),
    ],
)
def test_an_address_that_cannot_be_used_is_told(bucket, address, told):
    with pytest.raises(UserError) as error:
        folder_of(address, flag="--out")
    assert told in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["pipeline.verify", "s3://no-such-bucket-here/set"], {}, "there is no bucket no-such-bucket-here"),
        (["pipeline.verify", "BUCKET/set"], {}, "BUCKET/set holds no data set"),
        (["pipeline.report", "BUCKET/set"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached"),
        (
            ["pipeline.purge", "BUCKET/set", "--ids", "none"],
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "cannot be reached: Unable to locate credentials",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(bucket, words, environment, told):
    code, out, err = command(*(word.replace("BUCKET", bucket) for word in words), **environment)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert told.replace("BUCKET", bucket) in err


@pytest.mark.slow
def test_credentials_that_the_store_does_not_know_are_told(bucket, object_store):
    def enforce(after: bytes) -> None:
        address, kind = f"{object_store}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(address, data=after, headers=kind, method="POST")
        urllib.request.urlopen(request).close()

    enforce(b"0")
    try:
        code, out, err = command("pipeline.verify", f"{bucket}/set")
    finally:
        enforce(b"inf")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "cannot be reached" in err
    assert "secret" not in err


@pytest.mark.slow
def test_without_the_package_the_extra_is_named(bucket):
    told = "import sys; sys.modules['s3fs'] = None; from pipeline.verify import main; sys.exit(main([sys.argv[1]]))"
    done = subprocess.run([sys.executable, "-c", told, f"{bucket}/set"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "needs the package s3fs, which is not installed: pip install 'music-video-emotion[s3]'" in done.stderr


# --- another store ---------------------------------------------------------------------------------------------------


def test_a_store_of_another_kind_holds_the_same_set_and_lock(local):
    folder = UPath("memory://sets/set")
    build(folder, LABELLED)
    assert [file.name for file in storage.files_in(folder, "*")] == sorted(file.name for file in local.iterdir())
    for tar in shards.committed_shards(local):
        assert storage.read_bytes(folder / tar.name) == tar.read_bytes()
    with single_writer(folder / ".build", doing="building it", flag="--out"):
        with pytest.raises(UserError, match="another process"), no_writer(folder / ".build"):
            pass
        with pytest.raises(UserError, match="another process"):
            with single_writer(folder / ".build", doing="building it", flag="--out"):
                pass
    with no_writer(folder / ".build"):
        pass
