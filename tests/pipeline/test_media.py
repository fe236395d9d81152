from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipeline import media
from pipeline.clips import ClipSpan
from pipeline.errors import RejectedError
from tests.conftest import NUMBERED, run_ffmpeg

RATE_HZ = 32_000


def read_numbers(frames_THWC: np.ndarray) -> list[int]:
    """Frame numbers back from the ten bars (``NUMBERED``) in the middle row of each frame, colour or grey."""
    centres = ((np.arange(10) + 0.5) * frames_THWC.shape[2] / 10).astype(int)
    bits = frames_THWC.reshape(*frames_THWC.shape[:3], -1)[:, frames_THWC.shape[1] // 2, centres, 0] > 127
    return (bits * 2 ** np.arange(10)).sum(axis=1).tolist()


def shown_numbers(path: Path, start_s: float, rate: float, *, num: int = 64) -> list[int]:
    """The slow way: every timestamp by PyAV; frame i is the last with pts <= start + i * 30/64 s."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        origin_s = container.start_time / 1e6
        times_s = np.array([float(f.pts * stream.time_base) - origin_s for f in container.decode(stream)])
    grid_s = start_s + np.arange(num) * 30 / num
    chosen = np.maximum(np.searchsorted(times_s, grid_s + 1e-9, side="right") - 1, 0)
    first_s = times_s[0] if path.stem.startswith("late") else 0.0
    return np.round((times_s[chosen] - first_s) * rate).astype(int).tolist()


def shown_frames(path: Path, start_s: float) -> np.ndarray:
    """The slow way again, for pictures: uint8 (64, 128, 128, 3)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        origin_s = container.start_time / 1e6
        shown = [(float(f.pts * stream.time_base) - origin_s, f) for f in container.decode(stream)]
        times_s = np.array([time_s for time_s, _ in shown])
        chosen = np.searchsorted(times_s, start_s + np.arange(64) * 30 / 64 + 1e-4, side="right") - 1
        pictures = [shown[max(k, 0)][1].reformat(128, 128, "rgb24", interpolation="BILINEAR") for k in chosen]
        return np.stack([picture.to_ndarray() for picture in pictures]).astype(int)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory, make_media):
    """Videos whose every frame tells its number."""
    folder = tmp_path_factory.mktemp("numbered")
    picture = f"color=size=80x16:rate={{}},{NUMBERED}"
    kept = "select='not(mod(n,7)*mod(n,11)*lt(random(3),0.6))'"
    vfr = ("-vf", kept, "-fps_mode", "vfr")
    return {
        "constant": make_media(folder / "cfr.mp4", picture=picture.format("30000/1001"), seconds=34),
        "variable": make_media(folder / "vfr.mkv", picture=picture.format(30), seconds=34, extra=vfr),
        "short": make_media(folder / "short.mkv", picture=picture.format(24), seconds=27.05),
        "late": make_media(
            folder / "late.mkv",
            picture=picture.format(30),
            seconds=34,
            extra=("-vf", "setpts=PTS+0.7/TB", "-fps_mode", "vfr", "-output_ts_offset", "3"),
        ),
    }


@pytest.mark.parametrize("start_s", [0.0, 0.5, 1.234, 3.999])
@pytest.mark.parametrize(("which", "rate"), [("constant", 30000 / 1001), ("variable", 30), ("late", 30)])
def test_every_frame_is_the_last_one_on_show_at_its_time(numbered, which, rate, start_s):
    path = numbered[which]
    found = media.probe(path)
    clip = media.decode_clip(path, ClipSpan(start_s=start_s), found)
    assert clip.frames_THWC.shape == (64, 128, 128, 3)
    assert read_numbers(clip.frames_THWC) == shown_numbers(path, start_s, rate)
    assert clip.small_THW.shape == (150, 36, 64)
    assert read_numbers(clip.small_THW) == shown_numbers(path, start_s, rate, num=150)
    assert clip.audio.shape == (30 * RATE_HZ,)


