from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips import ClipSpan, clip_rng, plan_clip
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
