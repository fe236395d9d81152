"""Frames of a video for its pictures: at their own times, evenly, and no more than there is room for."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from trainer import plots
from trainer.stills import MAX_STILLS, Still, Stills

WINDOW_S, NUM_FRAMES = 30.0, 64


def watched(duration_s: float, every_s: float) -> list[Still]:
    """What is kept of a video whose frames show their own time, and black where there is none."""
    stills, start_s = Stills(), 0.0
    while True:
        times_s = start_s + np.arange(NUM_FRAMES) * WINDOW_S / NUM_FRAMES
        frames = np.where(times_s < duration_s, times_s, np.nan)[:, None, None, None]
        stills.offer(frames, start_s=start_s, valid_s=duration_s - start_s, length_s=WINDOW_S)
        if start_s + WINDOW_S >= duration_s:
            return stills.kept
        start_s += every_s


@example(duration_s=40.0, every_s=5.0)
@example(duration_s=25.0, every_s=30.0)
@example(duration_s=1_000.0, every_s=0.5)
@settings(max_examples=40)
@given(st.floats(25, 600), st.sampled_from([0.5, 5.0, 7.5, 30.0]))
def test_stills_lie_evenly_over_the_whole_video_each_with_its_own_time(duration_s, every_s):
    kept = watched(duration_s, every_s)
    assert MAX_STILLS / 2 <= len(kept) <= MAX_STILLS
    times_s = [still.time_s for still in kept]
    assert [still.frame_HWC.item() for still in kept] == times_s
    steps_s = np.diff(times_s)
    step_s = steps_s.mean()
    assert abs(steps_s - step_s).max() < 0.05 * step_s + WINDOW_S / NUM_FRAMES
    assert 0 < times_s[0] < step_s
    assert duration_s - times_s[-1] < 1.1 * step_s + WINDOW_S / NUM_FRAMES


def test_windows_with_gaps_between_them_leave_no_more_stills_than_others():
    kept = watched(3000.0, 60.0)
    assert MAX_STILLS / 2 <= len(kept) <= MAX_STILLS
    assert max(np.diff([still.time_s for still in kept])) <= 2 * 60


def test_a_sound_has_none():
    stills = Stills()
    stills.offer(None, start_s=0.0, valid_s=30.0, length_s=WINDOW_S)
    assert stills.kept == []


@pytest.mark.parametrize(("aspect", "expected"), [(16 / 9, 7), (9 / 16, 20), (8 / 15_000, 20), (15_000 / 8, 1)])
def test_the_strip_shows_no_frame_twice_and_no_more_than_there_are(tmp_path, monkeypatch, aspect, expected):
    drawn = []

    def note(axes, frame, **_):
        drawn.append(frame.flat[0])
        assert len(drawn) <= MAX_STILLS

    monkeypatch.setattr(Axes, "imshow", note)
    monkeypatch.setattr(plots, "_save", lambda figure, path: None)
    stills = [(2.0 * i + 1, np.full((2, 2, 3), i, np.uint8)) for i in range(20)]
    scores = np.full((2, 1), 0.5)
    plots.plot_curve(
        [15.0, 25.0], scores, ["Sad"], tmp_path / "curve.png", duration_s=40.0, stills=stills, aspect=aspect
    )
    assert len(drawn) == len(set(drawn)) == expected
