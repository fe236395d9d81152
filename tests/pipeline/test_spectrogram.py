from __future__ import annotations

import librosa
import numpy as np
import pytest

from pipeline.audio import BASE_RATE_HZ, at_rates, fit_length
from pipeline.schema import HOP, N_FFT, SAMPLE_RATES_HZ, num_columns
from pipeline.spectrogram import mel_and_phase, mel_filters

RATES_HZ = sorted(SAMPLE_RATES_HZ.values())
HALF_STEP_DB = 0.0313  # float16 between 64 and 128 has steps of 1/16: rounding errs by half of one


def music_like(rate_hz: int) -> np.ndarray:
    rng = np.random.default_rng(rate_hz)
    t_s = np.arange(30 * rate_hz) / rate_hz
    tones = sum(rng.uniform(0.05, 0.2) * np.sin(2 * np.pi * f * t_s) for f in rng.uniform(60, rate_hz / 2.5, 12))
    return (tones * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * t_s)) + 0.01 * rng.normal(size=len(t_s))).astype(np.float32)


def slow_mel(audio: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition, column by column: reflect, cut, window, FFT, filter."""
    padded = np.pad(audio.astype(np.float64), N_FFT // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    filters = librosa.filters.mel(sr=rate_hz, n_fft=N_FFT, n_mels=128).astype(np.float64)
    columns = [np.fft.rfft(padded[i : i + N_FFT] * window) for i in range(0, len(audio) + 1, HOP)]
    spectrum = np.stack(columns, axis=1)
    power = filters @ np.abs(spectrum) ** 2
    level_db = 10 * np.log10(np.maximum(power, 1e-10))
    return np.maximum(level_db, level_db.max() - 80), spectrum


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_log_mel_equals_librosas_one_liner(rate_hz):
    audio = music_like(rate_hz)
    power = librosa.feature.melspectrogram(
        y=audio, sr=rate_hz, n_fft=2048, hop_length=512, n_mels=128, pad_mode="reflect"
    )
    ours = mel_and_phase(audio, sample_rate_hz=rate_hz)
    assert ours.shape == (2, 128, num_columns(rate_hz))
    assert np.abs(ours[0] - librosa.power_to_db(power)).max() <= HALF_STEP_DB


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("phase", ["projected", "angle"])
def test_both_channels_equal_the_column_by_column_definition(rate_hz, phase):
    audio = music_like(rate_hz)
    level_db, spectrum = slow_mel(audio, rate_hz)
    ours = mel_and_phase(audio, sample_rate_hz=rate_hz, phase=phase).astype(np.float64)
    assert np.abs(ours[0] - level_db).max() <= HALF_STEP_DB + 1e-3
    filters = mel_filters(rate_hz).astype(np.float64)
    if phase == "projected":
        # An angle near pi may flip by a whole turn in float32; where the ends are mirrored, all angles are 0 or pi.
        difference = np.abs(ours[1] - filters @ np.angle(spectrum))[:, 2:-2]
        assert np.quantile(difference, 0.998) < 1e-3
    else:
        difference = np.abs(np.angle(np.exp(1j * (ours[1] - np.angle(filters @ spectrum)))))
        assert np.quantile(difference, 0.99) < 2e-3


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_440_hz_tone_lands_in_the_band_that_holds_440_hz(rate_hz):
    tone = np.sin(2 * np.pi * 440 * np.arange(30 * rate_hz) / rate_hz).astype(np.float32)
    loudest = mel_and_phase(tone, sample_rate_hz=rate_hz)[0].argmax(axis=0)
    edges_hz = librosa.mel_frequencies(n_mels=130, fmin=0, fmax=rate_hz / 2)
    assert (np.abs(edges_hz[1:-1][loudest] - 440) <= np.diff(edges_hz)[loudest]).all()


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_chirp_is_in_the_right_band_at_the_right_column(rate_hz):
    low_hz, high_hz = 300.0, 3000.0
    t_s = np.arange(30 * rate_hz) / rate_hz
    chirp = np.sin(2 * np.pi * (low_hz * t_s + (high_hz - low_hz) / 60 * t_s**2)).astype(np.float32)
    loudest = mel_and_phase(chirp, sample_rate_hz=rate_hz)[0].argmax(axis=0)
    at_hz = low_hz + (high_hz - low_hz) / 30 * np.arange(num_columns(rate_hz)) * HOP / rate_hz
    centres_hz = librosa.mel_frequencies(n_mels=130, fmin=0, fmax=rate_hz / 2)[1:-1]
    expected = np.abs(centres_hz[:, None] - at_hz).argmin(axis=0)
    inside = slice(4, -4)  # the reflection at the ends holds other frequencies
    assert np.abs(loudest[inside] - expected[inside]).max() <= 1


def test_resampling_keeps_a_tone_and_its_place_in_time():
    t_s = np.arange(30 * BASE_RATE_HZ) / BASE_RATE_HZ
    sound = (np.sin(2 * np.pi * 1000 * t_s) * (t_s > 12.0)).astype(np.float32)
    for name, audio in at_rates(sound).items():
        rate_hz = SAMPLE_RATES_HZ[name]
        assert audio.shape == (30 * rate_hz,)
        onset_s = np.flatnonzero(np.abs(audio) > 0.5)[0] / rate_hz
        assert abs(onset_s - 12.0) < 0.001
        steady = audio[20 * rate_hz : 21 * rate_hz]
        assert abs(np.sqrt(np.mean(steady**2)) - np.sqrt(0.5)) < 0.005


def test_length_is_cut_or_padded_with_silence():
    audio = np.ones(5, np.float32)
    assert fit_length(audio, 3).tolist() == [1, 1, 1]
    assert fit_length(audio, 7).tolist() == [1] * 5 + [0, 0]


def test_sound_of_a_wrong_length_is_refused():
    with pytest.raises(ValueError, match="fit_length"):
        at_rates(np.zeros(100, np.float32))
