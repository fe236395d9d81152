"""Frames stored as one JPEG: what comes back, what is refused, and a set that is built of them."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import purge, shards, verify
from pipeline.errors import UserError
from pipeline.page.clips import read_samples as shown_samples
from pipeline.prepare import Recipe
from pipeline.schema import MEMBERS, SHEET, Manifest, Sample, SchemaError, decode, encode, file_of, members_of
from pipeline.sheet import MAX_QUALITY, QUALITY
from pipeline.tars import MAX_MEMBER_BYTES
from tests.conftest import MakeMedia
from tests.pipeline.sets import picture
from tests.pipeline.test_build import records, request, run
from tests.pipeline.test_verify import forged, member
from trainer.errors import UserError as TrainerError
from trainer.loader import Loader
from trainer.order import Order
from trainer.shards import ShardSet

KEY = "a-song_0123abcd_00012500"
JPEG = Recipe(frames="jpeg", jpeg_quality=QUALITY)


def stored(frames: np.ndarray, *, quality: int = QUALITY) -> bytes:
    sample = Sample(key=KEY, arrays={"frames": frames}, label=None, meta={})
    return encode(sample, jpeg_quality=quality)[SHEET]


def read(raw: bytes) -> np.ndarray:
    return decode({"__key__": KEY, SHEET: raw}).arrays["frames"]


# --- one sheet -------------------------------------------------------------------------------------------------------


def test_frames_come_back_nearly_as_they_went_in_and_the_better_the_higher_the_quality():
    frames = picture(np.random.default_rng(0))
    errors = []
    for quality in (50, QUALITY, MAX_QUALITY):
        back = read(stored(frames, quality=quality))
        assert (back.dtype, back.shape) == (frames.dtype, frames.shape)
        errors.append(np.abs(back.astype(int) - frames).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 1


def test_equal_frames_give_equal_bytes():
    frames = picture(np.random.default_rng(1))
    assert stored(frames) == stored(frames.copy())


def test_frames_are_what_pillow_reads_at_their_place_in_the_sheet():
    raw = stored(picture(np.random.default_rng(2)))
    with Image.open(io.BytesIO(raw)) as image:
        sheet, size = np.asarray(image), image.size
    assert size == (1024, 1024)
    for i, frame in enumerate(read(raw)):
        row, column = divmod(i, 8)
        assert np.array_equal(frame, sheet[128 * row : 128 * (row + 1), 128 * column : 128 * (column + 1)])


def test_frames_of_one_colour_do_not_bleed_into_each_other():
    colours = np.array([(r, g, b) for r in (0, 85, 170, 255) for g in (0, 85, 170, 255) for b in (0, 85, 170, 255)])
    frames = np.broadcast_to(colours[:, None, None], MEMBERS["frames"].shape).astype(np.uint8)
    assert np.abs(read(stored(frames)).astype(int) - frames).max() <= 2


def test_the_worst_picture_at_the_best_quality_is_still_smaller_than_what_a_tar_may_hold():
    noise = np.random.default_rng(3).integers(0, 256, MEMBERS["frames"].shape, dtype=np.uint8)
    assert len(stored(noise, quality=MAX_QUALITY)) < MAX_MEMBER_BYTES
    for quality in (1, 2, 10, 25, 50, 75, MAX_QUALITY):  # however its tables look, it is one scan
        read(stored(noise, quality=quality))


def test_a_recipe_without_jpeg_is_told_as_it_always_was():
    assert Recipe().to_dict() == {
        "modality": "both",
        "phase": "projected",
        "denoise": True,
        "frames": "npy",
        "schema_version": 1,
    }
    assert len({recipe.hash for recipe in (Recipe(), JPEG, Recipe(frames="jpeg", jpeg_quality=80))}) == 3
    for wrong in ({"frames": "jpeg"}, {"jpeg_quality": 90}):
        with pytest.raises(ValueError, match="jpeg_quality"):
            Recipe(**wrong)


# --- what may come in its place --------------------------------------------------------------------------------------


def image(mode: str = "RGB", size: tuple[int, int] = (1024, 1024), kind: str = "JPEG", **how: object) -> bytes:
    target = io.BytesIO()
    Image.new(mode, size).save(target, kind, **how)
    return target.getvalue()


def claiming(height_px: int, width_px: int) -> bytes:
    """A small JPEG whose head claims another size."""
    raw = bytearray(image())
    head = raw.index(b"\xff\xc0") + 5
    raw[head : head + 4] = height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big")
    return bytes(raw)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a PNG": (lambda: image(kind="PNG"), "no whole JPEG"),
    "a wrong size": (lambda: image(size=(1024, 512)), "a JPEG of 1024 x 512 RGB, not of 1024 x 1024 RGB"),
    "grey": (lambda: image("L"), "a JPEG of 1024 x 1024 L"),
    "CMYK": (lambda: image("CMYK"), "a JPEG of 1024 x 1024 CMYK"),
    "a huge picture": (lambda: claiming(65_535, 65_535), "a JPEG of 65535 x 65535 RGB"),
    "a large picture": (lambda: claiming(10_000, 10_000), "a JPEG of 10000 x 10000 RGB"),
    "no height": (lambda: claiming(0, 1024), "no whole JPEG"),
    "many scans": (lambda: image(progressive=True), "a JPEG of several scans"),
    "cut short": (lambda: image()[:-500], "no whole JPEG"),
    "a head alone": (lambda: image()[:20], "no whole JPEG"),
    "nothing": (lambda: b"", "no whole JPEG"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_but_a_whole_sheet_is_refused_in_one_line(name):
    make, words = HOSTILE[name]
    with pytest.raises(SchemaError) as caught:
        read(make())
    line = str(caught.value)
    assert "\n" not in line
    assert f"sample {KEY}: frames.jpg cannot be read" in line
    assert words in line


def test_any_damage_gives_frames_or_a_schema_error():
    raw, rng = stored(picture(np.random.default_rng(4))), np.random.default_rng(5)
    refused = 0
    for _ in range(60):
        damaged = bytearray(raw)
        for at in rng.integers(0, rng.choice([700, len(raw)]), 3):  # in the head, or anywhere
            damaged[at] = rng.integers(256)
        try:
            assert read(bytes(damaged)).shape == MEMBERS["frames"].shape
        except SchemaError:
            refused += 1
    assert refused


def test_frames_in_both_forms_are_refused():
    frames = picture(np.random.default_rng(0))
    record = encode(Sample(key=KEY, arrays={"frames": frames}, label=None, meta={})) | {SHEET: stored(frames)}
    with pytest.raises(SchemaError, match=r"has frames\.npy and frames\.jpg"):
        decode(record)


# --- a set -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def media(tmp_path_factory, make_media: MakeMedia) -> Path:
    """Three music videos that look and sound different."""
    folder = tmp_path_factory.mktemp("media")
    for n, hertz in enumerate((220, 440, 660)):
        look = f"testsrc2=size=64x36:rate=15,hue=h={hertz}"
        make_media(folder / f"{n}.mp4", picture=look, sound=f"sine=frequency={hertz}:sample_rate=44100")
    return folder


@pytest.fixture(scope="module")
def built(media, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "jpeg"
    run(request(folder, media, labelled=None, recipe=JPEG))
    return folder


def faults(folder: Path) -> list[str]:
    return [str(fault) for fault in verify.faults(folder, verify.Checked())]


def test_a_set_of_jpeg_passes_verify_and_holds_no_lossless_frames(built):
    assert faults(built) == []
    assert [set(record) - {"__key__", "__url__", "json"} for _, record in records(built)] == [
        {file_of(name, JPEG.to_dict()) for name in members_of("both")}
    ] * 3
    manifest = Manifest.from_json((built / "dataset.json").read_text())
    assert manifest.recipe | {"frames": "jpeg", "jpeg_quality": QUALITY} == manifest.recipe
    assert "pillow" in manifest.versions


def test_what_is_told_of_its_frames_is_told_of_those_that_readers_get(built):
    frames = np.stack([decode(record).arrays["frames"] for _, record in records(built)]).astype(np.float64)
    manifest = Manifest.from_json((built / "dataset.json").read_text())
    assert np.allclose(manifest.normalization["frames"]["mean"], frames.mean(axis=(0, 1, 2, 3)), rtol=1e-12)
    assert np.allclose(manifest.normalization["frames"]["std"], frames.std(axis=(0, 1, 2, 3)), rtol=1e-9)


def test_its_card_page_and_description_name_the_jpeg(built):
    card = (built / "README.md").read_text()
    assert "| `frames.jpg` | JPEG: a sheet of 8 x 8 frames, row by row | (64, 128, 128, 3) |" in card
    assert f"--frames jpeg --jpeg-quality {QUALITY}" in card
    assert "frames.npy" not in card
    assert '"includes": "*.frames.jpg"' in (built / "croissant.json").read_text()
    rows = shards.read_rows(built / "index.parquet")
    assert len(shown_samples(built, rows, members=["frames"])) == 3
    assert "cannot be read" not in (built / "report.html").read_text()


def test_the_trainer_reads_a_batch_of_it(built):
    data = ShardSet.open(str(built))
    expected = {record["__key__"]: decode(record).arrays for _, record in records(built)}
    [batch] = Loader(data, data.shards, members=("frames", "mel_8k"), order=Order(batch_size=3)).batches()
    assert sorted(batch["keys"]) == sorted(expected)
    for key, frames, mel in zip(batch["keys"], batch["frames"].numpy(), batch["mel_8k"].numpy(), strict=True):
        assert np.array_equal(frames, expected[key]["frames"])
        assert np.array_equal(mel, expected[key]["mel_8k"])


def test_a_clip_can_be_taken_out_of_it(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(built, tmp_path / "set"))
    (tmp_path / "ids.txt").write_text("1.mp4\n")
    assert purge.main([str(folder), "--ids", "ids.txt"]) == 0
    assert faults(folder) == []
    assert len(records(folder)) == 2


@pytest.mark.parametrize("name", ["a PNG", "a huge picture", "many scans", "cut short"])
def test_a_forged_sheet_is_told_by_verify_and_refused_by_the_trainer(built, tmp_path, name):
    make, words = HOSTILE[name]
    folder = Path(shutil.copytree(built, tmp_path / "set"))
    forged(member(SHEET, make()), name="unlabeled-000000")(folder)
    [line] = faults(folder)
    assert f"frames.jpg cannot be read: {words}" in line
    data = ShardSet.open(str(folder))
    with pytest.raises(TrainerError, match=r"frames\.jpg cannot be read"):
        list(Loader(data, data.shards, members=("frames",), order=Order(batch_size=3)).batches())


def test_another_sheet_and_lossless_frames_in_its_place_are_told_by_verify(built, tmp_path):
    frames = picture(np.random.default_rng(6))
    folder = Path(shutil.copytree(built, tmp_path / "other"))
    forged(member(SHEET, stored(frames)), name="unlabeled-000000")(folder)
    [line] = faults(folder)
    assert "frames.jpg has another mean or mean square than its record says" in line
    folder = Path(shutil.copytree(built, tmp_path / "lossless"))
    lossless = encode(Sample(key=KEY, arrays={"frames": frames}, label=None, meta={}))["frames.npy"]
    forged(lambda samples: samples[0][1].pop(SHEET) and None, name="unlabeled-000000")(folder)
    forged(member("frames.npy", lossless), name="unlabeled-000000")(folder)
    told = "\n".join(faults(folder))
    assert "has no frames.jpg" in told
    assert "has a member frames.npy, which no sample of this set has" in told


def test_a_set_keeps_the_form_and_the_quality_that_it_was_begun_with(built, media, tmp_path):
    for recipe, was, now in (
        (Recipe(), '{"frames": "jpeg", "jpeg_quality": 90}', '{"frames": "npy", "jpeg_quality": null}'),
        (Recipe(frames="jpeg", jpeg_quality=80), '{"jpeg_quality": 90}', '{"jpeg_quality": 80}'),
    ):
        with pytest.raises(UserError, match=re.escape(f"begun with recipe {was}, not with {now}")):
            request(built, media, labelled=None, recipe=recipe).check_against_earlier()
    lossless = request(tmp_path / "lossless", media, labelled=None, recipe=Recipe(), limit=1)
    lossless.begin()
    with pytest.raises(UserError, match=r'begun with recipe .*"npy".* not with .*"jpeg"'):
        request(tmp_path / "lossless", media, labelled=None, recipe=JPEG, limit=1).check_against_earlier()
