from __future__ import annotations

import errno
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import journal, purge, shards, verify
from pipeline.clips import ClipSpan
from pipeline.crawl import Access
from pipeline.errors import UserError
from pipeline.fetch import Crawl, CrawlSettings
from pipeline.locking import single_writer
from pipeline.queries import candidates_of
from pipeline.schema import INDEX, MEMBERS, decode
from pipeline.store import ClipKey, Store, Video, open_store
from pipeline.tars import read_samples
from tests.pipeline.standing import LABELLED, Clip, build, copy, fingerprint, request

ROOT = Path(__file__).parents[2]
DERIVED = {"index.parquet", "dataset.json", "README.md", "croissant.json", "report.html", "purged.jsonl"}


def youtube(nth: int, **changes) -> Clip:
    return Clip(name=f"youtube:abcdefghij{nth}", label=None, **changes)


CRAWLED = (
    *(youtube(n, title=f"Marked Title {n}") for n in range(5)),
    youtube(0, number=1, title="Marked Title 0"),
    youtube(5, title="Marked Title 5", content="Marked Title 1 again"),
    Clip(name="youtube:abcdefghij6", label=None, content="youtube:abcdefghij1"),
    youtube(7, title="Marked Title 7", code="static", detail="Marked detail"),
    youtube(8, code="private"),
)
"""Seven clips of six videos in unlabeled-000000 to -000003, a duplicate of the second video, two that are not kept."""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "labelled"
    build(folder, LABELLED)
    return folder


@pytest.fixture(scope="module")
def crawled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "crawled"
    build(folder, CRAWLED)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Where no crawl's store is."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def take_down(tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the command with a list of ids; its exit code and words."""

    def run(folder: Path, *ids: str, words: tuple[str, ...] = ()) -> tuple[int, str, str]:
        (tmp_path / "ids.txt").write_text("# a take-down\n\n" + "".join(f"{line}\n" for line in ids))
        capsys.readouterr()
        code = purge.main([str(folder), "--ids", str(tmp_path / "ids.txt"), *words])
        return code, *capsys.readouterr()

    return run


def sound(folder: Path) -> bool:
    found = [str(fault) for fault in verify.faults(folder, verify.Checked())]
    assert found == []
    return True


def rows_of(folder: Path) -> dict[str, dict]:
    return {row["source_id"]: row for row in shards.read_rows(folder / "index.parquet")}


def samples(folder: Path) -> dict[str, list[tuple[str, dict[str, bytes]]]]:
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        with tar.open("rb") as stream:
            found[tar.name] = [(sample.key, sample.members) for sample in read_samples(stream)]
    return found


def first_of(folder: Path, tar: str) -> dict:
    return shards.read_rows(shards.record_of(folder / tar))[0]


# --- what goes and what stays ---------------------------------------------------------------------------------------


def test_a_purged_clip_is_gone_and_the_others_are_the_same_bytes_in_the_same_order(labelled, tmp_path, take_down):
    folder = copy(labelled, tmp_path / "set")
    before, old = fingerprint(folder), samples(folder)
    gone = first_of(folder, "train-000000.tar")["key"]
    code, out, _ = take_down(folder, gone)
    assert code == 0
    told = "taken down: 1 clip (train 1) and 0 candidates not kept, of 12 candidates; 1 shard rewritten, 0 removed\n"
    assert out == told
    assert sound(folder)
    new = samples(folder)
    assert new == {name: [sample for sample in held if sample[0] != gone] for name, held in old.items()}
    changed = {name for name, digest in fingerprint(folder).items() if digest != before.get(name)}
    assert changed == {"train-000000.tar", "train-000000.parquet"} | DERIVED
    assert set(before) - set(fingerprint(folder)) == set()


def test_the_rewritten_tar_is_the_one_that_packing_without_the_clip_gives(labelled, tmp_path, take_down):
    from webdataset import TarWriter

    folder = copy(labelled, tmp_path / "set")
    gone = first_of(folder, "train-000000.tar")["key"]
    kept = [sample for sample in samples(folder)["train-000000.tar"] if sample[0] != gone]
    take_down(folder, gone)
    with (tmp_path / "packed.tar").open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as writer:
        for key, members in kept:
            writer.write({"__key__": key, **members})
    assert (folder / "train-000000.tar").read_bytes() == (tmp_path / "packed.tar").read_bytes()


