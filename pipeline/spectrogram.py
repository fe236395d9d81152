"""Log-mel magnitude and phase: the two channels of the paper's sound input."""

from __future__ import annotations

import functools
from typing import Literal

import librosa
import numpy as np

from pipeline.schema import HOP, N_FFT, NUM_MELS

Phase = Literal["projected", "angle"]

_AMIN = 1e-10  # power below which all is silence: -100 dB
_TOP_DB = 80.0  # range kept below the clip's loudest bin


@functools.cache
def mel_filters(sample_rate_hz: int) -> np.ndarray:
    """Slaney's triangular filters from 0 to half the rate, of unit area: float32 (128, 1025)."""
    filters: np.ndarray = librosa.filters.mel(sr=sample_rate_hz, n_fft=N_FFT, n_mels=NUM_MELS)
    return filters


def mel_and_phase(audio: np.ndarray, *, sample_rate_hz: int, phase: Phase = "projected") -> np.ndarray:
    """Compute log-mel power and phase of a mono signal.

    Periodic Hann window of 2048 samples, a column every 512, centred with reflection at the ends.

    Parameters
    ----------
    audio
        float32 (samples,).
    sample_rate_hz
        Its rate; the filters span 0 to half of it.
    phase
        ``projected``: mel filters times the angle of the transform, in radians times the filters' sums: the likeliest
        reading of the paper (Pandeya et al. 2021, "Data preprocessing"). ``angle``: the angle, in (-pi, pi], of mel
        filters times the complex transform.

    Returns
    -------
    numpy.ndarray
        float16 (2, 128, 1 + samples // 512): channel 0 in dB re 1, down to 80 dB below its
        maximum; channel 1 the phase.
    """
    spectrum = librosa.stft(audio, n_fft=N_FFT, hop_length=HOP, pad_mode="reflect")
    filters = mel_filters(sample_rate_hz)
    power = filters @ (spectrum.real**2 + spectrum.imag**2)
    level_db = librosa.power_to_db(power, ref=1.0, amin=_AMIN, top_db=_TOP_DB)
    angle = filters @ np.angle(spectrum) if phase == "projected" else np.angle(filters @ spectrum)
    return np.stack([level_db, angle]).astype(np.float16)
