from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.filters import duplicates
from pipeline.filters.duplicates import Found, find
from pipeline.fingerprint import PICTURE, SOUND, to_bytes
from pipeline.slices import Kind

Row = dict[str, Any]
NUM_ITEMS = {SOUND: 221, PICTURE: 64}


@functools.cache
def recording(kind: Kind, name: str) -> np.ndarray:
    """Items of two minutes that change as music and pictures do, like no other."""
    rng = np.random.default_rng([*name.encode(), kind.bits])
    one, two, three = rng.integers(1, 2**kind.bits, (3, 1000), dtype=kind.dtype, endpoint=False)
    return np.bitwise_xor.accumulate(one & (two | three))


def heard(kind: Kind, name: str, start_s: float) -> np.ndarray:
    """What a copy of a recording gives from there on: some of its bits differ."""
    first = round(start_s / kind.item_s)
    items = recording(kind, name)[first : first + NUM_ITEMS[kind]]
    rng = np.random.default_rng([*name.encode(), first])
    flips = (rng.random((len(items), kind.bits)) < 0.02) & (rng.random((len(items), 1)) < 0.6)
    return items ^ np.packbits(flips, axis=1, bitorder="little").view(kind.dtype).ravel()


def row(
    name: str,
    *,
    sound: tuple[str, float] | None = None,
    picture: tuple[str, float] | None = None,
    mirrored: bool = False,
    **known: Any,
) -> Row:
    """An index row of a clip: what it plays and shows, by recording and start; without that, like no other."""
    prints = {
        column: to_bytes(heard(kind, *(what or (f"{kind.bits} of {name}", 0))))
        for column, kind, what in (("sound_print", SOUND, sound), ("picture_print", PICTURE, picture))
    }
    if mirrored:
        items = np.frombuffer(prints["picture_print"], PICTURE.dtype)
        prints["picture_print"] = to_bytes(items ^ PICTURE.dtype.type(PICTURE.mirror_bits))
    made = {
        "key": f"key of {name}",
        "source_id": name,
        "status": "kept",
        "sha256": f"bytes of {name}",
        "start_s": 0.0,
        "split": None,
        "duplicate_of": None,
        **prints,
    }
    return made | known


def dropped(*rows: Row, **settings: Any) -> dict[str, str]:
    """What is dropped for what, by names."""
    found = find(rows, **({"mode": "drop"} | settings))
    return {
        key.removeprefix("key of "): d.of.removeprefix("key of ") for key, d in found.duplicates.items() if d.dropped
    }


def together(rows: Sequence[Row], *found: Found) -> set[frozenset[str]]:
    """Source groups of more than one clip, by names."""
    graph = networkx.Graph(link for each in found for link in each.links)
    kept = {row["key"] for row in rows}
    parts = ({key.removeprefix("key of ") for key in part & kept} for part in networkx.connected_components(graph))
    return {frozenset(part) for part in parts if len(part) > 1}


# --- two clips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"sound": ("song", 5)}, "shares 25.0 s of its sound with key of one"),
        ({"sound": ("song", 14.9)}, "shares 15.1 s of its sound with key of one"),
        ({"picture": ("film", 10.3)}, "shares 19.7 s of its picture with key of one"),
        ({"picture": ("film", 15)}, "shares 15.0 s of its picture with key of one"),
        ({"picture": ("film", 10.3), "mirrored": True}, "shares 19.7 s of its picture with key of one"),
        (
            {"sound": ("song", 3), "picture": ("film", 3)},
            "shares 27.0 s of its sound and 27.2 s of its picture with key of one",
        ),
        (
            {"sound": ("song", 22), "picture": ("film", 3)},
            "shares 7.9 s of its sound and 27.2 s of its picture with key of one",
        ),
    ],
)
def test_a_later_clip_that_shares_half_a_clip_is_a_duplicate_and_it_is_told_of_what_and_how_much(what, words):
    first, second = row("one", sound=("song", 0), picture=("film", 0)), row("two", **what)
    found = find([first, second], mode="drop")
    (told,) = found.duplicates.values()
    assert (list(found.duplicates), told.of, told.dropped) == (["key of two"], "key of one", True)
    assert told.detail == words
    assert found.links == [("key of two", "key of one")]


