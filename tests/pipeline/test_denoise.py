from __future__ import annotations

import librosa
import numpy as np
import pytest

from pipeline.denoise import (
    SNR_GATE_DB,
    _exponential_quantile,
    denoise,
    find_noise,
    noise_like,
)

RATE_HZ = 32_000
LENGTH_S = 30


def melody() -> np.ndarray:
    """Plucked notes with rests: music whose floor is silence."""
    rng = np.random.default_rng(1)
    t_s = np.arange(RATE_HZ // 2) / RATE_HZ
    notes = [np.sin(2 * np.pi * f * t_s) * np.exp(-6 * t_s) for f in rng.uniform(150, 1500, 2 * LENGTH_S)]
    return (0.4 * np.concatenate(notes)).astype(np.float32)


def hiss() -> np.ndarray:
    return np.random.default_rng(2).standard_normal(LENGTH_S * RATE_HZ)


def hum(mains_hz: float) -> np.ndarray:
    t_s = np.arange(LENGTH_S * RATE_HZ) / RATE_HZ
    return sum(np.sin(2 * np.pi * n * mains_hz * t_s + n) / n for n in range(1, 8))


def swelling() -> np.ndarray:
    """Noise that comes and goes, like a crowd or the sea."""
    return hiss() * (1.2 + np.sin(2 * np.pi * 0.2 * np.arange(LENGTH_S * RATE_HZ) / RATE_HZ))


def mixed(audio: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    return (audio + noise * np.sqrt(np.square(audio).mean() / np.square(noise).mean() / 10 ** (snr_db / 10))).astype(
        "f4"
    )


def sdr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum()))


def log_mel_distance_db(a: np.ndarray, b: np.ndarray) -> float:
    levels = [librosa.power_to_db(librosa.feature.melspectrogram(y=x, sr=RATE_HZ)) for x in (a, b)]
    return float(np.abs(levels[0] - levels[1]).mean())


def built(audio: np.ndarray) -> tuple[np.ndarray, bool]:
    noise = find_noise(audio, sample_rate_hz=RATE_HZ)
    return (denoise(audio, noise, sample_rate_hz=RATE_HZ) if noise.opens_gate else audio), noise.opens_gate


@pytest.mark.parametrize("snr_db", [-5, 0, 10, 20])
@pytest.mark.parametrize("noise", [hiss(), hum(50), hum(60)], ids=["hiss", "50 Hz", "60 Hz"])
def test_the_estimate_follows_the_snr_of_steady_noise(noise, snr_db):
    assert abs(find_noise(mixed(melody(), noise, snr_db), sample_rate_hz=RATE_HZ).snr_db - snr_db) < 2


@pytest.mark.parametrize("snr_db", [0, 10, 20])
@pytest.mark.parametrize("noise", [hiss(), hum(50), hum(60)], ids=["hiss", "50 Hz", "60 Hz"])
def test_noisy_music_gains_by_both_measures_and_keeps_its_length_and_type(noise, snr_db):
    audio = melody()
    noisy = mixed(audio, noise, snr_db)
    sound, done = built(noisy)
    assert done
    assert (sound.dtype, sound.shape) == (np.float32, noisy.shape)
    assert sdr_db(audio, sound) > sdr_db(audio, noisy) + 3
    assert log_mel_distance_db(audio, sound) < log_mel_distance_db(audio, noisy)


def chord(*tones_hz: float) -> np.ndarray:
    """An organ's: tones of constant level with their overtones, which is how hum sounds too."""
    t_s = np.arange(LENGTH_S * RATE_HZ) / RATE_HZ
    return (0.1 * sum(np.sin(2 * np.pi * n * f * t_s) / n for f in tones_hz for n in (1, 2, 3, 4))).astype(np.float32)


CLEAN = {
    "plucked notes": melody(),
    "a chord held throughout": chord(110.0, 164.81, 220.0),
    "one bass note held throughout": chord(55.0),
    "one tone at a harmonic of the mains": np.sin(2 * np.pi * 100 * np.arange(LENGTH_S * RATE_HZ) / RATE_HZ).astype(
        "f4"
    ),
    "music with a crowd": mixed(melody(), swelling(), 5),
    "hiss far below the music": mixed(melody(), hiss(), SNR_GATE_DB + 5),
    "silence": np.zeros(LENGTH_S * RATE_HZ, np.float32),
    "less than a frame": np.ones(100, np.float32),
}


@pytest.mark.parametrize("audio", CLEAN.values(), ids=CLEAN)
def test_what_holds_no_steady_noise_is_left_as_it_is(audio):
    sound, done = built(audio)
    assert sound is audio
    assert not done


def test_silence_around_noisy_music_hides_nothing():
    noisy = mixed(melody(), hiss(), 10)
    noisy[: 5 * RATE_HZ] = 0
    noisy[-5 * RATE_HZ :] = 0
    assert abs(find_noise(noisy, sample_rate_hz=RATE_HZ).snr_db - 10) < 2


def test_music_over_the_noise_does_not_raise_its_profile():
    """Where music covers a band throughout, what is found in the other bands stands in."""
    white = 0.02 * hiss()
    rumble = np.fft.irfft(np.fft.rfft(hiss()[::-1]) * (np.fft.rfftfreq(len(white), 1 / RATE_HZ) < 2000))
    found = find_noise((white + rumble).astype(np.float32), sample_rate_hz=RATE_HZ).hiss
    true = 0.02**2 * np.square(librosa.filters.get_window("hann", 2048)).sum()
    np.testing.assert_allclose(10 * np.log10(found / true), 0, atol=1)


def test_the_profile_handed_to_noisereduce_has_the_power_that_was_found():
    power = np.linspace(2, 1, 1025)
    made = noise_like(power, 20 * RATE_HZ)
    again = np.square(np.abs(librosa.stft(made, n_fft=2048))).mean(axis=1)
    assert abs(10 * np.log10(again.sum() / power.sum())) < 0.1
    np.testing.assert_allclose(again[1:-1] / power[1:-1], 1, atol=0.4)
    np.testing.assert_array_equal(made, noise_like(power, 20 * RATE_HZ))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25])
def test_quantiles_of_the_exponential_distribution_are_those_of_samples(share):
    drawn = np.random.default_rng(3).exponential(size=(20_000, 93))
    assert _exponential_quantile(share, 93) == pytest.approx(np.quantile(drawn, share, axis=1).mean(), rel=0.02)


def test_less_strength_keeps_more_and_none_keeps_all():
    audio = mixed(melody(), hiss(), 10)
    noise = find_noise(audio, sample_rate_hz=RATE_HZ)
    kept = [denoise(audio, noise, sample_rate_hz=RATE_HZ, strength=s) for s in (0, 0.3, 0.9)]
    np.testing.assert_array_equal(kept[0], audio)
    assert sdr_db(audio, kept[1]) > sdr_db(audio, kept[2]) + 3
