from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clips import ClipSpan
from pipeline.errors import UserError
from pipeline.store import STORE_VERSION, ClipKey, Store, Video, open_store

SPAN = ClipSpan(start_s=37.219)
VERSIONS = {"yt-dlp": "2026.1.1", "ffmpeg": "5.1.9"}


def video(number: int, **known: object) -> Video:
    return Video(video_id=f"site:{number}", link=f"https://a.org/{number}", **known)  # type: ignore[arg-type]


def key(number: int) -> ClipKey:
    return ClipKey(video_id=f"site:{number}", number=0, seed=0, modality="both")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """A store with three videos of one search, a clip of each queued."""
    with open_store(folder) as store:
        store.add_listings({"search": [video(1), video(2), video(3)]})
        store.enqueue([key(1), key(2), key(3)])
        yield store


def download(folder: Path, content: bytes = b"a clip") -> Path:
    file = folder / "fetching" / "clip.mkv"
    file.write_bytes(content)
    return file


# --- listings --------------------------------------------------------------------------------------------------------


def test_a_request_is_listed_once_its_results_are_in_even_if_there_are_none(store):
    assert store.is_listed("search")
    assert not store.is_listed("Search")
    store.add_listings({"nothing": []})
    assert store.is_listed("nothing")
    assert store.videos(["nothing", "never asked"]) == []


def test_videos_come_in_the_order_of_requests_and_results_each_once(store):
    store.add_listings({"other": [video(5), video(2), video(4), video(5)]})
    assert [v.video_id for v in store.videos(["other", "search"])] == [f"site:{n}" for n in (5, 2, 4, 1, 3)]
    assert [v.video_id for v in store.videos(["search", "other", "search"])] == [f"site:{n}" for n in (1, 2, 3, 5, 4)]


def test_a_video_keeps_what_is_known_and_the_request_that_listed_it_first(store):
    store.set_resolved(video(2, title="A Song", duration_s=230.0, licence="CC BY", upload_date="20210304"))
    store.add_listings({"other": [video(2, title="another title", duration_s=1.0)]})
    known = store.video("site:2")
    (listed,) = store.videos(["other"])
    assert replace(listed, request="") == known
    assert (listed.request, store.videos(["search", "other"])[2 - 1].request) == ("other", "search")
    assert (known.title, known.duration_s, known.resolved) == ("A Song", 230.0, True)
    assert (known.licence, known.upload_date, known.uploader) == ("CC BY", "20210304", None)


def test_listings_are_recorded_all_or_none(store):
    with pytest.raises(sqlite3.IntegrityError):
        store.add_listings({"new": [video(7)], "search": [video(8)]})  # the second stands already
    assert not store.is_listed("new")
    assert store.videos(["new"]) == []
    store.add_listings({"new": [video(7)]})  # and the store is usable


OLDER_TABLES = """
CREATE TABLE listed (request TEXT PRIMARY KEY);
CREATE TABLE listing (request TEXT, position INTEGER, video TEXT NOT NULL, link TEXT NOT NULL,
    PRIMARY KEY (request, position));
CREATE TABLE video (id TEXT PRIMARY KEY, link TEXT NOT NULL, page_id TEXT, code TEXT, detail TEXT, title TEXT,
    uploader TEXT, upload_date TEXT, licence TEXT, duration_s REAL, resolved INTEGER NOT NULL DEFAULT 0);
CREATE TABLE clip (video TEXT NOT NULL REFERENCES video(id), number INTEGER NOT NULL, seed INTEGER NOT NULL,
    modality TEXT NOT NULL, start_s REAL, length_s REAL, state TEXT NOT NULL DEFAULT 'queued', code TEXT, detail TEXT,
    sha256 TEXT, num_bytes INTEGER, fetch_s REAL, versions TEXT, PRIMARY KEY (video, number, seed, modality));
INSERT INTO listed VALUES ('search');
INSERT INTO listing VALUES ('search', 0, 'site:1', 'https://a.org/1'), ('search', 1, 'site:2', 'https://a.org/2');
INSERT INTO video (id, link, title, resolved) VALUES ('site:1', 'https://a.org/1', 'A Song', 1);
INSERT INTO video (id, link, title) VALUES ('site:2', 'https://a.org/2', 'Another');
INSERT INTO clip (video, number, seed, modality, state) VALUES ('site:1', 0, 0, 'both', 'kept');
PRAGMA user_version = 1;
"""