@pytest.mark.parametrize("what", [{"sound": ("song", 15.3)}, {"sound": ("song", 21)}, {"picture": ("film", 16)}])
def test_clips_that_share_less_are_two_of_one_group(what):
    rows = [row("one", sound=("song", 0), picture=("film", 0)), row("two", **what), row("three")]
    found = find(rows, mode="drop")
    assert not found.duplicates
    assert together(rows, found) == {frozenset({"one", "two"})}


def test_the_earlier_clip_stands_whichever_begins_earlier_in_the_song():
    assert dropped(row("late", sound=("song", 9)), row("early", sound=("song", 2))) == {"early": "late"}


def test_what_shares_nothing_is_left_alone():
    found = find([row(str(n)) for n in range(9)], mode="drop")
    assert (found.duplicates, found.links) == ({}, [])


def test_clips_without_fingerprints_or_of_one_kind_are_compared_in_what_they_have():
    nothing = {"sound_print": None, "picture_print": None}
    rows = [row("one", sound=("song", 0)), row("none", **nothing), row("none too", **nothing)]
    rows.append(row("two", sound=("song", 1), picture_print=None))
    assert dropped(*rows) == {"two": "one"}


def test_the_fingerprints_are_taken_out_as_they_are_compared():
    """Of 130,000 clips they fill 200 MB, and the indexes hold them too."""
    rows = [row("one"), row("two")]
    find(rows[1:], rows[:1], mode="score")
    assert not any("sound_print" in each or "picture_print" in each for each in rows)


# --- clips of one video ----------------------------------------------------------------------------------------------


def test_two_clips_of_one_video_are_told_apart_by_their_places_even_if_it_is_one_chorus_and_one_loop():
    same = {"sound": ("chorus", 0), "picture": ("loop", 0)}
    one = row("site:abc", start_s=10.0, **same)
    two = row("site:abc (clip 2)", start_s=70.0, **same)
    assert dropped(dict(one), dict(two)) == {}
    assert dropped(one, two, row("another upload", **same)) == {"another upload": "site:abc"}


def test_two_spans_of_the_same_file_that_overlap_by_half_are_one_clip_even_if_nothing_is_to_be_heard_or_seen():
    silent = {"sound_print": bytes(4 * 221), "picture_print": bytes(8 * 64), "sha256": "bytes"}
    one, two = row("a.mp4", start_s=10.0, **silent), row("b.mp4", start_s=24.5, **silent)
    (told,) = find([one, two], mode="drop").duplicates.values()
    assert told.detail == "overlaps key of a.mp4, of the same video, by 15.5 s"
    assert dropped(row("a.mp4", start_s=10.0, **silent), row("b.mp4", start_s=25.5, **silent)) == {}


@pytest.mark.parametrize(
    ("what", "is_dropped"),
    [
        ({"sound": ("song", 2)}, False),
        ({"picture": ("film", 2)}, False),
        ({"sound": ("song", 2), "picture": ("film", 9)}, False),
        ({"sound": ("song", 2), "picture": ("film", 2)}, True),
        ({"sound": ("song", 20), "picture": ("film", 20)}, False),
    ],
)
def test_segments_of_one_video_are_duplicates_only_where_sound_and_picture_say_so_together(what, is_dropped):
    first = row("Train/Sad/SONG(2)-1-of-9.mp4", sound=("song", 0), picture=("film", 0))
    again = row("test/Sad/SONG(2)-4-of-9.mp4", **what)
    assert bool(dropped(first, again)) == is_dropped


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["drop", "score", "off"])
def test_the_same_span_of_the_same_bytes_is_dropped_in_every_mode(mode):
    rows = [row("one", sha256="x"), row("two", sha256="x"), row("three", sha256="x", start_s=60.0)]
    found = find(rows, mode=mode)
    (told,) = found.duplicates.values()
    assert (told.of, told.detail, told.dropped) == ("key of one", "same clip as key of one", True)
    assert list(found.duplicates) == ["key of two"]


