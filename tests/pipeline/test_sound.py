"""Silence, clipping and held tones are found, and music is left alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import media
from pipeline.clips import ClipSpan
from pipeline.filters import sound
from pipeline.filters.thresholds import Thresholds
from pipeline.schema import CODES, SCORES
from tests.sounds import RATE_HZ, note, song

SECONDS = 20
T_S = np.arange(SECONDS * RATE_HZ) / RATE_HZ


def sine(frequency_hz: float, amplitude: float = 0.2) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * T_S)).astype(np.float32)


def hiss(amplitude: float) -> np.ndarray:
    return (amplitude * np.random.default_rng(0).standard_normal(len(T_S))).astype(np.float32)


def hum(frequency_hz: float) -> np.ndarray:
    return np.sum([sine(frequency_hz * k, 0.1 / k) for k in range(1, 12)], axis=0, dtype=np.float32)


def codes(audio: np.ndarray) -> list[str]:
    return [verdict.code for verdict in sound.verdicts(sound.scores(audio, RATE_HZ), Thresholds())]


# --- what is to go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "audio",
    [np.zeros(len(T_S), np.float32), np.full(len(T_S), 0.1, np.float32), hiss(1e-4), np.zeros(0, np.float32)],
    ids=["digital silence", "silence with an offset", "hiss of -80 dB", "nothing"],
)
def test_what_cannot_be_heard_is_silent(audio: np.ndarray) -> None:
    assert set(codes(audio)) == {"silent"}


def test_a_clip_that_is_mostly_silent_is_silent() -> None:
    audio = np.concatenate([song(8), np.zeros(12 * RATE_HZ, np.float32)])
    assert codes(audio) == ["silent"]
    assert sound.scores(audio, RATE_HZ)["silent_share"] == pytest.approx(0.6, abs=0.02)


TONES = {
    "test tone": sine(1000, 0.126),
    "faint test tone": sine(440, 0.005),
    "dial tone": sine(350) + sine(440),
    "busy tone": sine(425) * (T_S % 1 < 0.5),
    "hum of 50 Hz": hum(50),
    "hum of 60 Hz with hiss": hum(60) + hiss(0.02),
    "organ key": np.sum([sine(261.6 * k, 0.1 / k**0.7) for k in range(1, 16)], axis=0),
    "organ chord": np.sum([note(f, SECONDS, decay_s=np.inf) for f in (261.6, 329.6, 392.0)], axis=0) / 20,
    "tremulant": sine(261.6) * (1 + 0.15 * np.sin(2 * np.pi * 6 * T_S)),
}


@pytest.mark.parametrize("name", TONES)
def test_a_held_tone_is_found(name: str) -> None:
    assert "tone" in codes(TONES[name].astype(np.float32))


def clipped(audio: np.ndarray, share: float) -> np.ndarray:
    limit = np.quantile(np.abs(audio), 1 - share)
    return (np.clip(audio, -limit, limit) / limit).astype(np.float32)


@pytest.mark.parametrize("gain", [1, 0.3, 0.01])
def test_clipping_is_found_at_any_volume(gain: float) -> None:
    for share in (0.1, 0.2, 0.4):
        audio = clipped(song(SECONDS), share) * np.float32(gain)
        assert sound.scores(audio, RATE_HZ)["clipped_share"] == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "libmp3lame"), ("m4a", "aac"), ("webm", "libopus")])
def test_clipping_is_found_after_lossy_coding_and_a_change_of_rate(suffix: str, codec: str, tmp_path: Path) -> None:
    for name, audio in (("whole", song(SECONDS) / 2), ("clipped", clipped(song(SECONDS), 0.25) / 2)):
        soundfile.write(tmp_path / "made.wav", audio, RATE_HZ)
        coded = tmp_path / f"{name}.{suffix}"
        words = ["-i", str(tmp_path / "made.wav"), "-ar", "48000", "-c:a", codec, "-b:a", "96k", str(coded)]
        subprocess.run([media.ffmpeg_exe(), "-y", "-nostdin", "-loglevel", "error", *words], check=True)
        heard = media.decode_clip(coded, ClipSpan(start_s=0), media.probe(coded), modality="audio").audio
        assert heard is not None
        assert codes(heard) == (["clipped"] if name == "clipped" else [])


# --- what is to stay ---------------------------------------------------------------------------------------------


def flute() -> np.ndarray:
    """A slow melody of one voice that swells and trembles, with breath, and rests between."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    for step in (0, 3, 7, 5, 8, 7, 3, 2, 0, 10, 8, 7):
        seconds = rng.uniform(0.8, 2.5)
        t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        swell = np.clip(np.minimum(t / 0.1, (seconds - t) / 0.2), 0, 1)
        tone = note(440 * 2 ** (step / 12), seconds, decay_s=np.inf, partials=3)[: len(t)]
        swell *= rng.uniform(0.05, 0.1) * (1 + 0.2 * np.sin(2 * np.pi * 5 * t))
        parts += [swell * (tone + 0.02 * rng.standard_normal(len(t))), np.zeros(RATE_HZ // 4)]
    return np.concatenate(parts)[: len(T_S)]


def struck(every_s: float) -> np.ndarray:
    """A singing bowl: long notes of one pitch that fade and beat."""
    audio = np.zeros(2 * len(T_S))
    beat = 1 + 0.3 * np.sin(2 * np.pi * 0.7 * T_S)
    one = sum(
        amplitude * np.sin(2 * np.pi * 220 * ratio * T_S) * np.exp(-T_S * k**0.5 / 8) * beat
        for k, (ratio, amplitude) in enumerate([(1, 1), (2.71, 0.6), (5.1, 0.4)], start=1)
    )
    for start in range(0, len(T_S), round(every_s * RATE_HZ)):
        audio[start : start + len(one)] += one
    return 0.1 * audio[: len(T_S)]


def chiptune() -> np.ndarray:
    """Two square waves, of which one changes its note four times a second."""
    high_hz = 440 * 2 ** (np.random.default_rng(0).integers(0, 12, len(T_S) * 4 // RATE_HZ + 1) / 12)
    phase = np.cumsum(high_hz[(T_S * 4).astype(int)]) / RATE_HZ
    return 0.1 * np.sign(phase % 1 - 0.5) + 0.05 * np.sign((110 * T_S) % 1 - 0.25)


MUSIC = {
    "song": song(SECONDS),
    "quiet song": song(SECONDS) / 20,
    "loud song, a little clipped": clipped(song(SECONDS), 0.02),
    "song with a click": song(SECONDS) * 0.1 + (np.arange(len(T_S)) == 5000),
    "song over hum": song(SECONDS) + hum(50) / 30,
    "flute": flute(),
    "bowl every 3 s": struck(3),
    "bowl every 10 s": struck(10),
    "squares": chiptune(),
    "scale of sines": np.concatenate([sine(220 * 2 ** (k / 12))[:RATE_HZ] for k in (0, 2, 4, 5, 7, 9, 11, 12)]),
}


@pytest.mark.parametrize("name", MUSIC)
def test_music_is_left_alone(name: str) -> None:
    assert codes(MUSIC[name].astype(np.float32)) == []


def test_noise_is_no_tone() -> None:
    assert codes(hiss(0.1)) == []


# --- the scores themselves ---------------------------------------------------------------------------------------


def test_loudness_is_that_of_the_waveform() -> None:
    assert sound.scores(sine(440, 1.0), RATE_HZ)["loudness_db"] == pytest.approx(-3.01, abs=0.01)
    assert sound.scores(hiss(0.01), RATE_HZ)["loudness_db"] == pytest.approx(-40, abs=0.05)


def test_shares_do_not_depend_on_volume() -> None:
    for audio in (song(SECONDS), clipped(song(SECONDS), 0.2), hum(50)):
        loud, soft = (sound.scores(audio * np.float32(gain), RATE_HZ) for gain in (1, 0.25))
        for name in ("clipped_share", "tone_share"):
            assert soft[name] == pytest.approx(loud[name], abs=0.001)


ANY = st.floats(width=32)


@settings(max_examples=60)
@given(arrays(np.float32, st.integers(0, 40_000), elements=ANY, fill=ANY), st.sampled_from([8_000, 32_000, 44_100]))
def test_any_sound_has_finite_scores_for_columns_of_the_index(audio: np.ndarray, rate_hz: int) -> None:
    found = sound.scores(audio, rate_hz)
    assert set(found) < set(SCORES)
    assert all(np.isfinite(list(found.values())))
    assert all(0 <= score <= 1 for name, score in found.items() if name != "loudness_db")


def test_damaged_samples_do_not_take_the_rest_with_them() -> None:
    audio = song(SECONDS)
    audio[5000:5010] = np.nan
    audio[6000] = np.inf
    assert codes(audio) == []


def test_verdicts_need_scores_alone() -> None:
    limits = Thresholds(loudness=-40, silence=0.3, tone=0.5, clipping=0.1)
    bad = {"loudness_db": -41.0, "silent_share": 0.31, "tone_share": 0.51, "clipped_share": 0.11}
    found = list(sound.verdicts(bad, limits))
    assert [verdict.code for verdict in found] == ["silent", "silent", "tone", "clipped"]
    assert {verdict.code for verdict in found} <= set(CODES)
    assert found[2].detail == "one steady tone for 51% of the sound, 50% at most"
    good = {"loudness_db": -40.0, "silent_share": 0.3, "tone_share": 0.5, "clipped_share": 0.1}
    assert not list(sound.verdicts(good, limits))
    assert not list(sound.verdicts({}, limits))
