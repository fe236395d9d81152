from __future__ import annotations

import numpy as np
import pytest

from pipeline.denoise import SNR_GATE_DB, denoise, denoise_if_noisy, estimate_snr_db

RATE_HZ = 32_000


def melody(seconds: int = 10) -> np.ndarray:
    """Plucked notes with rests: music whose floor is silence."""
    rng = np.random.default_rng(1)
    t_s = np.arange(RATE_HZ // 2) / RATE_HZ
    notes = [np.sin(2 * np.pi * f * t_s) * np.exp(-6 * t_s) for f in rng.uniform(150, 1500, 2 * seconds)]
    return (0.4 * np.concatenate(notes)).astype(np.float32)


def noise_like(audio: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(2).standard_normal(len(audio)).astype(np.float32)
    return noise * np.sqrt(np.square(audio).mean() / 10 ** (snr_db / 10))


def sdr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum()))


@pytest.mark.parametrize("snr_db", [-5, 0, 5, 10])
def test_the_estimate_follows_the_snr_of_white_noise(snr_db):
    audio = melody()
    assert abs(estimate_snr_db(audio + noise_like(audio, snr_db)) - snr_db) < 2.5


def test_clean_and_silent_sound_count_as_clean():
    assert estimate_snr_db(melody()) > 20
    assert estimate_snr_db(np.zeros(10 * RATE_HZ, np.float32)) == np.inf


def test_the_gate_leaves_clean_sound_untouched():
    audio = melody()
    sound, done = denoise_if_noisy(audio, RATE_HZ, snr_db=SNR_GATE_DB)
    assert sound is audio
    assert not done


def test_noisy_music_gains_and_keeps_its_length_and_type():
    audio = melody()
    noisy = audio + noise_like(audio, -3)
    sound, done = denoise_if_noisy(noisy, RATE_HZ, snr_db=estimate_snr_db(noisy))
    assert done
    assert (sound.dtype, sound.shape) == (np.float32, noisy.shape)
    assert sdr_db(audio, sound) > sdr_db(audio, noisy) + 2


def test_strength_zero_and_silence_are_left_alone():
    audio = melody()
    assert denoise(audio, sample_rate_hz=RATE_HZ, strength=0) is audio
    silence = np.zeros(RATE_HZ, np.float32)
    assert denoise(silence, sample_rate_hz=RATE_HZ, strength=0.5) is silence
