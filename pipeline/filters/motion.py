"""Does the picture move? Stills, slides, lyrics on a still, black and frozen video do not.

Every 0.4 s of the small pictures (three in a row) is one of

    still   hardly anything changes
    camera  one motion of the whole picture explains the change, but for grain: a zoom, pan or turn over a still
    fade    the change goes on at the same speed everywhere: a crossfade, a fade to black
    moved   anything else, and what no still shows

A slideshow, with cuts or crossfades and with or without zooms, is a mixture of the first three; so is a lyric card,
which moves only where its text changes. Real music videos move for most of the time, also before a fixed camera.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict

STEP_S = 0.2  # between small pictures
STILL = 0.25  # mean change in 0.4 s, grey levels: what coding and grain make of a still
LEFT = 0.3  # mean change that one motion of the whole picture may leave unexplained, grey levels
LEFT_SHARE = 0.12  # or this share of the change's energy
FADE_SHARE = 0.05  # largest energy of what a straight line does not explain, over the change's
FIXED = 3  # grey levels within which bars and logos stay throughout
FREE_SHARE = 0.2  # of the picture that must remain without bars and logos, for them to be left out
BORDER_PX = 2  # where a camera brings in what was not to be seen
BARS_LEAVE = 0.3  # of the picture, at least: an upright film in a wide frame; less is a text on a plain ground
BLACK = 24  # level of 255 below which a black picture lies,
BLACK_SHARE = 0.99  # but for a logo


def scores(small_THW: np.ndarray) -> dict[str, float]:
    """Score a clip's small grey pictures.

    Parameters
    ----------
    small_THW
        uint8 (n, 36, 64), five a second.

    Returns
    -------
    dict
        ``motion``, the median over time of the mean change between successive pictures, grey levels; ``moved``,
        ``still_share`` and ``camera_share`` of the time, as told above (the rest are fades); ``held_s``, the longest
        time for which nothing changes; ``black_share`` of the time. Bars around the picture do not count. Nothing of
        less than three pictures.
    """
    if len(small_THW) < 3:
        return {}
    small_THW = _inside_bars(small_THW)
    steps = np.abs(np.diff(small_THW.astype(np.int16), axis=0)).mean(axis=(1, 2))
    still, camera, fade = _explained(small_THW)
    held = max((sum(1 for _ in run) for is_still, run in groupby(still) if is_still), default=0)
    return {
        "motion": round(float(np.median(steps)), 4),
        "moved": round(float((~(still | camera | fade)).mean()), 4),
        "still_share": round(float(still.mean()), 4),
        "camera_share": round(float((camera & ~still).mean()), 4),
        "held_s": round((held + 2) * STEP_S, 1) if held else 0.0,
        "black_share": round(float(((small_THW < BLACK).mean(axis=(1, 2)) > BLACK_SHARE).mean()), 4),
    }


def verdicts(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """What is to be said against a clip."""
    black, motion, moved = (scores.get(name) for name in ("black_share", "motion", "moved"))
    if black is not None and black > thresholds.black:
        yield Verdict("static", f"black for {black:.0%} of the time, {thresholds.black:.0%} at most")
    if motion is not None and motion < thresholds.motion:
        yield Verdict("static", f"{motion:.2f} grey levels between pictures, {thresholds.motion:g} are needed")
    if moved is not None and moved < thresholds.moved:
        still, camera, held_s = (scores.get(name) or 0.0 for name in ("still_share", "camera_share", "held_s"))
        fade = max(0.0, 1 - moved - still - camera)
        yield Verdict(
            "static",
            f"moves for {moved:.0%} of the time, {thresholds.moved:.0%} are needed: {still:.0%} still (one picture for "
            f"{held_s:.0f} s), {camera:.0%} a zoom, pan or grain over a still, {fade:.0%} fades",
        )


def _explained(small_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which windows of three pictures are still, a camera over a still, a fade: bool (n - 2,) each.

    The camera is an affine motion, fitted to the picture's gradients by least squares (Lucas and Kanade 1981; six
    parameters: Bergen et al. 1992). Gradients of the middle picture make the error one of third order in the motion.
    Bars and logos, which stay where they are while all else moves, are left out of the fit.
    """
    smooth_THW = _blur(small_THW.astype(np.float32), times=2)
    before, middle, after = smooth_THW[:-2], smooth_THW[1:-1], smooth_THW[2:]
    change, bend = after - before, after - 2 * middle + before
    down, right = np.gradient(middle, axis=(1, 2))
    height, width = small_THW.shape[1:]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    used = _free(small_THW)
    places = np.ones(used.sum(), np.float32), x[used], y[used]
    motions_TKN = np.stack([g * place for g in (right[:, used], down[:, used]) for place in places], axis=1)
    change_TN = change[:, used]
    # The identity, next to nothing beside real gradients, keeps a flat picture solvable.
    squares_TKK = motions_TKN @ motions_TKN.transpose(0, 2, 1) + np.eye(6, dtype=np.float32)
    fit_TK1 = np.linalg.solve(squares_TKK, motions_TKN @ change_TN[..., None])
    left_TN = change_TN - (fit_TK1.transpose(0, 2, 1) @ motions_TKN)[:, 0]

    energy = np.maximum((change_TN**2).mean(1), 0.01)
    still = np.abs(change).mean(axis=(1, 2)) < STILL
    left = np.abs(left_TN).mean(1) * used.mean()  # of the whole picture
    camera = (left < LEFT) | ((left_TN**2).mean(1) < LEFT_SHARE * energy)
    fade = (bend[:, used] ** 2).mean(1) < FADE_SHARE * energy
    return still, camera, fade


def _inside_bars(small_THW: np.ndarray) -> np.ndarray:
    """The picture without plain bars around it, of any shade, that never change."""
    plain_HW = np.ptp(small_THW, axis=0) <= FIXED
    box = []
    for axis in (1, 0):
        lines = small_THW[0] if axis else small_THW[0].T
        is_bar = plain_HW.all(axis=axis) & (np.ptp(lines, axis=1) <= FIXED)
        inside = np.flatnonzero(~is_bar)
        # The first line beside a bar is half bar, half picture.
        box.append(slice(inside[0] + is_bar[0], inside[-1] + 1 - is_bar[-1]) if len(inside) else slice(None))
    inside_THW = small_THW[:, box[0], box[1]]
    return inside_THW if inside_THW[0].size >= BARS_LEAVE * small_THW[0].size else small_THW


def _free(small_THW: np.ndarray) -> np.ndarray:
    """Pixels of which camera motion can be read: bool (36, 64)."""
    inner = np.zeros(small_THW.shape[1:], bool)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    fixed = np.ptp(small_THW, axis=0) <= FIXED
    free = inner & (_blur(fixed[None].astype(np.float32), times=3)[0] == 0)  # as far as blur and gradient reach
    return free if free.sum() >= FREE_SHARE * inner.sum() else inner


def _blur(images_THW: np.ndarray, *, times: int) -> np.ndarray:
    """Smooth by (1, 2, 1) / 4 along height and width: gradients of rough pictures do not tell their motion."""
    for _ in range(times):
        padded = np.pad(images_THW, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
        images_THW = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    return images_THW