def test_counts_splits_and_normalisation_are_those_of_what_is_left(labelled, tmp_path, take_down):
    folder = copy(labelled, tmp_path / "set")
    before = shards.read_manifest(folder)
    take_down(folder, first_of(folder, "train-000000.tar")["key"], "songs/short.mp4")
    after = shards.read_manifest(folder)
    purged = after.counts["by_code"]["purged"]
    assert after.counts["kept"] == before.counts["kept"] - 1 == 7
    assert sum(after.counts[status] for status in ("kept", "rejected", "failed")) == len(LABELLED)
    assert after.counts["rejected"] == before.counts["rejected"] + 1
    assert purged == len([row for row in rows_of(folder).values() if row["code"] == "purged"]) >= 2
    assert after.splits["train"]["samples"] == before.splits["train"]["samples"] - 1
    assert f"purged | {purged}" in re.sub(r"[`*]", "", (folder / "README.md").read_text())
    train = [members for name, held in samples(folder).items() if name.startswith("train") for _, members in held]
    for name in ("mel_32k", "mel_22k", "mel_8k"):
        stored = np.stack([decode({"__key__": "", **members}, [name]).arrays[name] for members in train])
        channels = np.moveaxis(stored.astype(np.float64), MEMBERS[name].channel_axis + 1, 0).reshape(2, -1)
        assert np.allclose(after.normalization[name]["mean"], channels.mean(axis=1), rtol=1e-9, atol=1e-12)
        assert np.allclose(after.normalization[name]["std"], channels.std(axis=1), rtol=1e-9)


def test_of_a_purged_candidate_nothing_but_its_identity_stays(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    ids = [clip.link for clip in CRAWLED[:5]] + ["youtube:abcdefghij5", "youtube:abcdefghij7"]
    code, out, err = take_down(folder, *ids, words=("--reason", "asked for\nby mail"))
    assert code == 0, err
    assert "no crawl's store at shards/.crawl" in err
    assert (
        "7 clips (unlabeled 7) and 2 candidates not kept, of 10" in out
    )  # the clip of abcdefghij1 under another identity is one
    rows = rows_of(folder)
    for name in (*(f"youtube:abcdefghij{n}" for n in range(8)), "youtube:abcdefghij0 (clip 2)"):
        told = {column: value for column, value in rows[name].items() if value is not None}
        end = {"status": "rejected", "code": "purged", "detail": "taken down: asked for by mail"}
        number = name.removeprefix("youtube:abcdefghij")[0]
        assert told == {"source_id": name, "link": f"https://www.youtube.com/watch?v=abcdefghij{number}", **end}
    assert rows["youtube:abcdefghij8"]["code"] == "private"
    words = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.suffix != ".parquet")
    assert b"Marked" not in words
    assert b"marked-title" not in words  # keys tell titles
    assert "arked" not in repr(pq.read_table(folder / "index.parquet").to_pylist())
    assert sound(folder)
    assert not list(folder.glob("*.tar"))
    assert shards.read_manifest(folder).splits == {}


@pytest.mark.parametrize(
    ("line", "videos"),
    [
        ("youtube:abcdefghij0", {"youtube:abcdefghij0", "youtube:abcdefghij0 (clip 2)"}),
        ("youtube:abcdefghij0 (clip 2)", {"youtube:abcdefghij0 (clip 2)"}),
        ("https://www.youtube.com/watch?v=abcdefghij2", {"youtube:abcdefghij2"}),
        ("https://youtu.be/abcdefghij2?t=30", {"youtube:abcdefghij2"}),
        ("group:youtube:abcdefghij3", {"youtube:abcdefghij3"}),
        ("youtube:abcdefghij8", {"youtube:abcdefghij8"}),
    ],
)
def test_a_line_may_be_a_video_a_clip_a_link_however_spelled_or_a_group(crawled, tmp_path, take_down, line, videos):
    folder = copy(crawled, tmp_path / "set")
    assert take_down(folder, line)[0] == 0
    assert {name for name, row in rows_of(folder).items() if row["code"] == "purged"} == videos


def test_a_file_is_named_by_its_path_and_by_the_youtube_id_in_its_name_if_the_list_says_that_it_is_one(
    tmp_path, take_down
):
    clips = [Clip(name=name, label=None) for name in ("a/happysong01.mp4", "b/happysong01.mp4", "b/14.mp4")]
    build(tmp_path / "set", clips)
    assert take_down(tmp_path / "set", "a/happysong01.mp4")[0] == 0
    assert rows_of(tmp_path / "set")["b/happysong01.mp4"]["status"] == "kept"
    assert take_down(tmp_path / "set", "youtube:happysong01")[0] == 0
    purged = {name: row["source_group"] for name, row in rows_of(tmp_path / "set").items() if row["code"] == "purged"}
    assert purged == {"a/happysong01.mp4": None, "b/happysong01.mp4": "youtube:happysong01"}


