"""What browsers are given: files as they are, streams copied bit for bit, or a smaller picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import pytest

from pipeline import media
from pipeline.errors import RejectedError
from pipeline.playable import Playable, make_playable, shown_aspect
from tests.conftest import run_ffmpeg

PICTURE = "testsrc2=size={size}:rate=10"
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def made(path: Path, *codecs: str, size: str = "64x36", seconds: float = 2) -> Path:
    picture = PICTURE.format(size=size)
    sources = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
    run_ffmpeg(*sources, "-t", str(seconds), *codecs, str(path))
    return path


def played(path: Path, folder: Path) -> Playable:
    return make_playable(path, media.probe(path), folder)


def packets(path: Path, kind: str) -> list[bytes]:
    """What a stream holds, undecoded; headers that a container moves elsewhere are no part of it."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("a.mp4", (*H264, "-c:a", "aac")),
        ("a.webm", ("-c:v", "libvpx", "-c:a", "libopus")),
        ("a.mp3", ("-vn", "-c:a", "libmp3lame")),
        ("a.ogg", ("-vn", "-c:a", "libvorbis", "-ac", "2")),
        ("a.flac", ("-vn",)),
        ("a.wav", ("-vn",)),
        ("a.m4a", ("-vn",)),
    ],
)
def test_what_browsers_play_is_given_as_it_is(tmp_path, name, codecs):
    path = made(tmp_path / name, *codecs)
    found = played(path, tmp_path)
    assert (found.path, found.changes) == (path, None)
    assert found.mime.split("/")[0] == ("video" if found.ending in ("mp4", "webm") else "audio")
    assert [file.name for file in tmp_path.iterdir()] == [name]


WEBM = ("-c:v", "libvpx", "-c:a", "libopus")


def test_webm_is_known_by_its_head_whatever_it_is_called(tmp_path):
    path = made(tmp_path / "a.webm", *WEBM).rename(tmp_path / "the file")
    found = played(path, tmp_path)
    assert (found.path, found.ending, found.changes) == (path, "webm", None)
    whole = path.read_bytes()
    longer = tmp_path / "longer"  # the same word, with its length in two bytes
    longer.write_bytes(whole.replace(b"\x9f", b"\xa0", 1).replace(b"\x42\x82\x84webm", b"\x42\x82\x40\x04webm", 1))
    assert len(longer.read_bytes()) == len(whole) + 1
    assert played(longer, tmp_path).changes is None


def test_matroska_that_is_called_webm_is_made_webm(tmp_path):
    path = made(tmp_path / "a.mkv", *WEBM).rename(tmp_path / "a.webm")
    (tmp_path / "out").mkdir()
    found = played(path, tmp_path / "out")
    assert (found.ending, found.changes) == ("webm", "container alone")
    assert played(found.path, tmp_path).changes is None


def test_webm_that_does_not_say_how_long_it_is_gets_a_container_that_does(tmp_path):
    path = made(tmp_path / "recorded.webm", *WEBM, "-live", "1")
    (tmp_path / "out").mkdir()
    assert media.probe(path).container_s is None
    found = played(path, tmp_path / "out")
    assert (found.ending, found.changes) == ("webm", "container alone")
    assert media.probe(found.path).container_s == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("codecs", "name", "home"),
    [
        ((*H264, "-c:a", "aac"), "fetched.mkv", "mp4"),
        ((*H264, "-c:a", "libmp3lame"), "old.flv", "mp4"),
        (("-c:v", "libvpx", "-c:a", "libopus"), "free.mkv", "webm"),
    ],
)
def test_a_foreign_container_is_changed_and_no_stream(tmp_path, codecs, name, home):
    path = made(tmp_path / name, *codecs, *(("-ar", "44100") if home == "mp4" else ()))
    (tmp_path / "out").mkdir()
    found = played(path, tmp_path / "out")
    assert (found.ending, found.changes) == (home, "container alone")
    for kind in ("video", "audio"):
        assert packets(found.path, kind) == packets(path, kind)


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("late.mp4", (*H264, "-c:a", "aac")),
        ("late.webm", ("-c:v", "libvpx", "-c:a", "libopus")),
    ],
)
def test_times_begin_at_0_as_those_of_windows_do(tmp_path, name, codecs):
    path = made(tmp_path / name, *codecs, "-output_ts_offset", "10")
    assert media.probe(path).start_s == pytest.approx(10, abs=0.1)
    (tmp_path / "out").mkdir()
    found = played(path, tmp_path / "out")
    assert found.changes == "container alone"
    now = media.probe(found.path)
    assert now.start_s == pytest.approx(0, abs=0.03)
    assert now.container_s == pytest.approx(2, abs=0.15)
    for kind in ("video", "audio"):
        assert packets(found.path, kind) == packets(path, kind)