@pytest.mark.parametrize("start_s", [0.0, 1.9, 4.0, 13.0])
@pytest.mark.parametrize(
    ("name", "rate", "extra"),
    [
        ("sparse.ts", 15, ("-g", "150")),  # a keyframe every 10 s, and no index
        ("sparse.flv", 15, ("-c:v", "flv1", "-g", "150", "-ar", "44100")),
        ("slides.mkv", 0.2, ()),  # a picture every 5 s
        ("slides.mp4", 0.2, ()),
    ],
)
def test_the_frame_on_show_is_found_where_seeking_is_hard(tmp_path, make_media, name, rate, extra, start_s):
    codec = ("-c:v", "mpeg2video") if name.endswith(".ts") else ()
    picture = f"color=size=80x16:rate={25 if codec else rate},{NUMBERED}"
    path = make_media(tmp_path / name, picture=picture, seconds=45, extra=(*codec, *extra))
    clip = media.decode_clip(path, ClipSpan(start_s=start_s), media.probe(path))
    shown = shown_frames(path, start_s)
    differences = np.abs(clip.frames_THWC.astype(int) - shown).mean(axis=(1, 2, 3))
    assert differences.max() < 8  # scaled by another tool; another number differs by 25 at least


@pytest.mark.parametrize(
    ("size", "pixels", "aspect"), [("80x60", "1", 4 / 3), ("80x60", "4/3", 16 / 9), ("80x60", "0", 4 / 3)]
)
def test_the_aspect_is_that_of_what_is_shown_whatever_the_shape_of_the_pixels(tmp_path, size, pixels, aspect):
    path = tmp_path / "video.mkv"
    run_ffmpeg("-f", "lavfi", "-t", "1", "-i", f"testsrc=size={size},setsar={pixels}", "-c:v", "mpeg4", str(path))
    assert media.probe(path).aspect == pytest.approx(aspect)


def test_constant_rate_gives_the_index_rule_of_the_reference_loader(numbered):
    clip = media.decode_clip(numbered["constant"], ClipSpan(start_s=0), media.probe(numbered["constant"]))
    num_frames = 30 * 30000 / 1001
    assert read_numbers(clip.frames_THWC) == [int(i * num_frames / 64) for i in range(64)]


def test_a_picture_that_ends_early_yields_what_it_has(numbered):
    path = numbered["short"]
    clip = media.decode_clip(path, ClipSpan(start_s=0), media.probe(path))
    numbers = read_numbers(clip.frames_THWC)
    assert numbers == shown_numbers(path, 0.0, 24)[: len(numbers)]
    assert abs(media.decoded_s(clip) - 27.05) < 0.5
    assert len(clip.small_THW) in (135, 136)  # no last picture held: it would look like a still
    assert read_numbers(clip.small_THW) == shown_numbers(path, 0.0, 24, num=150)[: len(clip.small_THW)]


def test_small_frames_are_there_only_with_pictures_and_alike_with_and_without_sound(videos):
    path = videos / "Train/Sad/video/long one [x].mp4"
    sound, picture, both = (
        media.decode_clip(path, ClipSpan(start_s=3), media.probe(path), modality=modality)
        for modality in ("audio", "video", "both")
    )
    assert sound.small_THW is None
    assert np.array_equal(picture.small_THW, both.small_THW)
    assert np.array_equal(picture.frames_THWC, both.frames_THWC)


def test_small_frames_are_the_whole_picture_in_grey_from_black_to_white(tmp_path, make_media):
    ramp = "color=size=128x72:rate=10,geq=lum='16+219*X/127':cb=128:cr=128"
    path = make_media(tmp_path / "ramp.mp4", picture=ramp, seconds=30)
    small_THW = media.decode_clip(path, ClipSpan(start_s=0), media.probe(path)).small_THW
    assert np.abs(small_THW - np.linspace(0, 255, 64)).max() < 8


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("kind", ["constant", "variable", "offset"])
def test_flash_and_click_are_within_a_frame_of_each_other(tmp_path, make_media, container, kind):
    flash_s = 10.0
    late_s = 0.7 if kind == "offset" else 0.0  # the picture begins later than the sound
    on_s, off_s = flash_s - late_s, flash_s - late_s + 2
    extra = {
        "constant": (),
        "variable": ("-vf", "select='not(mod(n,3)*mod(n,10))'", "-fps_mode", "vfr"),
        "offset": ("-vf", f"setpts=PTS+{late_s}/TB", "-fps_mode", "vfr", "-output_ts_offset", "3"),
    }[kind]
    path = make_media(
        tmp_path / f"flash.{container}",
        picture=f"color=black:size=64x36:rate=30,drawbox=color=white:t=fill:enable='between(t,{on_s},{off_s})'",
        sound=f"aevalsrc='between(t,{flash_s},{flash_s + 0.01})*sin(2*PI*3000*t)':s=44100",
        seconds=45,
        extra=extra,
    )
    found = media.probe(path)
    frame_s = 1 / 30 if kind != "variable" else 1 / 10
    errors_s = []
    for start_s in (0.0, 2.5, 7.311):
        audio = media.decode_clip(path, ClipSpan(start_s=start_s), found, modality="audio").audio
        click_s = start_s + np.flatnonzero(np.abs(audio) > 0.2)[0] / RATE_HZ
        errors_s.append(click_s - flash_s)
        # A grid point just after the click shows the flash, one a frame before it does not.
        for nudge_s, lit in ((frame_s, True), (-frame_s, False)):
            k = int((click_s - start_s) * 64 / 30)
            start = round(click_s + nudge_s - k * 30 / 64, 3)
            frames = media.decode_clip(path, ClipSpan(start_s=start), found, modality="video").frames_THWC
            assert (frames[k].mean() > 128) == lit
    assert np.abs(errors_s).max() < (0.002 if container == "mkv" else 0.03)  # AAC smears the click


