from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmarks import material
from pipeline import media
from pipeline.clips import ClipSpan
from pipeline.filters import motion
from pipeline.filters.thresholds import Thresholds
from pipeline.schema import SCORES

HEIGHT_PX, WIDTH_PX = 180, 320
NUM_SMALL = 150


def painting(seed: int, *, height: int = HEIGHT_PX, width: int = WIDTH_PX) -> np.ndarray:
    """A picture of blobs, edges and shades, as photographs have: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / np.array([[[height]], [[width]]])
    picture = 90 + 60 * np.sin(7 * x + rng.uniform(0, 6)) * np.cos(5 * y + rng.uniform(0, 6))
    for _ in range(25):
        centre, size, level = rng.uniform(0, 1, 2), rng.uniform(0.02, 0.15), rng.uniform(0, 255)
        blob = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < size**2
        picture = np.where(blob, level, picture)
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


PAINTINGS = [painting(seed) for seed in range(8)]


def barred(picture: np.ndarray, *, level: int, columns: float = 0.34, rows: float = 0.0) -> np.ndarray:
    """The picture made smaller, between bars: ``columns`` and ``rows`` are shares of the frame that they take."""
    height, width = picture.shape[:2]
    inner_height, inner_width = round(height * (1 - rows)), round(width * (1 - columns))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    frame = np.full_like(picture, level)
    frame[top : top + inner_height, left : left + inner_width] = picture[
        np.arange(inner_height) * height // inner_height
    ][:, np.arange(inner_width) * width // inner_width]
    return frame


def in_bars(pictures, *, level: int, columns: float, rows: float):
    return (barred(picture, level=level, columns=columns, rows=rows) for picture in pictures)


def performer(pictures, *, size_px: int = 50):
    """Somebody who sways before the pictures, and moves an arm."""
    body = painting(99)[:100, :size_px]
    for number, picture in enumerate(pictures):
        now_s = number / material.RATE_FPS
        film = picture.copy()
        x, y = int(140 + 25 * np.sin(2.1 * now_s)), int(70 + 8 * np.sin(5 * now_s))
        film[y : y + 100, x : x + size_px] = body
        arm = int(20 * np.sin(7 * now_s))
        film[y + 40 + arm : y + 48 + arm, x + size_px : x + size_px + 30] = 230
        yield film


def before_one_picture():
    return performer(itertools.repeat(PAINTINGS[0]))


def cuts(every_s: float):
    """Shots of a performer, each before something else."""
    backs = (PAINTINGS[int(number / material.RATE_FPS / every_s) % len(PAINTINGS)] for number in itertools.count())
    return performer(backs)


def shaken():
    """A performer filmed by hand."""
    for number, picture in enumerate(performer(itertools.repeat(PAINTINGS[0]))):
        shake = np.round(4 * np.sin(number / 25 * np.array([3.0, 4.3]))).astype(int)
        yield np.roll(picture, shake, axis=(0, 1))


NO_VIDEOS = {
    "still": lambda to: material.still(PAINTINGS[0], None, to),
    "still with grain": lambda to: material.still(PAINTINGS[0], None, to, grain=6),
    "coarsely coded still": lambda to: material.write(itertools.repeat(PAINTINGS[0]), None, to, codec=("-crf", "45")),
    "slides, 2 s": lambda to: material.slideshow(PAINTINGS, None, to, every_s=2),
    "slides, 10 s": lambda to: material.slideshow(PAINTINGS, None, to, every_s=10),
    "slides, 3 s, crossfaded": lambda to: material.slideshow(PAINTINGS, None, to, every_s=3, fade_s=1),
    "slides, always fading": lambda to: material.slideshow(PAINTINGS, None, to, every_s=5, fade_s=5),
    "slow zoom": lambda to: material.zoom(PAINTINGS[:1], None, to, grow_per_s=0.005),
    "zoom": lambda to: material.zoom(PAINTINGS[:1], None, to, grow_per_s=0.02),
    "pan": lambda to: material.zoom(PAINTINGS[:1], None, to, pan_per_s=(0.03, 0.01)),
    "turning": lambda to: material.zoom(PAINTINGS[:1], None, to, turn_per_s=1.0),
    "zooms and pans over slides": lambda to: material.zoom(
        PAINTINGS, None, to, grow_per_s=0.02, pan_per_s=(0.01, 0.01), every_s=5, fade_s=1
    ),
    "lyrics": lambda to: material.lyrics(PAINTINGS[0], None, to),
    "karaoke": lambda to: material.lyrics(PAINTINGS[0], None, to, karaoke=True),
    "lyrics on black": lambda to: material.lyrics(np.zeros_like(PAINTINGS[0]), None, to),
    "karaoke on black": lambda to: material.lyrics(np.zeros_like(PAINTINGS[0]), None, to, karaoke=True),
    "still between bars": lambda to: material.still(barred(PAINTINGS[0], level=16), None, to, grain=2),
    "black": lambda to: material.black(None, to),
    "frozen": lambda to: material.frozen(shaken(), None, to, moves_s=10),
}

VIDEOS = {
    "before a fixed camera": lambda: before_one_picture(),
    "small, before a fixed camera": lambda: performer(itertools.repeat(PAINTINGS[0]), size_px=20),
    "filmed by hand": shaken,
    "upright between grey bars": lambda: in_bars(before_one_picture(), level=90, columns=0.65, rows=0),
    "small between black bars": lambda: in_bars(before_one_picture(), level=0, columns=0.3, rows=0.4),
    "cut every 3 s": lambda: cuts(3),
    "cut every 0.7 s": lambda: cuts(0.7),
}


@pytest.fixture(scope="module")
def scores_of(tmp_path_factory):
    """Scores of what is written to a file, decoded as in a build."""

    @functools.cache
    def scores(write):
        path = write(tmp_path_factory.mktemp("clip") / "clip.mp4")
        clip = media.decode_clip(path, ClipSpan(start_s=0), media.probe(path), modality="video")
        return motion.scores(clip.small_THW)

    return scores


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_does_not_move_is_static(scores_of, name):
    found = scores_of(NO_VIDEOS[name])
    against = list(motion.verdicts(found, Thresholds()))
    assert {verdict.code for verdict in against} == {"static"}, found
    assert all("\n" not in verdict.detail for verdict in against)


@pytest.mark.parametrize("name", VIDEOS)
def test_what_moves_is_kept(scores_of, name):
    found = scores_of(lambda to: material.write(VIDEOS[name](), None, to))
    assert list(motion.verdicts(found, Thresholds())) == [], found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("black", "black for 100% of the time"),
        ("still", "one picture for 30 s"),
        ("frozen", "one picture for 20 s"),
        ("zoom", "99% a zoom, pan or grain over a still"),
        ("slides, always fading", "fades"),
    ],
)
def test_the_detail_says_what_it_looks_like(scores_of, name, words):
    verdicts = motion.verdicts(scores_of(NO_VIDEOS[name]), Thresholds())
    assert words in "; ".join(verdict.detail for verdict in verdicts)


def drifting(*, right_px: float = 0.4, grow: float = 0.0, turn: float = 0.0, num: int = NUM_SMALL) -> np.ndarray:
    """A smooth picture that drifts, grows and turns, so much a step; of closed form: uint8 (num, 36, 64)."""
    t, y, x = np.mgrid[0:num, 0:36, 0:64].astype(float)
    z = ((x - 32) + 1j * (y - 18)) * np.exp((-grow + 1j * turn) * t)
    x, y = z.real - right_px * t, z.imag
    return np.round(128 + 60 * np.sin(x / 4) * np.cos(y / 5) + 40 * np.sin(x / 9 + y / 7)).astype(np.uint8)


@pytest.mark.parametrize("camera", [{"right_px": 1.0}, {"grow": 0.02}, {"turn": 0.02}, {"grow": -0.01, "turn": 0.01}])
def test_drifting_growing_and_turning_are_a_camera(camera):
    found = motion.scores(drifting(**{"right_px": 0.0, "num": 40} | camera))
    assert found["camera_share"] > 0.95
    assert found["motion"] > 1


@pytest.mark.parametrize("place", [np.s_[:, :6], np.s_[:, :, 52:], np.s_[:, 3:12, 36:55], np.s_[:, 10:26, 20:44]])
def test_bars_a_logo_and_a_cover_over_a_drifting_picture_do_not_hide_that_it_is_one(place):
    small_THW = drifting()
    small_THW[place] = np.random.default_rng(0).choice([0, 255], small_THW[0][place[1:]].shape)
    assert motion.scores(small_THW)["camera_share"] > 0.95


def test_what_moves_before_a_drifting_picture_is_seen():
    small_THW = drifting()
    for number, small in enumerate(small_THW):
        x = int(30 + 20 * np.sin(number / 5))
        small[8:28, x : x + 8] = 255 - small[8:28, x : x + 8]
    assert motion.scores(small_THW)["moved"] > 0.8


def test_windows_are_told_apart_as_a_fit_of_each_alone_tells_them():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (60, 36, 64)) * (np.arange(60) > 20)[:, None, None]  # from window to window more
    small_THW = np.clip(drifting(num=60) + noise * np.linspace(0, 1, 60)[:, None, None], 0, 255).astype(np.uint8)
    got = motion._explained(small_THW)[1]

    kernel = np.array([1, 4, 6, 4, 1]) / 16  # (1, 2, 1) / 4 twice; edges differ, which BORDER_PX leaves out
    smooth = small_THW.astype(float)
    for axis in (1, 2):
        smooth = np.apply_along_axis(lambda line: np.convolve(line, kernel, "same"), axis, smooth)
    y, x = np.mgrid[-1:1:36j, -1:1:64j]
    inner = np.s_[2:-2, 2:-2]
    expected, margin = [], []
    for before, middle, after in zip(smooth, smooth[1:], smooth[2:], strict=False):
        change = (after - before)[inner].ravel()
        down, right = np.gradient(middle)
        motions = [(gradient * place)[inner].ravel() for gradient in (right, down) for place in (1, x, y)]
        left = change - np.transpose(motions) @ np.linalg.lstsq(np.transpose(motions), change, rcond=None)[0]
        share = (left**2).sum() / (change**2).sum()
        level = np.abs(left).sum() / (36 * 64)
        expected.append(share < motion.LEFT_SHARE or level < motion.LEFT)
        margin.append(min(abs(share / motion.LEFT_SHARE - 1), abs(level / motion.LEFT - 1)) > 0.15)
    expected, clear = np.array(expected), np.array(margin)
    assert clear.sum() > 30
    assert expected[clear].any()
    assert not expected[clear].all()
    assert np.array_equal(got[clear], expected[clear])


def test_shares_of_a_clip_put_together_are_those_of_its_parts():
    rng = np.random.default_rng(1)
    still = np.repeat(drifting(num=1), 60, axis=0)
    fading = np.linspace(still[0].astype(float), 255 - still[0], 30).round().astype(np.uint8)
    moving = rng.integers(0, 256, (60, 36, 64), dtype=np.uint8)
    found = motion.scores(np.concatenate([still, fading, moving]))
    assert found["held_s"] == pytest.approx(12, abs=0.4)
    assert found["still_share"] == pytest.approx(60 / 150, abs=0.02)
    assert found["camera_share"] == pytest.approx(0, abs=0.02)
    assert found["moved"] == pytest.approx(60 / 150, abs=0.03)


def test_a_logo_and_noise_on_black_is_black_and_a_dim_scene_is_not():
    rng = np.random.default_rng(2)
    black = rng.integers(0, 12, (NUM_SMALL, 36, 64), dtype=np.uint8)
    black[:, 2:4, 50:58] = 200
    dim = (drifting() // 4).astype(np.uint8)
    assert motion.scores(black)["black_share"] == 1.0
    assert motion.scores(dim)["black_share"] == 0.0
    assert motion.scores(np.concatenate([black[:75], dim[:75]]))["black_share"] == 0.5


def test_the_median_change_is_that_of_successive_pictures():
    small_THW = np.repeat(np.arange(NUM_SMALL, dtype=np.uint8), 36 * 64).reshape(NUM_SMALL, 36, 64)
    assert motion.scores(small_THW)["motion"] == 1.0


@settings(max_examples=60)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(0, 8), st.just(36), st.just(64)), elements=st.integers(0, 255)))
def test_scores_are_finite_known_to_the_index_and_shares_are_shares(small_THW):
    found = motion.scores(small_THW)
    assert bool(found) == (len(small_THW) >= 3)
    assert set(found) <= set(SCORES)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    shares = [found[name] for name in found if name not in ("motion", "held_s")]
    assert all(0 <= share <= 1 for share in shares)
    if found:
        assert found["moved"] + found["still_share"] + found["camera_share"] <= 1.001
        assert 0 <= found["held_s"] <= len(small_THW) * motion.STEP_S + 1e-9


def test_what_was_not_scored_is_not_held_against_a_clip_and_zero_limits_keep_all():
    assert list(motion.verdicts({}, Thresholds())) == []
    assert list(motion.verdicts(dict.fromkeys(SCORES), Thresholds())) == []
    black = motion.scores(np.zeros((NUM_SMALL, 36, 64), np.uint8))
    assert black["held_s"] == 30.0
    assert len(list(motion.verdicts(black, Thresholds()))) == 3
    assert list(motion.verdicts(black, Thresholds.of({"motion": 0, "moved": 0, "black": 1}))) == []
