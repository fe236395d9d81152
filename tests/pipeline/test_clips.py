from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips import LAST_START_MS, ClipSpan, clip_id, clip_rng, plan_clip, plan_numbered_clip
from pipeline.errors import RejectedError


@given(st.floats(31, 300_000), st.integers(0, 2**32), st.text())
def test_a_span_lies_within_the_video_on_a_whole_millisecond(duration_s, seed, source_id):
    span = plan_clip(duration_s, clip_rng(seed, source_id))
    assert 0 <= span.start_s <= duration_s - 30 + 1e-9
    assert span.start_s == span.start_ms / 1000
    assert len(f"{span.start_ms:08d}") == 8


@given(st.floats(25, 30.999))
def test_a_short_file_is_taken_whole_from_its_start(duration_s):
    assert plan_clip(duration_s, clip_rng(0, "x")) == ClipSpan(start_s=0.0)


@given(st.floats(0, 24.999))
def test_less_than_25_s_is_rejected(duration_s):
    with pytest.raises(RejectedError, match="too-short"):
        plan_clip(duration_s, clip_rng(0, "x"))


def test_spans_depend_on_seed_and_identity_alone_and_cover_the_video():
    starts = np.array([plan_clip(230.0, clip_rng(0, f"v{i}")).start_s for i in range(2000)])
    assert plan_clip(230.0, clip_rng(0, "v7")).start_s == starts[7]
    assert plan_clip(230.0, clip_rng(1, "v7")).start_s != starts[7]
    counts, _ = np.histogram(starts, bins=10, range=(0, 200))
    assert counts.min() > 150  # 200 expected in each tenth; 150 is 3.7 standard deviations below


def free_starts_ms(duration_s: float, taken: list[ClipSpan]) -> np.ndarray:
    """The slow way: every millisecond at which a clip could start, tried one by one against every clip taken."""
    last_ms = 0 if duration_s < 31 else int((duration_s - 30) * 1000)
    starts_ms = np.arange(last_ms + 1)
    return starts_ms[[all(abs(start - span.start_ms) >= 30_000 for span in taken) for start in starts_ms]]


def spans_of(duration_s: float, *, number_of_clips: int, seed: int = 0, video_id: str = "v") -> list[ClipSpan]:
    """Clips of a video from the first on, as many of so many as have room."""
    spans: list[ClipSpan] = []
    for number in range(number_of_clips):
        try:
            spans.append(plan_numbered_clip(duration_s, seed=seed, video_id=video_id, number=number))
        except RejectedError:
            break
    return spans


taken_spans = st.lists(st.integers(0, 90_000).map(lambda ms: ClipSpan(start_s=ms / 1000)), max_size=4)


@hypothesis.settings(max_examples=25)
@given(st.floats(25, 75), taken_spans, st.integers(0, 2**32))
def test_beside_clips_taken_the_start_is_drawn_from_all_those_that_the_slow_way_finds(duration_s, taken, seed):
    free_ms = free_starts_ms(duration_s, taken)
    if not len(free_ms):
        with pytest.raises(RejectedError, match=f"too-short: .* no room for clip {len(taken) + 1}"):
            plan_clip(duration_s, clip_rng(seed, "x"), taken)
        return
    span = plan_clip(duration_s, clip_rng(seed, "x"), taken)
    assert span.start_ms == free_ms[clip_rng(seed, "x").integers(0, len(free_ms))]
    assert span.start_s == span.start_ms / 1000


def test_every_free_start_can_be_drawn_and_is_drawn_equally_often():
    """Of a video with 11 ms of room before the clip taken and 6 ms behind it, both ends included."""
    taken = [ClipSpan(start_s=30.010)]
    rng = np.random.default_rng(0)
    starts, counts = np.unique([plan_clip(90.015, rng, taken).start_ms for _ in range(17 * 200)], return_counts=True)
    assert starts.tolist() == [*range(11), *range(60_010, 60_016)]
    assert counts.min() > 145  # 200 expected of each; 145 is 4 standard deviations below