def test_a_damaged_or_foreign_file_is_undecodable(tmp_path, videos):
    for name in ("text.mp4", "truncated.mp4"):
        with pytest.raises(RejectedError, match="undecodable"):
            media.probe(videos / "Train/Excited/video" / name)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:30\n#EXTINF:30,\nfile://{video}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{video}'\n",
    ],
)
def test_a_playlist_named_mp4_does_not_open_another_file(tmp_path, videos, text):
    playlist = tmp_path / "innocent.mp4"
    playlist.write_text(text.format(video=videos / "Train/Sad/video/14.mp4"))
    with pytest.raises(RejectedError, match="undecodable"):
        media.probe(playlist)
    found = media.probe(videos / "Train/Sad/video/14.mp4")
    with pytest.raises(RejectedError, match="undecodable"):
        media.decode_clip(playlist, ClipSpan(start_s=0), found)


def test_a_name_with_a_protocol_is_a_plain_file(tmp_path, monkeypatch, videos):
    monkeypatch.chdir(tmp_path)
    odd = Path("concat:a.mp4|b;rm -rf $HOME.mp4")
    odd.write_bytes((videos / "Train/Sad/video/14.mp4").read_bytes())
    clip = media.decode_clip(odd, ClipSpan(start_s=0), media.probe(odd))
    assert len(clip.audio) > 26 * RATE_HZ


def test_a_truncated_file_whose_header_promises_more_yields_less(tmp_path, make_media):
    whole = make_media(tmp_path / "whole.mp4", seconds=30, extra=("-movflags", "+faststart")).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 3])
    found = media.probe(cut)
    assert found.duration_s("both") > 29
    assert media.decoded_s(media.decode_clip(cut, ClipSpan(start_s=0), found)) < 20


def test_cover_art_is_no_moving_picture(tmp_path, make_media):
    cover, song, both = tmp_path / "cover.png", tmp_path / "song.m4a", tmp_path / "album track.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "color=red:size=32x32", "-frames:v", "1", str(cover))
    make_media(song, picture=None)
    run_ffmpeg(
        "-i",
        str(song),
        "-i",
        str(cover),
        "-map",
        "0",
        "-map",
        "1",
        "-c",
        "copy",
        "-disposition:v",
        "attached_pic",
        str(both),
    )
    with pytest.raises(RejectedError, match="no-video"):
        media.decode_clip(both, ClipSpan(start_s=0), media.probe(both))


def test_a_frozen_decoder_is_stopped(monkeypatch, videos):
    monkeypatch.setattr(media, "DECODE_TIMEOUT_S", 0.001)
    path = videos / "Train/Sad/video/14.mp4"
    with pytest.raises(RejectedError, match="timeout"):
        media.decode_clip(path, ClipSpan(start_s=0), media.probe(path))


def test_the_ffmpeg_of_the_wheel_decodes_the_same_frames(monkeypatch, numbered):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(media, "ffmpeg_exe", imageio_ffmpeg.get_ffmpeg_exe)
    path = numbered["variable"]
    clip = media.decode_clip(path, ClipSpan(start_s=1.234), media.probe(path))
    assert read_numbers(clip.frames_THWC) == shown_numbers(path, 1.234, 30)
    assert read_numbers(clip.small_THW) == shown_numbers(path, 1.234, 30, num=150)