def test_a_store_of_the_first_version_gains_descriptions_and_keeps_what_it_holds(folder):
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "crawl.sqlite")) as database:
        database.executescript(OLDER_TABLES)
    page = video(2, title="Another", description="It tells.", categories=("Music", 'a "word", and more'))
    with open_store(folder) as store:
        first, _ = store.videos(["search"])
        assert (first.title, first.resolved, first.description, first.categories) == ("A Song", True, None, ())
        assert store.clip(key(1)).state == "kept"
        store.set_resolved(page)
    with open_store(folder) as store:  # it is of today's version now
        assert replace(store.video("site:2"), resolved=False) == page
        assert store.video("site:1").title == "A Song"


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_clip_goes_from_queued_to_fetched_to_kept(store, folder):
    assert store.clip(key(1)).state == "queued"
    assert store.clip(key(1)).span is None
    store.set_span(key(1), SPAN)
    assert (store.clip(key(1)).state, store.clip(key(1)).span) == ("queued", SPAN)
    store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
    assert (store.clip(key(1)).state, store.clip(key(1)).versions) == ("fetched", VERSIONS)
    store.settle([(key(1), "kept", None, None)])
    assert store.clip(key(1)).state == "kept"
    assert store.clip(key(1)).sha256 == hashlib.sha256(b"a clip").hexdigest()
    assert {clip.state for clip in (store.clip(key(2)), store.clip(key(3)))} == {"queued"}


def test_a_failure_that_is_mended_later_leaves_no_trace(store, folder):
    store.set_outcome(key(1), "failed", code="network", detail="the site broke off")
    assert (store.clip(key(1)).code, store.clip(key(1)).detail) == ("network", "the site broke off")
    store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
    assert (store.clip(key(1)).state, store.clip(key(1)).code, store.clip(key(1)).detail) == ("fetched", None, None)


def test_no_later_verdict_replaces_a_take_down(store):
    store.purge(["site:1"], [], "taken down")
    store.set_outcome(key(1), "rejected", code="text", detail="rule x")
    assert store.clip(key(1)).code == "purged"


def test_a_take_down_leaves_no_words_of_the_video(store, folder):
    store.set_resolved(video(1, title="Marked", description="Marked", categories=("Marked",)))
    store.purge(["site:1"], [], "taken down")
    known = store.video("site:1")
    assert (known.title, known.description, known.categories) == (None, None, ())


def test_only_the_schemas_codes_are_recorded(store):
    with pytest.raises(ValueError, match="unknown code 'boredom'"):
        store.set_outcome(key(1), "rejected", code="boredom")
    assert store.clip(key(1)).state == "queued"


def test_what_a_set_made_of_its_clips_is_recorded_all_or_none(store):
    def outcomes() -> Iterator[tuple[ClipKey, str, str | None, str | None]]:
        yield key(1), "kept", None, None
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        store.settle(outcomes())
    assert {clip.state for clip in store.clips().values()} == {"queued"}
    store.settle([(key(1), "rejected", "static", "why"), (key(2), "failed", "internal", "trace\nback")])
    assert [clip.state for clip in store.clips().values()] == ["rejected", "failed", "queued"]
    assert store.clip(key(2)).detail == "trace\nback"


