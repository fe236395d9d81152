"""Sound of a clip at exact length and at the three rates of the networks."""

from __future__ import annotations

import numpy as np
import soxr

from pipeline.schema import CLIP_S, SAMPLE_RATES_HZ

BASE_RATE_HZ = 32_000  # decoded once at this rate; the others are resampled from it


def fit_length(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut, or pad with silence at the end, to exactly ``num_samples``.

    A real clip is 30.00018 s long, which would give a spectrogram column too many.
    """
    kept = audio[:num_samples]
    return np.pad(kept, (0, num_samples - len(kept)))


def at_rates(audio: np.ndarray) -> dict[str, np.ndarray]:
    """Resample 30 s of sound to every rate of the schema.

    Parameters
    ----------
    audio
        float32 (960000,), mono at 32 kHz.

    Returns
    -------
    dict
        Member name (``mel_32k`` ...) to float32 (30 * rate,).
    """
    if audio.shape != (CLIP_S * BASE_RATE_HZ,):
        raise ValueError(f"audio has shape {audio.shape}, not 30 s at 32 kHz; call fit_length first")
    return {
        name: audio
        if rate_hz == BASE_RATE_HZ
        else fit_length(soxr.resample(audio, BASE_RATE_HZ, rate_hz), CLIP_S * rate_hz)
        for name, rate_hz in SAMPLE_RATES_HZ.items()
    }
