from __future__ import annotations

import http.server
import subprocess
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.prepare import Recipe, hold_last, prepare
from pipeline.schema import CODES, MEMBERS, Rejected, Sample, encode
from pipeline.sources import Source, list_sources


def source_of(path: Path) -> Source:
    return Source(source_id=path.name, path=path, title=path.stem, groups=(path.name,))


@pytest.fixture
def server(videos):
    """A web server on loopback with the videos on it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(videos))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Train/Excited/video/text.mp4", "undecodable"),
        ("Train/Excited/video/truncated.mp4", "undecodable"),
        ("Train/Sad/video/silent movie.mp4", "no-audio"),
        ("Train/Sad/video/only sound.mp4", "no-video"),
        ("Train/Sad/video/short.mp4", "too-short"),
        ("Train/Sad/video/gone.mp4", "unavailable"),
    ],
)
def test_a_faulty_file_is_rejected_with_its_code(videos, name, code):
    outcome = prepare(source_of(videos / name), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Rejected)
    assert outcome.code == code
    assert outcome.code in CODES
    assert outcome.detail
    assert outcome.meta["source_id"] == Path(name).name


def test_a_video_becomes_a_sample_of_the_schemas_shape(videos):
    outcome = prepare(source_of(videos / "Train/Sad/video/long one [x].mp4"), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Sample)
    assert set(outcome.arrays) == set(MEMBERS)
    encode(outcome)  # checks dtypes and shapes
    assert 0 <= outcome.meta["start_s"] <= 10
    assert outcome.meta["valid_s"] == 30
    assert outcome.key.startswith("long-one-x_")
    assert all(np.isfinite(array).all() for array in outcome.arrays.values())
    assert len(np.unique(outcome.arrays["frames"].reshape(64, -1), axis=0)) > 60


def test_a_clip_of_27_s_is_padded_and_says_so(videos):
    outcome = prepare(source_of(videos / "Train/Sad/video/14.mp4"), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Sample)
    assert outcome.meta["valid_s"] == pytest.approx(27, abs=0.5)
    frames = outcome.arrays["frames"]
    assert (frames[-5:] == frames[-1]).all()
    assert not (frames[-10] == frames[-1]).all()
    level_db = outcome.arrays["mel_8k"][0]
    assert level_db[:, -30:].max() < level_db.max() - 70


def test_preparing_twice_gives_the_same_bytes(videos):
    source = source_of(videos / "Train/Sad/video/long one [x].mp4")
    one, two = (prepare(source, recipe=Recipe(), seed=3) for _ in range(2))
    assert isinstance(one, Sample)
    assert isinstance(two, Sample)
    assert encode(one) == encode(two)


@pytest.mark.parametrize(
    ("modality", "name", "members"),
    [
        ("audio", "Train/Sad/video/only sound.mp4", {"mel_32k", "mel_8k", "mel_22k"}),
        ("video", "Train/Sad/video/silent movie.mp4", {"frames"}),
    ],
)
def test_one_modality_needs_one_stream(videos, modality, name, members):
    outcome = prepare(source_of(videos / name), recipe=Recipe(modality=modality), seed=0)
    assert isinstance(outcome, Sample)
    assert set(outcome.arrays) == members


def test_a_file_that_holds_less_than_it_promises_is_rejected(tmp_path, make_media):
    whole = make_media(tmp_path / "whole.mp4", seconds=30, extra=("-movflags", "+faststart")).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 3])
    outcome = prepare(source_of(cut), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "undecodable"
    assert "of 30.0 s promised" in outcome.detail


def test_a_link_is_fetched_by_yt_dlp_and_gives_what_the_file_gives(server, videos, tmp_path):
    name = "Train/Sad/video/14.mp4"
    (tmp_path / "links.txt").write_text(f"{server}/{name}\n{server}/gone.mp4\n{server}/Train/Excited/video/text.mp4\n")
    good, gone, text = (prepare(s, recipe=Recipe(), seed=0) for s in list_sources(str(tmp_path / "links.txt")))
    assert isinstance(good, Sample)
    local = prepare(source_of(videos / name), recipe=Recipe(), seed=0)
    assert isinstance(local, Sample)
    assert good.meta["sha256"] == local.meta["sha256"]
    assert all(np.array_equal(good.arrays[m], local.arrays[m]) for m in MEMBERS)
    assert isinstance(gone, Rejected)
    assert (gone.code, "404" in gone.detail) == ("unavailable", True)
    assert isinstance(text, Rejected)
    assert text.code in ("undecodable", "unsupported-link")


def test_a_known_problem_is_not_opened():
    source = Source(source_id="x", title="x", groups=("x",), problem=("no-label", "why"))
    outcome = prepare(source, recipe=Recipe(), seed=0)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.detail) == ("no-label", "why")


def test_the_last_frame_is_held():
    frames = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    assert hold_last(frames).ravel().tolist() == [0, 1] + [2] * 62


def test_recipes_differ_in_hash():
    recipes = [Recipe(), Recipe(modality="audio"), Recipe(phase="angle"), Recipe(denoise=True)]
    assert len({recipe.hash for recipe in recipes}) == len(recipes)


def test_silence_is_kept_and_its_metadata_are_json(tmp_path, make_media):
    quiet = make_media(tmp_path / "quiet.mkv", sound="anullsrc=r=44100")
    outcome = prepare(source_of(quiet), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Sample)
    assert outcome.meta["snr_db"] is None
    assert b"Infinity" not in encode(outcome)["json"]


@pytest.mark.parametrize("expression", ["1e25*sin(t)", "0/0"])
def test_sound_that_is_no_sound_is_undecodable(tmp_path, make_media, expression):
    odd = make_media(tmp_path / "odd.mkv", sound=f"aevalsrc='{expression}':s=44100", extra=("-c:a", "pcm_f32le"))
    outcome = prepare(source_of(odd), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "undecodable"


def test_a_file_that_may_not_be_read_is_unavailable(tmp_path):
    outcome = prepare(source_of(tmp_path / ("x" * 300 + ".mp4")), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "unavailable"


def test_a_full_temporary_folder_is_not_the_clips_fault(videos, monkeypatch):
    """ffmpeg may say so and still exit with 0."""
    told = subprocess.CompletedProcess([], 0, stderr=b"av_interleaved_write_frame(): No space left on device\n")
    monkeypatch.setattr(media.subprocess, "run", lambda *_, **__: told)
    with pytest.raises(OSError, match="No space left"):
        prepare(source_of(videos / "Train/Sad/video/14.mp4"), recipe=Recipe(), seed=0)
