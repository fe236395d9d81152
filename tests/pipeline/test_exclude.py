from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.exclude import Excluded
from pipeline.fingerprint import PICTURE, SOUND, Kind, to_bytes
from pipeline.schema import INDEX
from pipeline.shards import write_rows
from pipeline.sources import Source

ID = "aB3_-dEfGh1"
OTHER_ID = "zB3_-dEfGh2"
NUM_ITEMS = {SOUND: 221, PICTURE: 64}


def items(kind: Kind, seed: int) -> np.ndarray:
    """A fingerprint of its own, which changes as music and pictures do: some of its bits from item to item."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 2**kind.bits, (4, NUM_ITEMS[kind]), dtype=kind.dtype)
    changes = np.bitwise_and.reduce(steps[:2]) | np.bitwise_and.reduce(steps[2:])  # seven of sixteen bits
    return np.bitwise_xor.accumulate(changes)


def row(number: int = 0, **known: Any) -> dict[str, Any]:
    """An index row of a clip kept, like no other."""
    row = {
        "key": f"song_{number:08x}_00000000",
        "status": "kept",
        "source_id": f"site:{number}",
        "link": f"https://a.org/{number}",
        "source_group": f"site:{number}",
        "sha256": f"{number:064x}",
        "sound_print": to_bytes(items(SOUND, 2 * number)),
        "picture_print": to_bytes(items(PICTURE, 2 * number + 1)),
    }
    return row | known


def data_set(folder: Path, *rows: dict[str, Any]) -> Path:
    write_rows(folder / "index.parquet", rows, INDEX)
    return folder


def source(video_id: str, **known: Any) -> Source:
    return Source(
        **({"source_id": video_id, "video_id": video_id, "link": "https://a.org/x", "title": "x", "groups": ()} | known)
    )


def candidate(video_id: str) -> Source:
    """As a search lists it."""
    return source(video_id, link=f"https://www.youtube.com/watch?v={video_id.split(':')[-1]}", groups=(video_id,))


# --- by identity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held",
    [
        {"source_id": f"youtube:{ID}"},
        {"source_id": f"youtube:{ID} (clip 2)", "source_group": f"youtube:{ID}"},
        {"link": f"https://www.youtube.com/watch?v={ID}"},
        {"link": f"http://m.youtube.com/watch?list=PL1&v={ID}&t=3s"},
        {"link": f"https://youtube.com/watch?v={ID}#chorus"},
        {"link": f"https://WWW.YouTube.com/watch?v={ID}"},
        {"link": f"https://music.youtube.com/watch?v={ID}&feature=share"},
        {"link": f"https://youtu.be/{ID}"},
        {"link": f"https://youtu.be/{ID}?si=abcdefghijk&t=30"},
        {"link": f"https://www.youtube.com/shorts/{ID}"},
        {"link": f"https://www.youtube.com/embed/{ID}/"},
        {"link": f"https://www.youtube-nocookie.com/embed/{ID}?rel=0"},
        {"link": f"https://www.youtube.com/live/{ID}"},
        {"link": f"https://www.youtube.com/v/{ID}"},
        {"link": f"{ID}.mp4", "source_id": f"{ID}.mp4"},
        {"link": f"Train/Sad/video/{ID}_000030_000060.mp4"},
        {"source_id": f"test/Fear/video/{ID}_123456_123486.mp4"},
        {"source_group": ID},
    ],
)
def test_a_youtube_video_is_known_by_its_id_however_the_set_came_by_it(tmp_path, held):
    excluded = Excluded.of([data_set(tmp_path / "test set", row(1), row(2, **held))])
    assert excluded.by_identity(candidate(f"youtube:{ID}")) == "test set holds this video"
    assert excluded.by_identity(candidate(f"youtube:{OTHER_ID}")) is None


@pytest.mark.parametrize(
    "wanted",
    [
        source(f"youtube:{ID}"),
        source(f"youtube:{ID}", source_id=f"youtube:{ID} (clip 2)", number=1),
        source(f"https://youtu.be/{ID}", link=f"https://youtu.be/{ID}"),
        source("x", link=f"https://www.youtube.com/embed/{ID}"),
        source("x", groups=("suite", f"youtube:{ID}")),
        source(f"Train/Sad/{ID}_000100_000130.mp4"),
    ],
)
def test_a_candidate_is_known_by_its_video_its_link_and_its_groups(tmp_path, wanted):
    excluded = Excluded.of([data_set(tmp_path, row(link=f"Train/Sad/{ID}_000030_000060.mp4"))])
    assert excluded.by_identity(wanted) == f"{tmp_path.name} holds this video"


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ({"source_id": "vimeo:123"}, source("vimeo:123")),
        ({"link": "https://a.org/v/1.mp4"}, source("x", link="https://a.org/v/1.mp4")),
        ({"source_group": "the suite"}, source("x", groups=("the suite", "x"))),
        ({"source_group": "LLT_TENS(5)"}, source("x", groups=("LLT_TENS(5)",))),
    ],
)
def test_other_videos_are_known_by_their_identity_link_or_group(tmp_path, held, wanted):
    excluded = Excluded.of([data_set(tmp_path, row(**held))])
    assert excluded.by_identity(wanted) == f"{tmp_path.name} holds this video"


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ({"link": f"https://notyoutube.com/watch?v={ID}"}, candidate(f"youtube:{ID}")),
        ({"link": f"https://youtube.com.a.org/watch?v={ID}"}, candidate(f"youtube:{ID}")),
        ({"link": f"https://a.org/{ID}"}, candidate(f"youtube:{ID}")),
        ({"link": f"https://www.youtube.com/watch?list={ID}"}, candidate(f"youtube:{ID}")),
        ({"link": f"https://www.youtube.com/watch?v={ID}x"}, candidate(f"youtube:{ID}")),
        ({"link": f"http://[{ID}"}, candidate(f"youtube:{ID}")),
        ({"source_id": f"vimeo:{ID}"}, candidate(f"youtube:{ID}")),
        ({"source_id": f"youtube:{ID}"}, candidate(f"youtube:{ID.lower()}")),  # ids tell case
        ({"link": "Train/Sad/video/14.mp4"}, source("14", groups=("14",))),
        ({"source_id": None, "link": None, "source_group": None}, source("", link="", groups=("",))),
    ],
)
def test_what_only_looks_like_it_is_another_video(tmp_path, held, wanted):
    assert Excluded.of([data_set(tmp_path, row(**held))]).by_identity(wanted) is None


def test_only_what_is_kept_is_held(tmp_path):
    rows = [row(n, source_id=f"youtube:{ID}", status=status) for n, status in enumerate(("rejected", "failed"))]
    excluded = Excluded.of([data_set(tmp_path, *rows)])
    assert excluded.by_identity(candidate(f"youtube:{ID}")) is None
    assert excluded.by_content(rows[0]) is None


def test_of_several_sets_the_first_that_holds_it_is_named(tmp_path):
    one = data_set(tmp_path / "one", row(1))
    two = data_set(tmp_path / "two", row(2, source_id=f"youtube:{ID}"))
    three = data_set(tmp_path / "three", row(3, source_id=f"youtube:{ID}"), row(4))
    excluded = Excluded.of([one, two, three])
    assert excluded.by_identity(candidate(f"youtube:{ID}")) == f"{two.name} holds this video"
    assert excluded.by_identity(source("site:4")) == f"{three.name} holds this video"


def test_identity_counts_before_link_and_link_before_groups(tmp_path):
    """Where different sets hold each of them, the same one is named in every run: the words go into the index."""
    numbers = range(20)
    by_id = data_set(tmp_path / "id", *(row(n, source_id=f"site:x{n}", source_group=None) for n in numbers))
    by_link = data_set(tmp_path / "link", *(row(n + 100, link=f"https://a.org/x{n}") for n in numbers))
    by_group = data_set(tmp_path / "group", *(row(n + 200, source_group=f"suite {n}") for n in numbers))
    for number in numbers:
        known = source(f"site:x{number}", link=f"https://a.org/x{number}", groups=(f"suite {number}",))
        assert Excluded.of([by_group, by_link, by_id]).by_identity(known) == f"{by_id.name} holds this video"
        assert Excluded.of([by_group, by_link]).by_identity(known) == f"{by_link.name} holds this video"


def test_what_is_told_names_the_set_and_nothing_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(data_set(tmp_path / "mved", row(1)))
    excluded = Excluded.of([Path()])
    assert excluded.by_identity(source("site:1")) == "mved holds this video"
    assert excluded.by_content(row(1)) == "mved holds this file"


# --- by content ------------------------------------------------------------------------------------------------------


def disturbed(fingerprint: np.ndarray, *, share: float = 0.03) -> np.ndarray:
    """The same recording from another encoder: a few bits differ."""
    rng = np.random.default_rng(99)
    bits = rng.random((len(fingerprint), 8 * fingerprint.itemsize)) < share
    flipped = np.packbits(bits, axis=1, bitorder="little").view(fingerprint.dtype).ravel()
    return fingerprint ^ flipped


def test_the_same_file_is_held(tmp_path):
    excluded = Excluded.of([data_set(tmp_path, row(1))])
    same = row(7, sha256=row(1)["sha256"])
    assert excluded.by_content(same) == f"{tmp_path.name} holds this file"
    assert excluded.by_content(row(7)) is None


@pytest.mark.parametrize(
    ("column", "kind", "words"), [("sound_print", SOUND, "sound"), ("picture_print", PICTURE, "picture")]
)
def test_the_same_sound_or_picture_is_held(tmp_path, column, kind, words):
    held = [row(n) for n in range(5)]
    excluded = Excluded.of([data_set(tmp_path / "one", *held[:2]), data_set(tmp_path / "two", *held[2:])])
    again = disturbed(np.frombuffer(held[3][column], kind.dtype))
    assert excluded.by_content(row(7, **{column: to_bytes(again)})) == (f"{words} as in two: {held[3]['key']}")
    assert excluded.by_content(row(7)) is None


def test_a_later_part_of_the_same_song_that_overlaps_is_held(tmp_path):
    held = row(1)
    later = np.concatenate([np.frombuffer(held["sound_print"], SOUND.dtype)[70:], items(SOUND, 50)[:70]])
    told = Excluded.of([data_set(tmp_path, held)]).by_content(row(7, sound_print=to_bytes(later)))
    assert told == f"sound as in {tmp_path.name}: {held['key']}"


def test_a_mirrored_picture_is_the_same_picture(tmp_path):
    held = row(1)
    mirrored = np.frombuffer(held["picture_print"], PICTURE.dtype) ^ PICTURE.dtype.type(PICTURE.mirror_bits)
    told = Excluded.of([data_set(tmp_path, held)]).by_content(row(7, picture_print=to_bytes(mirrored)))
    assert told == f"picture as in {tmp_path.name}: {held['key']}"


@pytest.mark.parametrize("absent", [("sound_print",), ("picture_print",), ("sound_print", "picture_print")])
def test_sets_of_one_modality_are_compared_in_what_they_have(tmp_path, absent):
    nothing = dict.fromkeys(absent)
    excluded = Excluded.of([data_set(tmp_path, row(1, **nothing))])
    assert excluded.by_content(row(7)) is None
    other = {"sha256": "f" * 64, "source_id": "y", "link": "y", "source_group": "y"}
    told = excluded.by_content(row(1, sha256=None) | other)
    assert (told is None) == (len(absent) == 2)
    both = Excluded.of([data_set(tmp_path / "both", row(1))])
    assert both.by_content(row(7, **nothing)) is None


def test_silence_and_a_still_picture_are_nobodys(tmp_path):
    silent = {"sound_print": bytes(4 * 221), "picture_print": to_bytes(np.full(64, 0x1234567890ABCDEF, PICTURE.dtype))}
    excluded = Excluded.of([data_set(tmp_path, row(1, **silent))])
    assert excluded.by_content(row(7, **silent)) is None


def test_many_rows_are_told_what_each_is_told_alone(tmp_path):
    held = [row(n) for n in range(4)]
    excluded = Excluded.of([data_set(tmp_path, *held)])
    asked = [
        row(10),
        row(11, sound_print=to_bytes(disturbed(np.frombuffer(held[2]["sound_print"], SOUND.dtype)))),
        row(12, sha256=held[1]["sha256"], picture_print=held[3]["picture_print"]),
        row(13, picture_print=held[3]["picture_print"], sound_print=None),
        row(14, source_id="site:0"),
    ]
    told = excluded.by_contents(asked)
    assert told == [excluded.by_content(each) for each in asked]
    assert told == [
        None,
        f"sound as in {tmp_path.name}: {held[2]['key']}",
        f"{tmp_path.name} holds this file",
        f"picture as in {tmp_path.name}: {held[3]['key']}",
        f"{tmp_path.name} holds this video",
    ]
    assert excluded.by_contents([]) == []


def test_nothing_is_held_where_no_set_is_named_or_a_set_is_empty(tmp_path):
    for excluded in (Excluded(), Excluded.of([]), Excluded.of([data_set(tmp_path)])):
        assert excluded.by_identity(candidate(f"youtube:{ID}")) is None
        assert excluded.by_content(row(1)) is None


# --- what is no such set ---------------------------------------------------------------------------------------------


def test_a_set_without_fingerprints_is_told_in_one_line(tmp_path):
    old = pa.schema([field for field in INDEX if not field.name.endswith("_print")])
    write_rows(tmp_path / "index.parquet", [row(1)], old)
    with pytest.raises(UserError) as caught:
        Excluded.of([tmp_path])
    assert str(caught.value) == (f"--exclude {tmp_path} has no picture_print, sound_print in its index; build it again")


@pytest.mark.parametrize("what", ["gone", "empty", "a file", "text", "folder", "another table"])
def test_what_is_no_data_set_is_told_in_one_line(tmp_path, what):
    folder = tmp_path / "set"
    if what == "a file":
        folder.write_text("x")
    elif what != "gone":
        folder.mkdir()
    if what == "text":
        (folder / "index.parquet").write_text("no parquet")
    elif what == "folder":
        (folder / "index.parquet").mkdir()
    elif what == "another table":
        pq.write_table(pa.table({"name": ["x"]}), folder / "index.parquet")
    with pytest.raises(UserError, match=f"--exclude {folder} ") as caught:
        Excluded.of([folder])
    assert "\n" not in str(caught.value)
    if what != "another table":
        assert "is no data set: its index.parquet cannot be read" in str(caught.value)
