from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import media
from pipeline.clips import ClipSpan, plan_numbered_clip
from pipeline.fingerprint import PICTURE, SOUND, FingerprintIndex, from_bytes
from pipeline.prepare import Recipe, hold_last, prepare
from pipeline.schema import CODES, INDEX, MEMBERS, Rejected, Sample, encode
from pipeline.sources import Source, clips_of
from tests.conftest import MakeMedia, run_ffmpeg


def source_of(path: Path, **known: Any) -> Source:
    return Source(
        source_id=path.name,
        link=path.name,
        video_id=path.name,
        path=path,
        title=path.stem,
        groups=(path.name,),
        **known,
    )


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


def test_a_known_problem_is_not_opened():
    known = source_of(Path("x"), problem=("no-label", "why"))
    outcome = prepare(known, recipe=Recipe(), seed=0)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.detail) == ("no-label", "why")


def test_the_last_frame_is_held():
    frames = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    assert hold_last(frames).ravel().tolist() == [0, 1] + [2] * 62


def test_recipes_differ_in_hash():
    recipes = [Recipe(), Recipe(modality="audio"), Recipe(phase="angle"), Recipe(denoise=False)]
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


# --- a section of a video, as the crawl fetches it -------------------------------------------------------------------

SECTION_SPAN = ClipSpan(start_s=37.219)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_media: MakeMedia) -> Path:
    """A video of 90 s with a keyframe every 2 s, whose sound changes all the time."""
    return make_media(
        tmp_path_factory.mktemp("whole") / "song.mp4",
        picture="testsrc2=size=64x36:rate=25",
        sound="aevalsrc='0.4*sin(2*PI*400*t+300*sin(4.4*t))+0.2*sin(2*PI*900*t+500*sin(2.7*t))':s=44100",
        seconds=90,
        extra=("-g", "50"),
    )


def section_of(whole: Path, span: ClipSpan, target: Path, *, margin_s: float = 1.0) -> Path:
    """Cut as the crawl does: packets copied, with the times that they have in the whole."""
    start_s = max(0.0, span.start_s - margin_s)
    cut = ["-ss", str(start_s), "-t", str(span.start_s + span.length_s + margin_s - start_s), "-i", str(whole)]
    run_ffmpeg(*cut, "-c", "copy", "-copyts", "-start_at_zero", "-f", "matroska", str(target))
    return target


def difference_db(one: Sample, other: Sample, name: str) -> float:
    """Of 99% of what is loud: a Matroska file tells times in whole milliseconds, so sound may be half of one off."""
    levels_db = one.arrays[name][0].astype(float)
    loud = levels_db > levels_db.max() - 30
    return float(np.quantile(np.abs(levels_db - other.arrays[name][0])[loud], 0.99))


@pytest.mark.parametrize("span", [SECTION_SPAN, ClipSpan(start_s=0.0), ClipSpan(start_s=60.0)])
def test_a_section_of_a_video_gives_what_the_whole_gives(whole, tmp_path, span):
    section = section_of(whole, span, tmp_path / "section.mkv")
    assert section.stat().st_size < whole.stat().st_size * 0.6
    of_whole, of_section = (
        prepare(source_of(path, span=span, duration_s=90.0), recipe=Recipe(), seed=0) for path in (whole, section)
    )
    assert isinstance(of_whole, Sample)
    assert isinstance(of_section, Sample)
    for name in ("start_s", "duration_s", "valid_s", "fps", "width_px", "height_px"):
        assert of_section.meta[name] == of_whole.meta[name], name
    assert of_section.meta["start_s"] == span.start_s
    assert of_section.key.endswith(f"_{span.start_ms:08d}")
    assert np.array_equal(of_section.arrays["frames"], of_whole.arrays["frames"])
    for name in ("mel_32k", "mel_22k", "mel_8k"):
        assert difference_db(of_section, of_whole, name) < 0.5
    for column, kind in (("sound_print", SOUND), ("picture_print", PICTURE)):
        index = FingerprintIndex([("whole", from_bytes(of_whole.index_only[column], kind))], kind)
        match = index.match(from_bytes(of_section.index_only[column], kind))
        assert match is not None
        assert match.difference < 0.05


def test_a_frame_later_it_would_give_something_else(whole, tmp_path):
    """So that the test above proves something."""
    section = section_of(whole, SECTION_SPAN, tmp_path / "section.mkv")
    shifted = ClipSpan(start_s=SECTION_SPAN.start_s + 1 / 25)
    right, wrong = (
        prepare(source_of(section, span=span, duration_s=90.0), recipe=Recipe(), seed=0)
        for span in (SECTION_SPAN, shifted)
    )
    assert isinstance(right, Sample)
    assert isinstance(wrong, Sample)
    assert not np.array_equal(right.arrays["frames"], wrong.arrays["frames"])
    assert difference_db(right, wrong, "mel_8k") > 10