def test_what_repeats_a_purged_clip_goes_if_it_was_left_out_and_is_told_if_it_was_kept(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    gone, other = (rows_of(folder)[f"youtube:abcdefghij{n}"] for n in (1, 3))
    record = shards.record_of(folder / other["shard"])
    promise = {k.decode(): v.decode() for k, v in pq.read_schema(record).metadata.items()}
    marked = [
        row | {"duplicate_of": gone["key"] if row["key"] == other["key"] else None} for row in shards.read_rows(record)
    ]
    shards.write_rows(record, marked, INDEX, metadata=promise)
    _, _, err = take_down(folder, gone["key"])
    assert f"{other['key']} stays, though it shows or plays the same as {gone['key']}" in err
    rows = rows_of(folder)
    assert (rows["youtube:abcdefghij6"]["code"], rows["youtube:abcdefghij3"]["status"]) == ("purged", "kept")
    assert rows["youtube:abcdefghij3"]["duplicate_of"] is None  # a key tells a title
    assert sound(folder)


def test_the_kept_clip_of_which_a_named_candidate_is_a_duplicate_is_told(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    key = rows_of(folder)["youtube:abcdefghij1"]["key"]
    code, _, err = take_down(folder, "youtube:abcdefghij6")
    assert code == 0
    told = f"youtube:abcdefghij6 shows or plays the same as {key}, which stays; name it if it is to go"
    assert told in err.splitlines()
    assert rows_of(folder)["youtube:abcdefghij1"]["status"] == "kept"


def test_a_line_that_begins_with_a_hash_and_no_space_is_a_name(tmp_path, take_down):
    build(tmp_path / "set", [Clip(name=name, label=None) for name in ("#hashtag.mp4", "other.mp4")])
    assert take_down(tmp_path / "set", "#", "# a comment", "#hashtag.mp4")[0] == 0
    assert {name for name, row in rows_of(tmp_path / "set").items() if row["code"] == "purged"} == {"#hashtag.mp4"}


def test_a_title_in_another_s_reason_is_taken_out(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    key = rows_of(folder)["youtube:abcdefghij2"]["key"]
    rows = [
        row | {"detail": f"another clip has the key {key}"} if row["code"] == "private" else row
        for row in rows_of(folder).values()
    ]
    shards.write_rows(folder / "index.parquet", rows, INDEX)
    take_down(folder, "youtube:abcdefghij2")
    assert rows_of(folder)["youtube:abcdefghij8"]["detail"] == "another clip has the key a clip taken down"


def test_the_log_tells_when_why_and_which_tars_and_no_title(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    before = {tar.name: shards.tar_sha256(tar) for tar in folder.glob("*.tar")}
    one, two = shards.read_rows(folder / "unlabeled-000001.parquet")
    take_down(folder, one["key"], words=("--reason", "asked for"))
    take_down(folder, two["key"], "youtube:abcdefghij8")
    first, second = map(json.loads, (folder / "purged.jsonl").read_text().splitlines())
    between = first["rewritten"]["unlabeled-000001.tar"]["is"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first.pop("when"))
    was = {"was": before["unlabeled-000001.tar"], "is": between}
    own = {"clips": {"unlabeled": 1}, "removed": {}, "rewritten": {"unlabeled-000001.tar": was}}
    assert first == {"reason": "asked for", "left_out": first["left_out"], **own}
    assert (second["reason"], second["rewritten"]) == (None, {})
    assert second["removed"] == {"unlabeled-000001.tar": between}
    assert b"arked" not in (folder / "purged.jsonl").read_bytes()


def test_purging_again_changes_nothing(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    take_down(folder, "youtube:abcdefghij2")
    before = fingerprint(folder)
    code, out, err = take_down(folder, "youtube:abcdefghij2")
    assert (code, out) == (0, "nothing to take out of the set\n")
    assert "youtube:abcdefghij2: 1 taken down before" in err
    assert fingerprint(folder) == before


def test_a_dry_run_says_the_same_and_changes_nothing(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    before = fingerprint(folder)
    _, would, err = take_down(folder, "youtube:abcdefghij2", "youtube:abcdefghij8", words=("--dry-run",))
    assert err.splitlines()[1:] == ["youtube:abcdefghij2: 1 clip", "youtube:abcdefghij8: 1 not kept"]
    assert fingerprint(folder) == before
    assert not journal.file_of(folder).exists()
    _, did, _ = take_down(folder, "youtube:abcdefghij2", "youtube:abcdefghij8")
    assert would == did.replace("taken down", "would be taken down")


def test_a_set_of_an_earlier_release_can_be_purged(labelled, tmp_path, take_down):
    folder = copy(labelled, tmp_path / "set")
    for file in folder.glob("*.parquet"):
        later = ["sample_sha256", "sample_offset", "sample_bytes", "thumbnail", "duplicate_of", "flagged", "motion"]
        table = pq.read_table(file).drop_columns(later)
        file.unlink()
        pq.write_table(table, file)
    assert take_down(folder, first_of(folder, "train-000000.tar")["key"])[0] == 0
    assert sound(folder)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_ids_that_match_nothing_are_named_and_nothing_goes_unless_that_is_allowed(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    before = fingerprint(folder)
    ids = ("youtube:abcdefghij2", "youtube:zzzzzzzzzzz", "group:nobody")
    code, out, err = take_down(folder, *ids)
    assert (code, out) == (2, "")
    assert err.splitlines()[1:3] == ["youtube:zzzzzzzzzzz: matches nothing", "group:nobody: matches nothing"]
    assert "2 of 3 ids match nothing" in err.splitlines()[-1]
    assert fingerprint(folder) == before
    code, out, err = take_down(folder, *ids, words=("--missing-ok",))
    assert code == 0
    assert "youtube:zzzzzzzzzzz: matches nothing" in err
    assert out.startswith("taken down: 1 clip ")


def half_prepared(folder: Path) -> None:
    (folder / ".build/part-0.parquet").write_bytes(b"")


def half_packed(folder: Path) -> None:
    (folder / ".build/plan.parquet").write_bytes(b"")


def altered(folder: Path) -> None:
    for tar in folder.glob("*.tar"):
        raw = bytearray(tar.read_bytes())
        raw[5000] ^= 1
        tar.unlink()
        tar.write_bytes(raw)


def truncated_index(folder: Path) -> None:
    raw = (folder / "index.parquet").read_bytes()
    (folder / "index.parquet").unlink()
    (folder / "index.parquet").write_bytes(raw[: len(raw) // 2])


def without_status(folder: Path) -> None:
    table = pq.read_table(folder / "index.parquet").drop_columns(["status"])
    (folder / "index.parquet").unlink()
    pq.write_table(table, folder / "index.parquet")


def odd_settings(folder: Path) -> None:
    raw = json.loads((folder / "dataset.json").read_text()) | {"settings": 5}
    (folder / "dataset.json").unlink()
    (folder / "dataset.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (half_prepared, "was stopped before its end; run the same build again first"),
        (half_packed, "was stopped before its end; run the same build again first"),
        (altered, "is not what its record says, and so cannot be rewritten"),
        (lambda folder: (folder / "dataset.json").unlink(), "is no finished data set"),
        (truncated_index, "a table or dataset.json is damaged (Arrow"),
        (without_status, "a table or dataset.json is damaged (Arrow"),
        (odd_settings, "dataset.json is damaged (has settings of another form than it should)"),
        (
            lambda folder: (folder / ".build/purge.json").write_text('{"emptied": {"../x.tar": ""}}'),
            "no journal of a purge",
        ),
    ],
)
def test_a_set_that_is_not_at_rest_is_refused_in_one_line(crawled, tmp_path, take_down, spoil, words):
    folder = copy(crawled, tmp_path / "set")
    spoil(folder)
    before = fingerprint(folder)
    code, out, err = take_down(folder, "youtube:abcdefghij2")
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err
    assert fingerprint(folder) == before


def test_samples_that_belong_to_no_part_do_not_block_a_take_down_and_go_with_it(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    left = [
        folder / ".build" / name for name in ("part-0123456789abcdef-00.tar", ".part-0123456789abcdef-01.tar.1.tmp")
    ]
    for file in left:
        file.write_bytes(b"of a part that a killed build did not write down")
    assert take_down(folder, "youtube:abcdefghij2", words=("--dry-run",))[0] == 0
    assert all(file.exists() for file in left)
    assert take_down(folder, "youtube:abcdefghij2")[0] == 0
    assert not any(file.exists() for file in left)
    assert sound(folder)


def test_a_set_that_is_being_written_is_refused(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    with single_writer(folder / ".build", doing="building it", flag="--out"):
        code, _, err = take_down(folder, "youtube:abcdefghij2")
    assert (code, err.count("\n")) == (2, 1)
    assert "another process" in err


@pytest.mark.parametrize(
    ("content", "words"), [("# nothing\n\n", "names nothing"), (b"\xff\xfe", "no text"), (None, "No such file")]
)
def test_a_list_that_names_nothing_is_refused(crawled, tmp_path, capsys, content, words):
    if content is not None:
        (tmp_path / "ids.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert purge.main([str(crawled), "--ids", str(tmp_path / "ids.txt")]) == 2
    assert words in capsys.readouterr().err


def test_names_that_lead_out_of_the_folder_are_followed_by_nobody(crawled, tmp_path):
    folder = copy(crawled, tmp_path / "set")
    victim = tmp_path / "train-000000.tar"
    victim.write_bytes(b"")
    settled = {"when": "", "reason": None, "rows": [], "keys": [], "splits": {}, "rewritten": {}}
    journal.file_of(folder).write_text(json.dumps(settled | {"emptied": {"../train-000000.tar": ""}}))
    with pytest.raises(UserError, match="names what is no shard"):
        journal.finish_interrupted(folder)
    assert victim.exists()


# --- later builds ---------------------------------------------------------------------------------------------------


def test_no_later_build_or_retry_brings_a_purged_clip_back(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    take_down(folder, "youtube:abcdefghij2", "youtube:abcdefghij7", "youtube:abcdefghij0 (clip 2)")
    order = request(folder, CRAWLED)
    assert order.pending() == []
    assert order.pending(["purged", "static"]) == []
    assert order.up_to_date() is not None
    again = [
        youtube(2, number=1, title="Marked again"),  # another clip of the same video
        youtube(0, number=2),  # of a video of which one clip was taken down
        youtube(9, title="New"),
    ]
    manifest = build(folder, [*CRAWLED, *again])
    rows = rows_of(folder)
    for clip in again[:2]:
        row = rows[clip.source.source_id]
        assert (row["status"], row["code"], row["title"], row["uploader"]) == ("rejected", "purged", None, None)
    assert rows["youtube:abcdefghij9"]["status"] == "kept"
    assert rows["youtube:abcdefghij0"]["status"] == "kept"
    assert manifest.counts["by_code"]["purged"] == 5
    assert sound(folder)


def test_a_page_that_tells_the_identity_of_a_purged_video_is_not_taken(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    take_down(folder, "youtube:abcdefghij2")
    other = Clip(name="https://a.org/watch/2", group="youtube:abcdefghij2", label=None).source
    assert request(folder, CRAWLED).taken_down().unless(other).problem == ("purged", "its video was taken down")
    assert request(folder, CRAWLED).taken_down().unless(youtube(9).source).problem is None


def test_new_shards_are_numbered_after_those_that_were_emptied(crawled, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    last = sorted(folder.glob("*.tar"))[-1].name
    gone = [row["key"] for row in shards.read_rows(shards.record_of(folder / last))]
    take_down(folder, *gone)
    assert not (folder / last).exists()
    build(folder, [*CRAWLED, youtube(9)])
    number = int(last.rsplit("-", 1)[1].removesuffix(".tar"))
    assert not (folder / last).exists()
    assert (folder / f"unlabeled-{number + 1:06d}.tar").exists()
    assert sound(folder)
    take_down(folder, "youtube:abcdefghij9")
    assert sound(folder)


# --- killed, and out of room ----------------------------------------------------------------------------------------

KILLER = """
import os, signal, sys
from pathlib import Path
from pipeline import purge, report  # once: the children share what is imported

ids, *folders = sys.argv[1:]
for number, folder in enumerate(folders):
    child = os.fork()
    if child == 0:
        left = number
        def dying(real):
            def call(self, *words, **settings):
                global left
                if self.exists() or self.is_symlink():
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
                return real(self, *words, **settings)
            return call
        Path.replace, Path.unlink = dying(Path.replace), dying(Path.unlink)
        sys.stdout = open(os.devnull, "w")
        os._exit(purge.main([folder, "--ids", ids, "--reason", "asked for"]))
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
    if os.WIFEXITED(status):
        break
"""


@pytest.fixture
def ids_of_three_shards(labelled, tmp_path) -> Path:
    """One clip of a shard of two, both of another, and a candidate that is not kept."""
    rows = [first_of(labelled, "train-000000.tar"), *shards.read_rows(labelled / "val-000000.parquet")]
    (tmp_path / "ids.txt").write_text("\n".join([*(row["key"] for row in rows), "songs/talk.mp4"]))
    return tmp_path / "ids.txt"


def without_time(folder: Path) -> dict[str, object]:
    found: dict[str, object] = dict(fingerprint(folder))
    log = folder / "purged.jsonl"
    if log.exists():
        found["purged.jsonl"] = [json.loads(line) | {"when": None} for line in log.read_text().splitlines()]
    return found


@pytest.mark.slow
def test_killed_at_any_file_the_set_verifies_and_ends_as_an_unbroken_purge_does(
    labelled, tmp_path, ids_of_three_shards, capsys
):
    """SIGKILL before each file gets its name or is removed; then verify, which finishes what was begun."""
    whole = copy(labelled, tmp_path / "whole")
    command = ["--ids", str(ids_of_three_shards), "--reason", "asked for"]
    assert purge.main([str(whole), *command]) == 0
    expected, before = without_time(whole), fingerprint(labelled)
    folders = [copy(labelled, tmp_path / f"killed-{n}") for n in range(40)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLER, str(ids_of_three_shards), *map(str, folders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *kills, end = done.stdout.split()
    assert (set(kills), end) == ({"killed"}, "0"), done.stderr
    num_kills = len(kills)
    assert num_kills >= 15
    finished_later = 0
    for n, folder in enumerate(folders[: num_kills + 1]):
        began = journal.file_of(folder).exists()
        for tar in folder.glob("*.tar"):  # what a reader meets before anybody mends it
            if shards.record_of(tar).exists():
                assert pq.read_schema(shards.record_of(tar)).metadata[b"tar_bytes"].decode() == str(tar.stat().st_size)
        capsys.readouterr()
        assert verify.main([str(folder)]) == 0, (n, capsys.readouterr().out)
        assert ("it is finished now" in capsys.readouterr().err) == began
        if n == 0:  # before the journal, nothing was begun
            assert fingerprint(folder) == before
            assert purge.main([str(folder), *command]) == 0
        finished_later += began
        assert without_time(folder) == expected, n
        assert not [file for file in folder.rglob("*") if file.suffix in (".tmp", ".purge")]
    assert finished_later >= 12


def test_the_next_purge_and_the_next_build_finish_an_interrupted_one_too(labelled, tmp_path, take_down, monkeypatch):
    keys = [first_of(labelled, f"{split}-000000.tar")["key"] for split in ("train", "val")]
    for n, goes_on in enumerate(("purge", "build")):
        folder = copy(labelled, tmp_path / f"set-{n}")
        with monkeypatch.context() as dying:
            dying.setattr(journal, "_publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            code, _, err = take_down(folder, keys[0])  # as by Ctrl-C
        assert code == 130
        assert "nothing is lost, and the purge is finished when the set is next verified, purged or built" in err
        assert err.endswith("purge: stopped\n")
        assert request(folder, LABELLED).up_to_date() is None
        _, _, err = take_down(folder, keys[1], words=("--dry-run",))
        assert "was stopped before its end; verify, purge or build it, then ask again" in err
        if goes_on == "purge":
            assert take_down(folder, keys[1])[0] == 0
        else:
            build(folder, [clip for clip in LABELLED if clip.code != "internal"])
        assert not journal.file_of(folder).exists()
        assert {key for key in keys if key in {row["key"] for row in rows_of(folder).values()}} == (
            set() if goes_on == "purge" else {keys[1]}
        )
        assert sound(folder)


def test_a_full_disk_loses_nothing_wherever_it_strikes(labelled, tmp_path, take_down, monkeypatch, ids_of_three_shards):
    ids = ids_of_three_shards.read_text().split("\n")
    whole = copy(labelled, tmp_path / "whole")
    assert take_down(whole, *ids)[0] == 0
    before, real = fingerprint(labelled), os.fsync
    for n in itertools.count():
        folder = copy(labelled, tmp_path / f"full-{n}")
        left = itertools.count(n, -1)

        def full(handle: int, left=left) -> None:
            if next(left) <= 0 and not Path(f"/proc/self/fd/{handle}").is_dir():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        with monkeypatch.context() as disk:
            disk.setattr("pipeline.storage.os.fsync", full)
            code, _, err = take_down(folder, *ids)
        if code == 0:
            break
        assert (code, "Traceback" in err, "No space left" in err.splitlines()[-1]) == (2, False, True)
        if journal.file_of(folder).exists():
            assert verify.main([str(folder)]) == 0
        else:
            assert fingerprint(folder) == before
            assert take_down(folder, *ids)[0] == 0
        assert {**without_time(folder), "purged.jsonl": None} == {**without_time(whole), "purged.jsonl": None}, n
    assert n >= 8


def test_no_room_for_a_shard_is_told_before_anything_is_touched(labelled, tmp_path, take_down, monkeypatch):
    folder = copy(labelled, tmp_path / "set")
    before = fingerprint(folder)
    monkeypatch.setattr("pipeline.purge.free_bytes", lambda _: 11_000_000)
    code, _, err = take_down(folder, first_of(folder, "train-000000.tar")["key"])
    assert code == 2
    assert re.search(r"has 11 MB of room, a purge needs \d+; nothing was changed", err)
    assert fingerprint(folder) == before


@pytest.mark.parametrize("begun", [False, True], ids=["no journal", "a journal"])
def test_what_another_purge_staged_brings_no_clip_back(labelled, tmp_path, take_down, monkeypatch, begun):
    folder = copy(labelled, tmp_path / "set")
    one, other = (row["key"] for row in shards.read_rows(folder / "train-000000.parquet"))
    stale = copy(labelled, tmp_path / "stale")
    take_down(stale, other)

    def leave() -> None:
        for name in ("train-000000.tar", "train-000000.parquet"):
            (folder / f".{name}.purge").write_bytes((stale / name).read_bytes())

    if begun:
        real = journal.begin
        monkeypatch.setattr(journal, "begin", lambda *words: (real(*words), leave()))
    else:
        leave()
    assert take_down(folder, one)[0] == 0
    assert [row["key"] for row in shards.read_rows(folder / "train-000000.parquet")] == [other]
    assert sound(folder)


def test_a_purge_that_leaves_a_clip_in_the_set_is_not_finished(labelled, tmp_path, take_down, monkeypatch):
    folder = copy(labelled, tmp_path / "set")
    with monkeypatch.context() as broken:
        broken.setattr(journal, "_rewrite", lambda *_: None)
        code, _, err = take_down(folder, first_of(folder, "train-000000.tar")["key"])
    assert (code, "still holds" in err, journal.file_of(folder).exists()) == (2, True, True)
    assert verify.main([str(folder)]) == 0


def test_a_build_clears_what_a_purge_staged(labelled, tmp_path):
    folder = copy(labelled, tmp_path / "set")
    (folder / ".train-000000.tar.purge").write_bytes(b"x")
    request(folder, LABELLED).begin()
    assert not list(folder.glob(".*.purge"))


# --- the crawl's store ----------------------------------------------------------------------------------------------


def store_key(n: int, number: int = 0, *, seed: int = 0) -> ClipKey:
    return ClipKey(video_id=f"youtube:abcdefghij{n}", number=number, seed=seed, modality="audio")


def put_into(store: Store, key: ClipKey, content: bytes) -> Path:
    store.enqueue([key])
    store.set_span(key, ClipSpan(start_s=3.5))
    download = store.fetching / "clip.mkv"
    download.write_bytes(content)
    return store.set_fetched(key, download, fetch_s=1.0, versions={"yt-dlp": "2026.1.1"})


@pytest.fixture
def store_folder(tmp_path) -> Path:
    """The store that the crawled set came from: a clip of each video, two of the first, one never built into a set."""
    folder = tmp_path / "store"
    with open_store(folder) as store:
        videos = [
            Video(video_id=f"youtube:abcdefghij{n}", link=youtube(n).link, title=f"Marked Title {n}", uploader="Marked")
            for n in range(10)
        ]
        store.add_listings({"ytsearch9:song": videos})
        other = Video(video_id="https://a.org/2", link="https://a.org/2", title="Marked elsewhere")
        store.add_listings({"https://a.org/2": [other]})
        store.set_resolved(replace(other, page_id="youtube:abcdefghij2", title="Marked elsewhere", duration_s=90.0))
        for n in range(10):
            put_into(store, store_key(n), f"media {n}".encode())
        put_into(store, store_key(0, 1), b"media of clip 2")
        put_into(store, replace(store_key(2), video_id="https://a.org/2"), b"media elsewhere")
        store.settle((store_key(n), "kept", None, None) for n in range(10))
    return folder


def media(folder: Path) -> set[str]:
    return {file.read_text() for file in (folder / "clips").rglob("*.mkv")}


def test_the_media_of_purged_clips_leave_the_store_and_so_do_their_words(crawled, store_folder, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    before = media(store_folder)
    ids = ("youtube:abcdefghij2", rows_of(folder)["youtube:abcdefghij3"]["key"], "https://youtu.be/abcdefghij9")
    code, _, err = take_down(folder, *ids, words=("--store", str(store_folder), "--reason", "asked for"))
    assert code == 0, err
    assert err.splitlines() == [
        "youtube:abcdefghij2: 1 clip, in the crawl's store",
        f"{ids[1]}: 1 clip",
        "https://youtu.be/abcdefghij9: in the crawl's store",
    ]
    assert before - media(store_folder) == {"media 2", "media elsewhere", "media 3", "media 9"}
    stored = (store_folder / "crawl.sqlite").read_bytes()
    assert not (store_folder / "crawl.sqlite-wal").exists()
    for n in (2, 3, 9):
        assert f"Marked Title {n}".encode() not in stored
    assert b"Marked elsewhere" not in stored
    assert b"Marked Title 4" in stored
    with open_store(store_folder) as store:
        told = store.clip(store_key(2))
        assert (told.state, told.code, told.detail) == ("rejected", "purged", "taken down: asked for")
        assert (told.sha256, told.span) == (None, None)
        assert store.clip(store_key(4)).state == "kept"
    assert sound(folder)


def test_what_was_purged_is_fetched_no_more_whatever_is_asked(crawled, store_folder, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    take_down(folder, "youtube:abcdefghij2", "youtube:abcdefghij0 (clip 2)", words=("--store", str(store_folder)))
    with open_store(store_folder) as store:
        # Another set of the same store has the clip still, and says so.
        store.settle([(store_key(0, 1), "kept", None, None), (store_key(2), "kept", None, None)])
        for seed in (0, 1):
            crawl = Crawl(store, CrawlSettings(access=Access(), seed=seed, modality="audio"))
            videos = store.videos(["ytsearch9:song", "https://a.org/2"])
            candidates = candidates_of(videos, None, clips_per_video=2)
            crawl.queue(candidates)
            for again in ((), ("duplicate", "private")):
                asked = {source.source_id for source in crawl.to_fetch(candidates, again=again)}
                assert not {name for name in asked if "abcdefghij2" in name or "a.org" in name}
                assert ("youtube:abcdefghij0 (clip 2)" in asked) == (seed == 1)
        wanted = [source for source in candidates if source.video_id in ("youtube:abcdefghij2", "https://a.org/2")]
        assert [source.problem[0] for source in crawl.fetch(wanted)] == ["purged", "purged"]


def test_one_clip_of_a_video_leaves_the_other_in_the_store(crawled, store_folder, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    take_down(folder, rows_of(folder)["youtube:abcdefghij0"]["key"], words=("--store", str(store_folder)))
    assert {"media 0", "media of clip 2"} & media(store_folder) == {"media of clip 2"}
    assert b"Marked Title 0" in (store_folder / "crawl.sqlite").read_bytes()
    take_down(folder, "youtube:abcdefghij0 (clip 2)", words=("--store", str(store_folder)))
    assert "media of clip 2" not in media(store_folder)
    assert b"Marked Title 0" not in (store_folder / "crawl.sqlite").read_bytes()


def test_a_purge_of_the_store_that_was_killed_is_finished_when_it_is_opened(store_folder, monkeypatch):
    with monkeypatch.context() as dying, open_store(store_folder) as store:
        dying.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.purge({"youtube:abcdefghij2"}, [], "taken down")
    assert "media 2" in media(store_folder)
    with open_store(store_folder) as store:
        assert "media 2" not in media(store_folder)
        assert store.clip(store_key(2)).sha256 is None


def test_the_usual_store_is_purged_with_a_crawled_set_and_left_alone_by_another(
    crawled, labelled, store_folder, tmp_path, take_down
):
    (tmp_path / "shards").mkdir()
    usual = store_folder.rename(tmp_path / "shards/.crawl")
    (usual / "lock").unlink()
    take_down(copy(labelled, tmp_path / "labelled"), first_of(labelled, "train-000000.tar")["key"])
    assert not (usual / "lock").exists()
    code, out, err = take_down(copy(crawled, tmp_path / "set"), "youtube:abcdefghij9")
    assert (code, out) == (0, "nothing to take out of the set; the crawl's store is purged\n"), err
    assert "media 9" not in media(usual)


def test_a_store_in_use_or_none_is_refused_before_anything_goes(crawled, store_folder, tmp_path, take_down):
    folder = copy(crawled, tmp_path / "set")
    before = fingerprint(folder)
    with open_store(store_folder):
        code, _, err = take_down(folder, "youtube:abcdefghij2", words=("--store", str(store_folder)))
    assert (code, "another process is crawling" in err) == (2, True)
    code, _, err = take_down(folder, "youtube:abcdefghij2", words=("--store", str(tmp_path / "none")))
    assert (code, "holds no crawl.sqlite" in err) == (2, True)
    assert fingerprint(folder) == before
