"""Talk goes, music stays, by shares of time that a network is sure of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.talk import over_music
from pipeline.filters import speech
from pipeline.filters.thresholds import Thresholds
from pipeline.schema import CODES, SCORES
from pipeline.workers import WorkerPool
from tests.sounds import RATE_HZ, song, talk

VOICES = ("kal", "slt", "awb", "rms")


def codes(sound: np.ndarray) -> list[str]:
    return [verdict.code for verdict in speech.verdicts(speech.scores(sound, RATE_HZ), Thresholds())]


@pytest.mark.parametrize("voice", VOICES)
def test_talk_is_dropped_alone_quiet_and_over_music(voice: str, tmp_path: Path) -> None:
    read = talk(voice, tmp_path)
    assert codes(read) == ["speech", "not-music"]
    assert codes(read / 30) == ["speech", "not-music"]
    for snr_db in (0, 6, 12):
        assert codes(over_music(read, song(24), snr_db)) == ["speech"]


@pytest.mark.parametrize("seed", range(3))
def test_music_is_kept(seed: int) -> None:
    sound = song(30, seed)
    assert codes(sound) == []
    assert codes(sound / 30) == []


def test_a_few_words_before_the_music_are_no_reason(tmp_path: Path) -> None:
    assert codes(np.concatenate([talk("awb", tmp_path)[: 5 * RATE_HZ], song(25)])) == []


def test_silence_noise_and_applause_are_no_music() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(20 * RATE_HZ).astype(np.float32)
    claps = np.zeros_like(noise)
    for start in rng.integers(0, len(noise) - 600, 800):
        claps[start : start + 600] += rng.standard_normal(600) * np.exp(-np.arange(600) / 100)
    for sound in (np.zeros_like(noise), noise / 10, np.cumsum(noise - noise.mean()) / 1000, claps / 10):
        assert codes(sound.astype(np.float32)) == ["not-music"]


def test_scores_do_not_depend_on_the_rate_at_which_the_sound_comes(tmp_path: Path) -> None:
    sound = over_music(talk("awb", tmp_path), song(24), 6)
    here = speech.scores(sound, RATE_HZ)
    for rate_hz in (44_100, 48_000):
        there = speech.scores(soxr.resample(sound, RATE_HZ, rate_hz), rate_hz)
        assert there == pytest.approx(here, abs=0.02)


SOUNDS = arrays(np.float32, st.integers(0, 6000), elements=st.floats(width=32), fill=st.floats(width=32))


@settings(max_examples=50)
@given(SOUNDS)
def test_any_sound_has_scores_that_are_shares(sound: np.ndarray) -> None:
    found = speech.scores(sound, RATE_HZ)
    assert set(found) < set(SCORES)
    assert all(0 <= share <= 1 for share in found.values())
    assert found["music_share"] >= found["singing_share"]


def test_damaged_samples_do_not_take_the_rest_with_them() -> None:
    sound = song(10)
    sound[1000:1010] = np.nan
    sound[2000] = np.inf
    assert codes(sound) == []


def test_a_worker_finds_what_is_found_here() -> None:
    sound = song(5)
    with WorkerPool(1) as pool:
        assert pool.run(speech.scores, sound, RATE_HZ) == speech.scores(sound, RATE_HZ)


def test_the_network_is_loaded_once_and_starts_no_thread() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc")
    speech._detector.cache_clear()
    before = threads()
    for _ in range(3):
        speech.scores(song(3), RATE_HZ)
        assert threads() <= before
    assert speech._detector.cache_info().misses == 1


def test_verdicts_need_scores_alone() -> None:
    limits = Thresholds(speech=0.4, music=0.6)
    found = list(speech.verdicts({"speech_share": 0.41, "music_share": 0.59}, limits))
    assert [verdict.code for verdict in found] == ["speech", "not-music"]
    assert all(verdict.code in CODES for verdict in found)
    assert found[0].detail == "talk for 41% of the time, 40% at most"
    assert not list(speech.verdicts({"speech_share": 0.4, "music_share": 0.6}, limits))
    assert not list(speech.verdicts({}, limits))
