"""A whole video decoded once gives the windows that decoding each for itself gives."""

import subprocess
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.clips import ClipSpan
from pipeline.errors import RejectedError
from pipeline.prepare import Recipe, features
from pipeline.windows import Window, windows

MakeMedia = Callable[..., Path]

CHANGING = "testsrc2=size=160x90:rate=24,hue=h=30*t"
NOISE = "anoisesrc=color=pink:seed=1:sample_rate=44100"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, make_media: MakeMedia) -> Path:
    """Of 68.3 s, keyframes half a second apart, in which no two frames are alike."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    return make_media(path, picture=CHANGING, sound=NOISE, seconds=68.3)


def read(path: Path, *, every_s: float = 30.0, modality: str = "both") -> list[Window]:
    return list(windows(path, media.probe(path), every_s=every_s, modality=modality))  # type: ignore[arg-type]


def decoders_of(path: Path) -> int:
    command = ["pgrep", "-c", "-f", f"^[^ ]*ffmpeg.*{path}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def alone(path: Path, window: Window, *, modality: str = "both") -> media.Clip:
    return media.decode_clip(
        path,
        ClipSpan(start_s=window.start_s),
        media.probe(path),
        modality=modality,  # type: ignore[arg-type]
        with_small=False,
        with_print=False,
    )


@pytest.mark.parametrize("every_s", [30.0, 12.5, 7.0])
def test_windows_are_those_that_are_decoded_one_by_one_from_the_start(
    film: Path, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "LEADS_S", ())  # a resampler that begins elsewhere lies between other samples
    found = read(film, every_s=every_s)
    assert [window.start_s for window in found[:-1]] == [n * every_s for n in range(len(found) - 1)]
    for window in found:
        one = alone(film, window)
        assert one.frames_THWC is not None
        assert one.audio is not None
        np.testing.assert_array_equal(window.clip.frames_THWC, one.frames_THWC)
        np.testing.assert_array_equal(window.clip.audio, one.audio)
        assert window.valid_s == 30


@pytest.mark.parametrize("ending", ["ts", "mpg", "webm"])
def test_sound_and_picture_that_begin_apart_are_on_one_timeline(
    film: Path, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "LEADS_S", ())
    apart = tmp_path / f"apart.{ending}"
    codecs = {"webm": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"]}
    codecs_of = codecs.get(ending, ["-c:v", "mpeg2video", "-c:a", "mp2"])
    inputs = ["-i", str(film), "-itsoffset", "1.54", "-i", str(film), "-map", "0:a", "-map", "1:v", "-t", "33"]
    subprocess.run(
        [media.ffmpeg_exe(), "-v", "error", *inputs, *codecs_of, "-output_ts_offset", "10", str(apart)], check=True
    )
    assert media.probe(apart).duration_s("both") == pytest.approx(33, abs=1.6)
    window = read(apart)[0]
    one = alone(apart, window)
    np.testing.assert_array_equal(window.clip.frames_THWC, one.frames_THWC)
    np.testing.assert_array_equal(window.clip.audio, one.audio)


def test_windows_cover_the_video_to_its_end(film: Path) -> None:
    found = read(film, every_s=30.0)
    assert [window.start_s for window in found[:2]] == [0, 30]
    assert 68.3 - 1.9 <= found[2].start_s + 30 <= 68.4
    assert found[2].start_s * 1000 % 1 == 0  # as clips begin


def test_samples_made_of_windows_are_those_of_clips_that_were_sought(film: Path) -> None:
    """As shards are built: frames to the bit, log-mel within 0.1 dB on average, as a resampler began elsewhere."""
    window = read(film, every_s=20.0)[1]
    mine, _ = features(window.clip, recipe=Recipe())
    theirs, _ = features(alone(film, window), recipe=Recipe())
    np.testing.assert_array_equal(mine["frames"], theirs["frames"])
    for name in ("mel_32k", "mel_22k", "mel_8k"):
        assert np.abs(mine[name][0].astype(float) - theirs[name][0]).mean() < 0.1


@pytest.mark.parametrize(("seconds", "valid_s"), [(26, 26), (29.8, 29.8), (30.1, 30)])
def test_a_video_of_half_a_minute_or_somewhat_less_is_one_window(
    seconds: float, valid_s: float, tmp_path: Path, make_media: MakeMedia
) -> None:
    (window,) = read(make_media(tmp_path / "short.mp4", seconds=seconds))
    assert window.start_s == 0
    assert window.valid_s == pytest.approx(valid_s, abs=0.5)
    arrays, _ = features(window.clip, recipe=Recipe())
    assert arrays["frames"].shape == (64, 128, 128, 3)


def test_what_is_too_short_or_lacks_what_is_wanted_is_refused(tmp_path: Path, make_media: MakeMedia) -> None:
    brief = make_media(tmp_path / "brief.mp4", seconds=20)
    with pytest.raises(RejectedError, match="too-short: 20"):
        read(brief)
    mute = make_media(tmp_path / "mute.mp4", seconds=31, sound=None)
    with pytest.raises(RejectedError, match="no-audio"):
        read(mute)
    assert [window.clip.audio for window in read(mute, modality="video")] == [None]
    song = make_media(tmp_path / "song.wav", seconds=31, picture=None)
    with pytest.raises(RejectedError, match="no-video"):
        read(song)
    assert [window.clip.frames_THWC for window in read(song, modality="audio")] == [None]
    with pytest.raises(ValueError, match=r"multiple of 0\.5"):
        read(brief, every_s=0.3)


def test_of_a_video_that_breaks_off_there_are_the_windows_before(film: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    found = read(cut, every_s=5.0)
    assert 2 <= len(found) < len(read(film, every_s=5.0))
    np.testing.assert_array_equal(found[0].clip.frames_THWC, read(film)[0].clip.frames_THWC)


@pytest.mark.parametrize(
    ("picture_s", "sound_s", "every_s", "told"),
    [
        (600, 66, 30.0, "the sound ends after 66 s, while the picture goes on"),
        (66, 3600, 30.0, "the picture ends after 66 s, while the sound goes on"),
        (600, 600, 500.0, None),
    ],
)
def test_no_more_is_held_in_memory_than_a_window_or_two(
    tmp_path: Path, picture_s: int, sound_s: int, every_s: float, told: str | None
) -> None:
    uneven = tmp_path / "uneven.mkv"
    inputs = ["-f", "lavfi", "-i", f"testsrc2=size=64x36:rate=3:duration={picture_s}"]
    inputs += ["-f", "lavfi", "-i", f"sine=sample_rate=8000:duration={sound_s}"]
    subprocess.run([media.ffmpeg_exe(), "-v", "error", *inputs, "-c:v", "mpeg4", str(uneven)], check=True)
    starts_s = []
    tracemalloc.start()
    with pytest.raises(RejectedError, match=told) if told else nullcontext():
        starts_s.extend(window.start_s for window in windows(uneven, media.probe(uneven), every_s=every_s))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    length_s = min(picture_s, sound_s)
    assert starts_s[:-1] == list(np.arange(0, length_s - 30, every_s))
    assert length_s - 32 <= starts_s[-1] <= length_s - 29.9
    assert peak_bytes < 60e6  # all that is decoded of the longer one: 63, 460 and 266 MB


def test_decoders_end_with_whoever_reads_no_further(film: Path) -> None:
    reading = windows(film, media.probe(film), every_s=0.5)
    next(reading)
    assert decoders_of(film) == 2
    reading.close()
    assert decoders_of(film) == 0


def test_a_sound_beyond_all_measure_is_refused(tmp_path: Path, make_media: MakeMedia) -> None:
    loud = tmp_path / "loud.wav"
    make_media(loud, picture=None, sound="aevalsrc=1e9:s=32000", seconds=31, extra=("-c:a", "pcm_f32le"))
    with pytest.raises(RejectedError, match="louder than any sound"):
        read(loud, modality="audio")