def test_queueing_again_changes_nothing_and_brings_what_is_new(store):
    store.set_outcome(key(2), "rejected", code="private", detail="why")
    before = store.clips()
    store.enqueue([key(1), key(2), key(3), replace(key(2), number=1)])
    assert {k: clip for k, clip in store.clips().items() if k in before} == before
    assert store.clip(replace(key(2), number=1)).state == "queued"


@pytest.mark.parametrize("changes", [{"number": 1}, {"seed": 1}, {"modality": "audio"}])
def test_clips_of_another_number_seed_or_modality_have_states_of_their_own(store, changes):
    other = replace(key(1), **changes)
    store.enqueue([other])
    store.set_span(other, SPAN)
    store.set_outcome(other, "rejected", code="live", detail="why")
    assert (store.clip(key(1)).state, store.clip(key(1)).span) == ("queued", None)
    assert (store.clip(other).state, store.clip(other).span) == ("rejected", SPAN)


def test_all_is_there_when_the_store_is_opened_again(folder):
    with open_store(folder) as store:
        store.add_listings({"search": [video(1, title="tränen\x00🎵")]})
        store.enqueue([key(1)])
        store.set_span(key(1), SPAN)
        path = store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
        before = store.clips(), store.videos(["search"])
    with open_store(folder) as store:
        assert (store.clips(), store.videos(["search"])) == before
        assert store.clip_file(store.clip(key(1)).sha256 or "") == path
        assert path.read_bytes() == b"a clip"


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_clips_file_is_named_by_its_content(store, folder):
    download_file = download(folder)
    path = store.set_fetched(key(1), download_file, fetch_s=4.0, versions=VERSIONS)
    digest = hashlib.sha256(b"a clip").hexdigest()
    assert path == folder / "clips" / digest[:2] / f"{digest}.mkv" == store.clip_file(digest)
    assert not download_file.exists()


def test_the_same_content_again_is_the_same_file(store, folder):
    paths = [store.set_fetched(key(n), download(folder), fetch_s=4.0, versions=VERSIONS) for n in (1, 1, 2)]
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == b"a clip"
    assert [p.name for p in (folder / "clips").rglob("*") if p.is_file()] == [paths[0].name]
    assert store.clip(key(1)).sha256 == store.clip(key(2)).sha256


def test_a_file_dropped_leaves_its_row_and_dropping_it_again_is_no_mistake(store, folder):
    path = store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
    digest = store.clip(key(1)).sha256
    store.drop_files([digest])
    assert path.exists()  # it waits to be prepared
    store.set_outcome(key(1), "kept")
    for _ in range(2):
        store.drop_files([digest])
        assert not path.exists()
    assert (store.clip(key(1)).state, store.clip(key(1)).sha256) == ("kept", digest)


def test_earlier_fetches_give_the_estimates_their_figures(store, folder):
    assert (store.seconds_a_fetch(), store.bytes_a_clip()) == (None, None)
    for number, fetch_s in ((1, 100.0), (2, 3.0), (3, 4.0)):
        store.set_fetched(key(number), download(folder, b"x" * number), fetch_s=fetch_s, versions=VERSIONS)
    assert (store.seconds_a_fetch(), store.bytes_a_clip()) == (4.0, 2.0)


def test_leftovers_of_a_killed_crawl_are_swept_and_the_clips_are_not(folder):
    with open_store(folder) as store:
        store.add_listings({"search": [video(1)]})
        store.enqueue([key(1)])
        path = store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
    (folder / "fetching/tmp_x/deep").mkdir(parents=True)
    (folder / "fetching/tmp_x/deep/clip.mkv.part").write_bytes(b"half")
    (folder / "fetching/stray.part").write_bytes(b"half")
    (folder / "fetching/elsewhere").symlink_to(folder / "clips")
    with open_store(folder):
        assert list((folder / "fetching").iterdir()) == []
        assert path.exists()


# --- killed anywhere -------------------------------------------------------------------------------------------------