def test_where_nothing_is_asked_nothing_but_bytes_is_compared():
    rows = [row("one", sound=("song", 0)), row("two", sound=("song", 0)), row("far", sound=("song", 20))]
    found = find(rows, mode="off")
    assert (found.duplicates, found.links) == ({}, [])


def test_where_clips_are_scored_a_duplicate_is_kept_and_marked_and_joined():
    rows = [row("one", sound=("song", 0)), row("two", sound=("song", 1))]
    found = find(rows, mode="score")
    (told,) = found.duplicates.values()
    assert (told.of, told.dropped) == ("key of one", False)
    assert together(rows, found) == {frozenset({"one", "two"})}


def test_a_copy_of_a_clip_that_was_dropped_is_a_duplicate_of_what_that_one_was():
    rows = [row("one", sound=("song", 0)), row("two", sound=("song", 5)), row("copy", sound=("song", 5))]
    for each in rows[1:]:
        each["sha256"] = "x"
    assert dropped(*map(dict, rows)) == {"two": "one", "copy": "one"}
    marked = find(rows, mode="score").duplicates
    assert [(d.of, d.dropped) for d in marked.values()] == [("key of one", False), ("key of two", True)]


# --- chains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["drop", "score"])
def test_of_a_chain_every_clip_that_shares_half_with_one_that_stands_falls_and_the_next_stands(mode):
    rows = [row(str(n), sound=("song", 10 * n)) for n in range(6)]
    found = find(rows, mode=mode)
    assert {key: d.of for key, d in found.duplicates.items()} == {
        "key of 1": "key of 0",
        "key of 3": "key of 2",
        "key of 5": "key of 4",
    }
    assert together(rows, found) == {frozenset("012345")}


def test_of_several_that_it_is_the_same_as_a_clip_names_the_first():
    rows = [
        row("a", sound=("song", 28)),
        row("b", picture=("film", 0)),
        row("c", sound=("song", 20), picture=("film", 1)),
    ]
    assert dropped(*rows) == {"c": "a"}


def test_a_clip_that_was_dropped_still_shows_that_two_others_are_one_recording():
    rows = [row("a", sound=("song", 0)), row("bridge", sound=("song", 10)), row("b", sound=("song", 30))]
    found = find(rows, mode="drop")
    assert list(found.duplicates) == ["key of bridge"]
    assert together([rows[0], rows[2]], found) == {frozenset("ab")}


# --- what stands -----------------------------------------------------------------------------------------------------


def test_what_stands_wins_and_what_was_left_out_as_its_duplicate_still_joins():
    standing = [
        row("a", sound=("song", 0)),
        row("bridge", sound=("song", 10), status="rejected", duplicate_of="key of a"),
    ]
    new = [row("b", sound=("song", 30)), row("again", sound=("song", 4))]
    found = find(new, standing, mode="drop")
    assert {key: d.of for key, d in found.duplicates.items()} == {"key of again": "key of a"}
    assert frozenset("ab") in together([standing[0], new[0]], found)


def test_what_stands_as_a_duplicate_leads_none_unless_its_own_was_taken_down():
    marked = row("two", sound=("song", 10), duplicate_of="key of one")
    new = row("three", sound=("song", 20))
    assert dropped(dict(new), standing=[row("one", sound=("song", 0)), dict(marked)]) == {}
    assert dropped(dict(new), standing=[dict(marked)]) == {"three": "two"}


# --- official splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["drop", "score"])
def test_a_pair_across_official_splits_stays_and_is_marked(mode):
    rows = [row("one", sound=("song", 0), split="test"), row("two", sound=("song", 1), split="train")]
    (told,) = find(rows, mode=mode, official=True).duplicates.values()
    assert (told.of, told.dropped) == ("key of one", False)
    assert dropped(*(row(each["source_id"], sound=("song", 0), split=each["split"]) for each in rows)) == {"two": "one"}


def test_in_official_splits_a_clip_falls_for_one_of_its_own_split():
    rows = [
        row(name, sound=("song", n), split=name.split()[0]) for n, name in enumerate(("train 1", "test 1", "test 2"))
    ]
    found = find(rows, mode="drop", official=True)
    assert {key: (d.of, d.dropped) for key, d in found.duplicates.items()} == {
        "key of test 1": ("key of train 1", False),
        "key of test 2": ("key of test 1", True),
    }


