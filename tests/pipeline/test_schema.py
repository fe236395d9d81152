from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.schema import (
    EMOTIONS,
    INDEX,
    MEMBERS,
    Manifest,
    Sample,
    SchemaError,
    decode,
    encode,
    members_of,
    num_columns,
    sample_key,
)

KEY = "a-song_0123abcd_00012500"


def a_sample(**changes) -> Sample:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 255, m.shape).astype(m.dtype)
        if m.dtype == np.uint8
        else rng.normal(size=m.shape).astype(m.dtype)
        for name, m in MEMBERS.items()
    }
    return Sample(**({"key": KEY, "arrays": arrays, "label": 3, "meta": {"title": "A söng"}} | changes))


def test_widths_are_those_of_the_paper():
    assert [num_columns(rate) for rate in (32_000, 22_050, 8_000)] == [1876, 1292, 469]


def test_emotions_stand_in_the_authors_order():
    assert EMOTIONS == ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")


def test_a_sample_survives_encoding():
    sample = a_sample()
    back = decode(encode(sample))
    assert (back.key, back.label, back.meta) == (sample.key, sample.label, sample.meta)
    assert all(np.array_equal(back.arrays[name], array) for name, array in sample.arrays.items())


@given(
    st.dictionaries(
        st.text(), st.text() | st.integers() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
    ),
    st.none() | st.integers(0, 5),
)
def test_any_metadata_and_label_survive(meta, label):
    back = decode(encode(Sample(key=KEY, arrays={}, label=label, meta=meta)))
    assert (back.meta, back.label) == (meta, label)


def test_only_wanted_members_are_decoded():
    record = encode(a_sample()) | {"mel_32k.npy": b"damaged"}
    assert list(decode(record, ["mel_8k"]).arrays) == ["mel_8k"]


def test_a_pickle_in_a_member_is_refused():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"any": "object"}], dtype=object), allow_pickle=True)
    with pytest.raises(SchemaError, match=r"frames is object\(1,\), but schema"):
        decode({"__key__": KEY, "frames.npy": buffer.getvalue()})
    with pytest.raises(SchemaError, match=r"frames\.npy cannot be read"):
        decode({"__key__": KEY, "frames.npy": pickle.dumps([1])})


@pytest.mark.parametrize("array", [np.zeros((64, 128, 128, 3), np.float32), np.zeros((8, 128, 128, 3), np.uint8)])
def test_a_wrong_dtype_or_shape_is_refused_on_both_sides(array):
    with pytest.raises(SchemaError, match="frames is"):
        encode(a_sample(arrays={"frames": array}))
    buffer = io.BytesIO()
    np.save(buffer, array)
    with pytest.raises(SchemaError, match="frames is"):
        decode({"__key__": KEY, "frames.npy": buffer.getvalue()})


def test_a_missing_member_is_named():
    with pytest.raises(SchemaError, match=r"no mel_8k\.npy"):
        decode(encode(a_sample(arrays={})), ["mel_8k"])


@given(st.text(), st.text(), st.integers(0, 99_999_999))
def test_any_title_gives_a_key_that_webdataset_does_not_cut(title, source_id, start_ms):
    key = sample_key(title=title, source_id=source_id, start_ms=start_ms)
    assert encode(Sample(key=key, arrays={}, label=None, meta={}))["__key__"] == key
    assert "." not in key


def test_equal_titles_of_two_sources_have_two_keys():
    keys = {sample_key(title="14", source_id=f"{c}/14.mp4", start_ms=0) for c in EMOTIONS}
    assert len(keys) == len(EMOTIONS)


def test_members_follow_the_modality():
    assert members_of("video") == ("frames",)
    assert members_of("audio") == ("mel_32k", "mel_8k", "mel_22k")
    assert members_of("both") == tuple(MEMBERS)


def test_a_manifest_survives_and_one_of_another_version_is_refused():
    manifest = Manifest(
        labels=list(EMOTIONS), recipe={}, recipe_hash="0", splits={}, counts={"kept": 0}, normalization={}
    )
    assert Manifest.from_json(manifest.to_json()) == manifest
    raw = json.loads(manifest.to_json())
    for text, words in (
        (json.dumps(raw | {"schema_version": 99}), "schema version 99"),
        ("[]", "no data set manifest"),
        ("{", "no data set manifest"),
        (json.dumps({"schema_version": raw["schema_version"]}), "incomplete"),
    ):
        with pytest.raises(SchemaError, match=words):
            Manifest.from_json(text)


def test_the_index_has_the_columns_that_other_programs_rely_on():
    promised = "key source_id link status code detail split label source_group shard start_s duration_s sha256"
    assert INDEX.names[:10] == promised.split()[:10]
    assert set(promised.split()) <= set(INDEX.names)