KILLED_AT_EVERY_LINE = '''
"""Do it in children that kill themselves at the 1st, 2nd, 3rd... line of store.py, with a look at the store after each.

A child that comes to the end ends the loop.
"""
import hashlib, os, signal, sys
from pathlib import Path

from pipeline import store as module
from pipeline.clips import ClipSpan
from pipeline.store import ClipKey, Video, open_store

folder = Path(sys.argv[1])
keys = [ClipKey(video_id=f"site:{n}", number=0, seed=0, modality="both") for n in range(2)]
content = b"a clip"
digest = hashlib.sha256(content).hexdigest()


def work(store):
    if not store.is_listed("search"):
        store.add_listings({"search": [Video(video_id=k.video_id, link=k.video_id) for k in keys]})
    store.enqueue(keys)
    store.set_span(keys[0], ClipSpan(start_s=1.0))
    (store.fetching / "clip.mkv").write_bytes(content)
    store.set_fetched(keys[0], store.fetching / "clip.mkv", fetch_s=1.0, versions={})
    store.settle([(keys[0], "kept", None, None), (keys[1], "rejected", "private", "why")])


def killed_at(number):
    left = number

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    with open_store(folder) as store:
        work(store)
    sys.settrace(None)


moments = set()
for number in range(1, 2000):
    pid = os.fork()
    if pid == 0:
        killed_at(number)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    with open_store(folder) as store:
        listed, videos = store.is_listed("search"), store.videos(["search"])
        assert len(videos) == (2 if listed else 0), (number, videos)
        clips = store.clips()
        assert len(clips) in (0, 2), (number, clips)
        if clips:
            one, other = clips[keys[0]], clips[keys[1]]
            assert (one.state, other.state) in (("queued", "queued"), ("fetched", "queued"), ("kept", "rejected"))
            if one.state != "queued":
                assert one.span == ClipSpan(start_s=1.0), (number, one)
                assert store.clip_file(one.sha256).read_bytes() == content, (number, "a record without its file")
            else:
                assert one.sha256 is None
        file = store.clip_file(digest)
        moments.add((listed, len(clips), clips[keys[0]].state if clips else None, file.exists()))
        assert not file.exists() or file.read_bytes() == content
        assert list(store.fetching.iterdir()) == []
    if os.waitstatus_to_exitcode(status) == 0:
        break
    # From nothing again, as long as that is not what is looked at.
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
else:
    raise SystemExit("it never came to the end")
assert (True, 2, "queued", True) in moments, moments  # a file without a record
print(number, "lines")
'''


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_line_the_store_is_whole_and_no_record_is_without_its_file():
    memory = Path("/dev/shm")  # nothing is written to a disk 180 times where there is one of these
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT_EVERY_LINE, f"{folder}/store"], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 80


def test_a_file_without_a_record_is_taken_over_by_the_next_fetch(store, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store, "_update", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
    assert (store.clip(key(1)).state, store.clip(key(1)).sha256) == ("queued", None)
    path = store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
    assert path.read_bytes() == b"a clip"
    assert store.clip(key(1)).state == "fetched"


# --- what may be in the way ------------------------------------------------------------------------------------------


def test_two_crawls_into_one_store_are_one_too_many(store, folder):
    line = f"another process is crawling into {folder}; wait for it, or choose another --store"
    with pytest.raises(UserError, match=line), open_store(folder):
        pass
    store.set_span(key(1), SPAN)  # the first one is not disturbed


def test_a_store_left_by_an_error_can_be_opened_again(folder):
    with pytest.raises(RuntimeError), open_store(folder):
        raise RuntimeError
    with open_store(folder):
        pass


def newer(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA user_version = {STORE_VERSION + 1}")


def others(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE songs (name TEXT)")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda file: file.write_text("no database, but quite a long text\n" * 100), "file is not a database"),
        (lambda file: file.mkdir(), "cannot be opened .unable to open database file"),
        (newer, f"is of version {STORE_VERSION + 1}, this software reads {STORE_VERSION}"),
        (others, "is another program's"),
    ],
)
def test_a_file_that_is_no_such_record_is_left_alone_and_told_in_one_line(folder, make, line):
    folder.mkdir()
    file = folder / "crawl.sqlite"
    make(file)
    before = file.read_bytes() if file.is_file() else None
    for _ in range(2):  # nor does the first try change what the second one finds
        with pytest.raises(UserError, match=line) as caught, open_store(folder):
            pass
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)
        assert "--store" in str(caught.value)
    assert before is None or file.read_bytes() == before


