"""Log-mel magnitude and phase: the two channels of the paper's sound input."""

from __future__ import annotations

import functools
from typing import Literal

import librosa
import numpy as np
import scipy.fft

from pipeline.schema import HOP, N_FFT, NUM_MELS

Phase = Literal["projected", "angle"]

_AMIN = 1e-10  # power below which all is silence: -100 dB
_NUM_BLOCKS = 8  # of the mel filters: each covers few bins, and a product with them all would be zeros mostly
_TOP_DB = 80.0  # range kept below the clip's loudest bin


@functools.cache
def _window(n_fft: int) -> np.ndarray:
    """Periodic Hann window: float32 (n_fft,)."""
    window: np.ndarray = librosa.filters.get_window("hann", n_fft).astype(np.float32)
    return window


def stft(audio: np.ndarray, *, n_fft: int, hop: int) -> np.ndarray:
    """Short-time Fourier transform in frames that lie wholly in the signal, as ``librosa.stft(center=False)`` has them.

    Frames are rows until the end, each transformed where it lies: half the time of librosa's, whose frames are columns.

    Parameters
    ----------
    audio
        float32 (samples,), at least ``n_fft`` of them.
    n_fft
        Samples of a frame, under a periodic Hann window.
    hop
        Samples from one frame to the next.

    Returns
    -------
    numpy.ndarray
        complex64 (1 + n_fft // 2, 1 + (samples - n_fft) // hop).
    """
    frames_TN = np.lib.stride_tricks.sliding_window_view(audio, n_fft)[::hop]
    spectrum_FT: np.ndarray = scipy.fft.rfft(frames_TN * _window(n_fft)).T
    return spectrum_FT


@functools.cache
def mel_filters(sample_rate_hz: int) -> np.ndarray:
    """Slaney's triangular filters from 0 to half the rate, of unit area: float32 (128, 1025)."""
    filters: np.ndarray = librosa.filters.mel(sr=sample_rate_hz, n_fft=N_FFT, n_mels=NUM_MELS)
    return filters


@functools.cache
def _blocks(sample_rate_hz: int) -> list[tuple[slice, np.ndarray]]:
    """The filters, some rows at a time, without the bins that none of them covers: a quarter of the whole."""
    blocks = []
    for rows in np.split(mel_filters(sample_rate_hz), _NUM_BLOCKS):
        covered = np.flatnonzero(rows.any(axis=0))
        bins = slice(int(covered[0]), int(covered[-1]) + 1)
        blocks.append((bins, np.ascontiguousarray(rows[:, bins])))
    return blocks


def _filtered(values_FT: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Mel filters times what stands in each bin: (128, columns)."""
    return np.concatenate([rows @ values_FT[bins] for bins, rows in _blocks(sample_rate_hz)])


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
    spectrum = stft(np.pad(audio, N_FFT // 2, mode="reflect"), n_fft=N_FFT, hop=HOP)
    power = _filtered(spectrum.real**2 + spectrum.imag**2, sample_rate_hz)
    level_db = librosa.power_to_db(power, ref=1.0, amin=_AMIN, top_db=_TOP_DB)
    if phase == "projected":
        angle = _filtered(np.angle(spectrum), sample_rate_hz)
    else:
        angle = np.angle(_filtered(spectrum, sample_rate_hz))
    return np.stack([level_db, angle]).astype(np.float16)