def test_no_clips_taken_is_the_draw_of_one_clip():
    assert plan_clip(230.0, clip_rng(0, "v7"), []) == plan_clip(230.0, clip_rng(0, "v7"))


def test_a_clip_may_begin_where_another_ends_and_end_where_another_begins():
    one = ClipSpan(start_s=30.0)
    assert {plan_clip(90.0, clip_rng(i, "x"), [one]).start_s for i in range(50)} == {0.0, 60.0}


@given(st.floats(25, 4000), st.integers(0, 2**32), st.text(), st.integers(1, 12))
def test_clips_of_one_video_lie_within_it_and_never_overlap(duration_s, seed, video_id, number_of_clips):
    spans = spans_of(duration_s, number_of_clips=number_of_clips, seed=seed, video_id=video_id)
    assert spans
    starts_ms = sorted(span.start_ms for span in spans)
    assert all(later - earlier >= 30_000 for earlier, later in itertools.pairwise(starts_ms))
    assert starts_ms[0] >= 0
    assert starts_ms[-1] <= max(0.0, duration_s - 30) * 1000 + 1e-6


@given(st.floats(100, 4000), st.integers(0, 2**32), st.text(), st.integers(1, 8))
def test_a_clips_span_depends_on_lower_numbers_alone(duration_s, seed, video_id, number):
    """Told the spans of its predecessors, the plain draw gives the same."""
    before = spans_of(duration_s, number_of_clips=number, seed=seed, video_id=video_id)
    hypothesis.assume(len(before) == number)
    rng = clip_rng(seed, clip_id(video_id, number))
    try:
        expected: object = plan_clip(duration_s, rng, before)
    except RejectedError as error:
        expected = str(error)
    try:
        found: object = plan_numbered_clip(duration_s, seed=seed, video_id=video_id, number=number)
    except RejectedError as error:
        found = str(error)
    assert found == expected


def test_the_first_clip_is_that_of_a_video_of_which_one_clip_is_wanted():
    first = plan_numbered_clip(230.0, seed=3, video_id="youtube:x", number=0)
    assert first == plan_clip(230.0, clip_rng(3, "youtube:x"))


def test_clips_of_one_video_are_drawn_each_with_its_own_luck():
    starts = [
        [span.start_s for span in spans_of(600.0, number_of_clips=3, seed=seed, video_id="v")] for seed in range(200)
    ]
    assert len({tuple(s) for s in starts}) == 200
    assert abs(np.corrcoef(np.array(starts).T) - np.eye(3)).max() < 0.3


def test_where_no_room_is_left_further_clips_are_too_short_and_say_which():
    assert len(spans_of(45.0, number_of_clips=5)) == 1
    with pytest.raises(RejectedError, match=r"too-short: 45\.00 s have no room for clip 2"):
        plan_numbered_clip(45.0, seed=0, video_id="v", number=1)
    with pytest.raises(RejectedError, match="no room for clip 2"):
        plan_numbered_clip(45.0, seed=0, video_id="v", number=4)  # the clips between had none either


@pytest.mark.parametrize(("duration_s", "code_of"), [(27.0, "no room for clip 2"), (20.0, "at least 25 s are needed")])
def test_a_short_file_has_one_clip_at_most(duration_s, code_of):
    with pytest.raises(RejectedError, match=code_of):
        plan_numbered_clip(duration_s, seed=0, video_id="v", number=1)


def test_many_clips_of_a_days_recording_fit_their_keys():
    day_s = 3 * 24 * 3600.0
    spans = spans_of(day_s, number_of_clips=40)
    assert max(span.start_ms for span in spans) <= LAST_START_MS
    assert len(spans) == 40


@given(st.text(), st.integers(0, 99), st.integers(0, 99))
def test_clips_of_one_video_have_identities_of_their_own(video_id, one, other):
    assert (clip_id(video_id, one) == clip_id(video_id, other)) == (one == other)
    assert clip_id(video_id, 0) == video_id
