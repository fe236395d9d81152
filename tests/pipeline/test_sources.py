from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.sources import list_sources, source_group


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a/c.MKV", "a/notes.txt", "a/._b.mp4", "d.mp3"):
        file = tmp_path / "media" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "media"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("Train/Tension/video/LLT_TENS(5)-7-of-10.mp4", "LLT_TENS(5)"),
        ("test/Tension/video/LLT_TENS(5)-10-of-10.mp4", "LLT_TENS(5)"),
        ("Train/Sad/video/aB3_-dEfGh1_000030_000060.mp4", "aB3_-dEfGh1"),
        ("Train/Excited/video/14.mp4", "Train/Excited/video/14.mp4"),
        ("Train/Sad/video/DEAP_DB_HR(43).mp4", "Train/Sad/video/DEAP_DB_HR(43).mp4"),
    ],
)
def test_segments_of_one_video_share_a_group_and_other_names_do_not(name, group):
    assert source_group(name) == group


def test_a_folder_gives_its_media_in_a_fixed_order_by_relative_path(folder):
    sources = list_sources(str(folder))
    assert [s.source_id for s in sources] == ["a/c.MKV", "b.mp4", "d.mp3"]
    assert {s.label for s in sources} == {None}
    assert sources[0].path == folder / "a/c.MKV"


def test_mveds_layout_gives_split_and_class_whatever_their_spelling(tmp_path):
    for name in (
        "Train/Excited/video/1.mp4",
        "Validation/exciting/video/2.mp4",
        "test/Sad/3.mp4",
        "test/Odd/4.mp4",
        "5.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {
        s.source_id: (s.split, s.label, s.problem and s.problem[0]) for s in list_sources(str(tmp_path), labels="mved")
    }
    assert found == {
        "Train/Excited/video/1.mp4": ("train", "Excited", None),
        "Validation/exciting/video/2.mp4": ("val", "Excited", None),
        "test/Sad/3.mp4": ("test", "Sad", None),
        "test/Odd/4.mp4": (None, None, "no-label"),
        "5.mp4": (None, None, "no-label"),
    }


def test_a_table_labels_files_of_a_folder(folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "file,label,split,group\nb.mp4,Sad,Train,band\na/c.MKV,Fear,,\n../x.mp4,Sad,,\ngone.mp4,Sad,,\nd.mp3,,,\n"
    )
    sources = list_sources(str(folder), labels=str(table))
    shown = [(s.source_id, s.label, s.split, s.problem and s.problem[0]) for s in sources]
    assert shown == [
        ("b.mp4", "Sad", "train", None),
        ("a/c.MKV", "Fear", None, None),
        ("../x.mp4", "Sad", None, "unavailable"),
        ("gone.mp4", "Sad", None, None),  # found out when it is opened
        ("d.mp3", None, None, "no-label"),
    ]
    assert sources[0].groups == ("band", "b.mp4")


def test_names_that_look_like_numbers_stay_as_written(folder, tmp_path):
    (folder / "007.mp4").touch()
    table = tmp_path / "labels.csv"
    table.write_text("file,label,group\n007.mp4,1,010\n")
    (source,) = list_sources(str(folder), labels=str(table))
    assert (source.source_id, source.label, source.groups[0]) == ("007.mp4", "1", "010")


@pytest.mark.parametrize(
    ("source", "labels", "words"),
    [
        ("empty", None, "holds no media file"),
        ("media", "gone.csv", "no such file"),
        ("media", "nolabel.csv", "no column label"),
        ("media", "twice.csv", "more than once"),
        ("media", "badsplit.csv", "known are train, val and test"),
        ("media", "header.csv", "has no row"),
        ("media", "columns.csv", "has two columns label; leave one"),
        ("media", "same.csv", "names a.mp4 more than once"),
        ("media", "nofile.csv", "row 2 has no file"),
        ("media", "bad.parquet", "cannot be read as a table"),
    ],
)
def test_a_mistake_is_told_in_one_line(folder, tmp_path, monkeypatch, source, labels, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "nolabel.csv").write_text("file,mood\nb.mp4,Sad\n")
    (tmp_path / "twice.csv").write_text("file,label\nb.mp4,Sad\nb.mp4,Fear\n")
    (tmp_path / "badsplit.csv").write_text("file,label,split\nb.mp4,Sad,trian\n")
    (tmp_path / "header.csv").write_text("file,label\n")
    (tmp_path / "columns.csv").write_text("file,label,label\nb.mp4,Sad,Fear\n")
    (tmp_path / "same.csv").write_text("file,label\na.mp4,Sad\n./a.mp4,Fear\n")
    (tmp_path / "nofile.csv").write_text("file,label\na.mp4,Sad\n,Fear\n")
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=words) as caught:
        list_sources(source, labels=labels)
    assert "\n" not in str(caught.value)


def test_odd_names_and_broken_links_are_candidates_too(folder):
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    Path(os.fsdecode(bytes(folder) + b"/b\xff.mp4")).touch()
    (folder / "folder.mp4").mkdir()
    names = [s.source_id for s in list_sources(str(folder))]
    assert names == ["a/c.MKV", "b.mp4", "b\\udcff.mp4", "d.mp3", "gone.mp4"]


def test_two_files_that_would_have_one_identity_are_refused(folder):
    Path(os.fsdecode(bytes(folder) + b"/b\xff.mp4")).touch()
    (folder / "b\\udcff.mp4").touch()
    with pytest.raises(UserError, match=r"two files that would both be known as .*rename one"):
        list_sources(str(folder))


def test_a_folder_that_cannot_be_read_is_told_and_not_passed_over(folder, monkeypatch):
    """As root reads every folder, the refusal is made up."""
    real = os.scandir

    def refusing(path):
        if str(path).endswith("/a"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"/a cannot be read \(Permission denied\)"):
        list_sources(str(folder))


def test_several_clips_of_a_file_are_candidates_of_their_own_which_share_all_but_their_number(folder):
    one, two, three, *others = list_sources(str(folder), clips_per_video=3)
    assert [s.source_id for s in (one, two, three)] == ["a/c.MKV", "a/c.MKV (clip 2)", "a/c.MKV (clip 3)"]
    assert [s.number for s in (one, two, three)] == [0, 1, 2]
    assert [s.video_id for s in others] == ["b.mp4"] * 3 + ["d.mp3"] * 3
    alone = list_sources(str(folder))[0]
    assert [replace(s, source_id=s.video_id, number=0) for s in (one, two, three)] == [alone] * 3
    assert two.groups == one.groups == ("a/c.MKV",)


def test_several_clips_of_a_labelled_file_have_its_label_and_groups(tmp_path, folder):
    table = tmp_path / "labels.csv"
    table.write_text("file,label,split,group\nb.mp4,Sad,Train,band\n")
    one, two = list_sources(str(folder), labels=str(table), clips_per_video=2)
    assert (
        (two.label, two.split, two.groups) == (one.label, one.split, one.groups) == ("Sad", "train", ("band", "b.mp4"))
    )


def test_more_clips_leave_the_first_ones_as_they_are(folder):
    few, many = (list_sources(str(folder), clips_per_video=count) for count in (2, 5))
    assert [s for s in many if s.number < 2] == few


def test_of_a_file_link_and_identity_are_its_path_in_the_folder(folder):
    for source in list_sources(str(folder)):
        assert source.link == source.source_id == source.video_id
        assert (source.query, source.span, source.uploader, source.licence) == (None, None, None, None)