def test_a_store_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written: .*; mend that, or choose another --store"):
        with open_store(tmp_path / "file/store"):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read_is_told_in_one_line(folder):
    with open_store(folder):
        pass
    folder.chmod(0o500)
    (folder / "lock").chmod(0o400)
    try:
        with pytest.raises(UserError, match="cannot be written"), open_store(folder):
            pass
    finally:
        folder.chmod(0o700)


def test_a_full_disk_is_told_in_one_line_and_loses_nothing(store, folder):
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    many = [video(number, title="x" * 500) for number in range(100, 200)]
    line = r"crawl.sqlite cannot be written \(database or disk is full\); mend that and run again"
    with pytest.raises(UserError, match=line) as told:
        store.add_listings({"big": many})
    assert "\n" not in str(told.value)
    assert not store.is_listed("big")
    assert store.videos(["big"]) == []
    store._database.execute("PRAGMA max_page_count = 100000")
    store.add_listings({"big": many})
    assert len(store.videos(["big"])) == 100


def test_a_disk_too_full_for_the_clip_leaves_it_queued(store, folder, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.store.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.set_fetched(key(1), download(folder), fetch_s=4.0, versions=VERSIONS)
    assert store.clip(key(1)).state == "queued"
    assert not (folder / "clips").exists()


# --- threads ---------------------------------------------------------------------------------------------------------


def test_many_threads_may_call_at_once(folder):
    """Each brings clips of its own through all states, and must never see another's row nor a half-done transaction."""
    num_threads, num_clips = 8, 12
    wrong: list[object] = []
    with open_store(folder) as store:
        numbers = range(num_threads * num_clips)
        store.add_listings({"search": [video(number) for number in numbers]})
        store.enqueue([key(number) for number in numbers])

        def work(thread: int) -> None:
            try:
                for number in range(thread, len(numbers), num_threads):
                    span = ClipSpan(start_s=float(number))
                    store.set_resolved(video(number, title=f"song {number}", duration_s=100.0 + number))
                    store.set_span(key(number), span)
                    file = folder / "fetching" / f"{number}.mkv"
                    file.write_bytes(b"%d" % number)
                    path = store.set_fetched(key(number), file, fetch_s=1.0, versions=VERSIONS)
                    seen = store.clip(key(number))
                    if (seen.span, seen.state, path.read_bytes()) != (span, "fetched", b"%d" % number):
                        wrong.append(seen)
                    if store.video(f"site:{number}").title != f"song {number}" or not store.is_listed("search"):
                        wrong.append(store.video(f"site:{number}"))
                    if len(store.clips()) != len(numbers) or len(store.videos(["search"])) != len(numbers):
                        wrong.append("rows are missing")
                    store.settle([(key(number), "kept", None, None)])
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert {clip.state for clip in store.clips().values()} == {"kept"}


def test_a_reader_never_sees_what_another_thread_takes_back(store):
    """A transaction that fails in its middle, with a reader that looks meanwhile."""
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(store.clip(key(1)).state))

    def broken_off() -> None:
        with store._transaction() as database:
            database.execute("UPDATE clip SET state = 'kept'")
            reader.start()
            reader.join(timeout=0.3)  # it waits for its turn
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    reader.join(timeout=30)
    assert seen == ["queued"]