@pytest.mark.parametrize(
    ("size", "expected"), [("640x480", (480, 360)), ("480x642", (360, 482)), ("64x36", (64, 36)), ("63x35", (62, 34))]
)
def test_a_foreign_picture_is_made_anew_at_360p_or_less_beside_the_same_sound(tmp_path, size, expected):
    path = made(tmp_path / "old.avi", "-c:v", "mpeg4", "-c:a", "libmp3lame", size=size)
    (tmp_path / "out").mkdir()
    found = played(path, tmp_path / "out")
    now = media.probe(found.path)
    assert found.changes == "picture, at 360p or less"
    assert (now.video_codec, now.pixel_format, now.audio_codec) == ("h264", "yuv420p", "mp3")
    assert (now.width_px, now.height_px) == pytest.approx(expected, abs=2)
    assert all(px % 2 == 0 for px in (now.width_px, now.height_px))
    assert packets(found.path, "audio") == packets(path, "audio")
    assert now.container_s == pytest.approx(2, abs=0.15)


def test_a_foreign_sound_is_made_anew_beside_the_same_picture_and_stays_in_step(tmp_path):
    path = made(tmp_path / "film.mkv", *H264, "-c:a", "ac3")
    gap = tmp_path / "gap.mkv"  # the sound begins half a second late
    run_ffmpeg(
        "-i", str(path), "-itsoffset", "0.5", "-i", str(path), "-map", "0:v", "-map", "1:a", "-c", "copy", str(gap)
    )
    (tmp_path / "out").mkdir()
    found = played(gap, tmp_path / "out")
    assert found.changes == "sound"
    assert packets(found.path, "video") == packets(path, "video")
    with av.open(str(found.path)) as container:
        frames = [(frame.time, abs(frame.to_ndarray()).max()) for frame in container.decode(audio=0)]
    loud_s = next(time_s for time_s, peak in frames if peak > 0.05)
    assert loud_s == pytest.approx(0.5, abs=0.06)
    assert all(after > before for (before, _), (after, _) in pairwise(frames))


def test_a_picture_of_which_browsers_know_the_codec_but_not_the_colours_is_made_anew(tmp_path):
    path = made(tmp_path / "deep.mp4", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv444p")
    (tmp_path / "out").mkdir()
    assert played(path, tmp_path / "out").changes == "picture, at 360p or less"


def turned(path: Path) -> Path:
    """A film that its phone turned: 640 x 480 pixels, shown upright."""
    made(path, "-c:v", "mpeg4", "-an", size="640x480", seconds=0.5)
    upright = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")
    on_its_side = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000 00000000 01e00000 00000000 40000000")
    before, ours, after = path.read_bytes().split(upright)  # the whole film's matrix, then the picture's
    path.write_bytes(before + upright + ours + on_its_side + after)
    return path


def test_a_video_turned_by_its_phone_is_scaled_as_it_is_shown(tmp_path):
    path = turned(tmp_path / "turned.mp4")
    (tmp_path / "out").mkdir()
    now = media.probe(played(path, tmp_path / "out").path)
    assert (now.width_px, now.height_px) == (360, 480)


def test_the_shape_of_a_picture_is_that_which_players_show(tmp_path):
    def shape(path: Path) -> float | None:
        return shown_aspect(path, media.probe(path))

    assert shape(turned(tmp_path / "turned.mp4")) == 480 / 640
    assert shape(made(tmp_path / "wide.mkv", *H264, "-aspect", "4:1", seconds=0.2)) == pytest.approx(4, abs=0.01)
    assert shape(made(tmp_path / "song.flac", "-vn", seconds=0.2)) is None
    film = made(tmp_path / "film.avi", "-c:v", "mpeg4", seconds=0.2)
    found = media.probe(film)
    film.write_bytes(film.read_bytes()[:300])
    assert shown_aspect(film, found) == 64 / 36


def test_what_lies_about_itself_yields_no_other_file(tmp_path):
    secret = made(tmp_path / "secret.avi", "-c:v", "mpeg4")
    found = media.probe(secret)
    listed = tmp_path / "list.avi"
    listed.write_text(f"ffconcat version 1.0\nfile {secret}\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(RejectedError):
        make_playable(listed, found, tmp_path / "out")


def test_a_damaged_file_is_refused_in_words(tmp_path):
    path = made(tmp_path / "whole.avi", "-c:v", "mpeg4")
    found = media.probe(path)
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "out").mkdir()
    with pytest.raises(RejectedError, match="ffmpeg: "):
        make_playable(path, found, tmp_path / "out")