def test_the_last_section_of_a_video_promises_no_more_than_the_video_has(tmp_path, make_media):
    short = make_media(tmp_path / "short.mp4", seconds=28)
    span = ClipSpan(start_s=0.0)
    section = section_of(short, span, tmp_path / "section.mkv")
    outcome = prepare(source_of(section, span=span, duration_s=28.0), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Sample)
    assert outcome.meta["valid_s"] == pytest.approx(28, abs=0.1)


def test_a_section_that_holds_less_than_its_span_is_rejected(whole, tmp_path):
    section = section_of(whole, ClipSpan(start_s=SECTION_SPAN.start_s, length_s=20.0), tmp_path / "section.mkv")
    outcome = prepare(source_of(section, span=SECTION_SPAN, duration_s=90.0), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "undecodable"
    assert "of 30.0 s promised" in outcome.detail


def test_clips_of_one_file_have_their_own_spans_and_keys_and_the_first_is_the_files_only_one(whole):
    alone = source_of(whole)
    one, two = (prepare(s, recipe=Recipe(modality="video"), seed=6) for s in clips_of(alone, 2))
    assert isinstance(one, Sample)
    assert isinstance(two, Sample)
    assert abs(one.meta["start_s"] - two.meta["start_s"]) >= 30
    for number, sample in enumerate((one, two)):
        planned = plan_numbered_clip(sample.meta["duration_s"], seed=6, video_id="song.mp4", number=number)
        assert sample.meta["start_s"] == planned.start_s
    assert one.key.split("_")[1] != two.key.split("_")[1]
    again = prepare(alone, recipe=Recipe(modality="video"), seed=6)
    assert isinstance(again, Sample)
    assert encode(again) == encode(one)


# --- fingerprints ----------------------------------------------------------------------------------------------------


def test_fingerprints_go_with_the_sample_and_not_into_its_json(whole):
    outcome = prepare(source_of(whole, span=SECTION_SPAN, duration_s=90.0), recipe=Recipe(), seed=0)
    assert isinstance(outcome, Sample)
    assert {name: type(raw) for name, raw in outcome.index_only.items()} == {
        "sound_print": bytes,
        "picture_print": bytes,
    }
    assert set(outcome.index_only) <= set(INDEX.names)
    assert len(from_bytes(outcome.index_only["sound_print"], SOUND)) == 221
    assert len(from_bytes(outcome.index_only["picture_print"], PICTURE)) == 64
    told = encode(outcome)
    assert "print" not in " ".join(json.loads(told["json"]))
    assert not any("print" in member for member in told)


def test_an_ffmpeg_that_knows_no_chromaprint_leaves_the_fingerprint_to_another(whole, monkeypatch):
    source = source_of(whole, span=SECTION_SPAN, duration_s=90.0)
    by_one = prepare(source, recipe=Recipe(modality="audio"), seed=0)
    knows = media.knows_chromaprint
    media._chromaprint_exe()  # found before it is hidden from the decoder
    monkeypatch.setattr(media, "knows_chromaprint", lambda exe: exe != media.ffmpeg_exe() and knows(exe))
    by_another = prepare(source, recipe=Recipe(modality="audio"), seed=0)
    assert by_another.index_only == by_one.index_only


@pytest.mark.parametrize(
    ("modality", "name", "column"),
    [
        ("audio", "Train/Sad/video/only sound.mp4", "sound_print"),
        ("video", "Train/Sad/video/silent movie.mp4", "picture_print"),
    ],
)
def test_one_modality_has_one_fingerprint(videos, modality, name, column):
    outcome = prepare(source_of(videos / name), recipe=Recipe(modality=modality), seed=0)
    assert isinstance(outcome, Sample)
    assert list(outcome.index_only) == [column]


def test_what_a_page_told_stands_in_the_samples_json(whole):
    page = {
        "uploader": "Somebody",
        "upload_date": "20210304",
        "licence": "Creative Commons Attribution",
        "query": "ytsearch50:sad song",
    }
    outcome = prepare(source_of(whole, **page), recipe=Recipe(modality="video"), seed=0)
    assert isinstance(outcome, Sample)
    stored = json.loads(encode(outcome)["json"])
    assert {name: stored[name] for name in page} == page
    assert (stored["source_id"], stored["link"]) == ("song.mp4", "song.mp4")