# --- any set ---------------------------------------------------------------------------------------------------------


@st.composite
def sets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Clips of some songs and films, ten seconds apart: they share 20 s, 10 s or nothing. Some are of one file."""
    clips = []
    starts = st.sampled_from([0, 10, 20, 30, 40])
    for n in range(draw(st.integers(0, 12))):
        start_s = draw(starts)
        file, sound, picture = "same", "a", ("c", start_s)
        if draw(st.integers(0, 3)):
            file, sound, picture = (
                f"own {n}",
                draw(st.sampled_from("ab")),
                (draw(st.sampled_from("cdef")), draw(starts)),
            )
        known = {"name": f"{n:02}", "sha256": file, "start_s": float(start_s), "sound": (sound, start_s)}
        clips.append(known | {"picture": picture, "split": draw(st.sampled_from(["train", "test"]))})
    return clips


def slowly(
    clips: list[dict[str, Any]], mode: str, official: bool
) -> tuple[dict[str, tuple[str, bool]], list[dict[str, Any]]]:
    """Duplicates, and what is kept, as the rule has it, from what the clips are made of."""

    def shared_s(one: dict[str, Any], other: dict[str, Any]) -> float:
        if one["sha256"] == other["sha256"]:
            return 30 - abs(one["start_s"] - other["start_s"])
        return max(30 - abs(one[k][1] - other[k][1]) if one[k][0] == other[k][0] else 0 for k in ("sound", "picture"))

    told: dict[str, tuple[str, bool]] = {}
    kept: list[dict[str, Any]] = []
    leads: list[dict[str, Any]] = []
    for clip in clips:
        copies = [other for other in kept if (other["sha256"], other["start_s"]) == (clip["sha256"], clip["start_s"])]
        if copies:
            told[clip["name"]] = (copies[0]["name"], True)
            continue
        twins = [other for other in leads if shared_s(clip, other) >= 15]
        at_home = [other for other in twins if not official or other["split"] == clip["split"]]
        if twins:
            told[clip["name"]] = ((at_home or twins)[0]["name"], mode == "drop" and bool(at_home))
        if not at_home:
            leads.append(clip)
        if not told.get(clip["name"], ("", False))[1]:
            kept.append(clip)
    return told, kept


def as_rows(clips: Sequence[dict[str, Any]]) -> list[Row]:
    return [row(**clip) for clip in clips]


def told_of(*found: Found) -> dict[str, tuple[str, bool]]:
    return {
        key.removeprefix("key of "): (d.of.removeprefix("key of "), d.dropped)
        for each in found
        for key, d in each.duplicates.items()
    }


@settings(max_examples=40)
@given(sets(), st.sampled_from(["drop", "score"]), st.booleans(), st.data())
def test_any_set_is_compared_as_the_rule_has_it_and_in_two_builds_as_in_one(clips, mode, official, data):
    rows = as_rows(clips)
    whole = find(rows, mode=mode, official=official)
    expected, kept = slowly(clips, mode, official)
    assert told_of(whole) == expected

    cut = data.draw(st.integers(0, len(clips)))
    first = as_rows(clips[:cut])
    before = find(first, mode=mode, official=official)
    standing = as_rows(clips[:cut])
    for each in standing:
        if (duplicate := before.duplicates.get(each["key"])) is not None:
            each |= {"duplicate_of": duplicate.of, "status": "rejected" if duplicate.dropped else "kept"}
    after = find(as_rows(clips[cut:]), standing, mode=mode, official=official)
    assert told_of(before, after) == expected
    names = [row(clip["name"]) for clip in kept]
    assert together(names, before, after) == together(names, whole)


def test_how_far_it_is_is_told_to_the_end(monkeypatch):
    monkeypatch.setattr(duplicates, "PROGRESS_EVERY", 2)
    told: list[tuple[int, int]] = []
    find([row(str(n)) for n in range(5)], [row("x")], mode="drop", progress=lambda *far: told.append(far))
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]
