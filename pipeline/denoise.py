"""Noise reduction that leaves music alone: noisereduce, behind a gate that opens on steady noise only.

The paper reduced noise in its unlabelled clips without saying how. Neither a high floor nor quiet frames prove noise:
music fills them too. But hiss has, in every bin, a floor that stays and a power that is spread exponentially, and hum
has harmonics of the mains at constant level: music has neither. Where one of them is found, its profile is taken from
the quietest frames of each bin. ``docs/denoise.md`` shows what this does to real music.
"""

from __future__ import annotations

from dataclasses import dataclass

import librosa
import numpy as np

from pipeline.spectrogram import stft

SNR_GATE_DB = 30.0  # hiss or hum weaker than this is left in: little is to be gained
STRENGTH = 0.7  # of the noise taken: more helps loud noise, and makes the log-mel of some little noisy clips worse
DEFAULT_ON = True  # no clean clip of those tried is touched, and noisy ones gain: docs/denoise.md

_HISS_FFT = 2048  # samples of a frame: short enough for the beats of music
_BANDS = 32  # of equal width over the spectrum, in which hiss is looked for
_PARTS = 10  # of the clip, in all of which the floor is the same
_MAX_CHANGE_DB = 0.8  # of a band's floor, as standard deviation over the parts; 0.3 for hiss alone
_MAX_MISFIT_DB = 0.4  # between the spread of a band's quiet frames and the exponential distribution's
_MIN_BANDS = 8  # that hiss must be found in
_LOW_BANDS = 0.25  # quantile of their floors that caps the profile: music raises some, and what is too high takes music

_HUM_FFT = 16_384  # narrow bins: 2 Hz at 32 kHz
_MAINS_HZ = (50.0, 60.0)
_HARMONICS = 10  # of the mains looked at
_MAX_LINE_SPREAD_DB = 4.0  # between a line's 5% and 25% quantiles over time; 7 for hiss
_MIN_LINE_RISE_DB = 6.0  # of a line over the floor beside it
_MIN_LINES = 3  # that hum must be found in; clean music shows 1 at most

_MIN_FRAMES = 20  # of quiet and less quiet ones, for quantiles that mean something
_PROFILE_S = 10  # of noise made for noisereduce
_TINY = 1e-12  # power that is none


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Steady noise found in a clip: mean power in each bin of librosa's transform, all zero where none is found."""

    hiss: np.ndarray
    """float64 (1025,)."""
    hum: np.ndarray
    """float64 (8193,)."""
    snr_db: float
    """What is left of the sound's power over the noise's; infinite where no noise is found."""

    @property
    def opens_gate(self) -> bool:
        """Whether the sound is to be denoised."""
        return self.snr_db < SNR_GATE_DB


def find_noise(audio: np.ndarray, *, sample_rate_hz: int) -> Noise:
    """Look for hiss and hum that are stronger than the gate, and measure them.

    Parameters
    ----------
    audio
        float32 (samples,), mono.
    """
    power, fine_power = _power(audio, _HISS_FFT), _power(audio, _HUM_FFT)
    hiss, hum = _hiss(power), _hum(fine_power, sample_rate_hz)
    left = 1.0
    for profile, of in ((hiss, power), (hum, fine_power)):
        share = profile.sum() / max(of.mean(axis=1).sum(), _TINY) if profile.any() else 0.0
        if share < 10 ** (-SNR_GATE_DB / 10):
            profile[:] = 0
        else:
            left -= share
    snr_db = 10 * np.log10(max(left, 1e-3) / (1 - left)) if left < 1 else np.inf
    return Noise(hiss=hiss, hum=hum, snr_db=float(snr_db))


def denoise(audio: np.ndarray, noise: Noise, *, sample_rate_hz: int, strength: float = STRENGTH) -> np.ndarray:
    """Reduce ``noise`` by ``strength``: 0 keeps all, 1 takes all of what noisereduce takes for it.

    Returns
    -------
    numpy.ndarray
        float32 of the same shape.
    """
    for power, n_fft in ((noise.hum, _HUM_FFT), (noise.hiss, _HISS_FFT)):
        if strength > 0 and power.any():
            import noisereduce  # takes a second, and loads torch where it is installed

            audio = noisereduce.reduce_noise(
                y=audio,
                sr=sample_rate_hz,
                y_noise=noise_like(power, _PROFILE_S * sample_rate_hz),
                stationary=True,
                prop_decrease=strength,
                n_fft=n_fft,
                # Off: a mask smoothed over its default 500 Hz takes the partials of music with the noise between them.
                freq_mask_smooth_hz=None,
                time_mask_smooth_ms=None,
            )
    return np.asarray(audio, dtype=np.float32)


def noise_like(power: np.ndarray, num_samples: int) -> np.ndarray:
    """Make Gaussian noise, always the same, of a mean power in each bin of librosa's transform: float64 (samples,)."""
    white = np.fft.rfft(np.random.default_rng(0).standard_normal(num_samples))
    level = np.interp(np.linspace(0, 1, len(white)), np.linspace(0, 1, len(power)), power)
    window = librosa.filters.get_window("hann", 2 * (len(power) - 1))
    made: np.ndarray = np.fft.irfft(white * np.sqrt(level / np.square(window).sum()), num_samples)
    return made


def _power(audio: np.ndarray, n_fft: int) -> np.ndarray:
    """Power of each bin in half-overlapping frames, digital silence left out: (1 + n_fft / 2, frames)."""
    if len(audio) < n_fft:
        return np.zeros((n_fft // 2 + 1, 0))
    spectrum = stft(audio, n_fft=n_fft, hop=n_fft // 2)
    power = spectrum.real**2 + spectrum.imag**2
    heard: np.ndarray = power[:, power.sum(axis=0) > 1e-6]
    return heard


def _hiss(power: np.ndarray) -> np.ndarray:
    """Find noise of constant level that fills whole bands; mean power of each bin.

    Quantiles of an exponential distribution stand in known ratios, whatever its mean. In bands that music covers, the
    level found elsewhere stands in, unless the band's own floor is lower.
    """
    num_frames = power.shape[1] // _PARTS
    if num_frames < _MIN_FRAMES:
        return np.zeros(len(power))
    bands = power[1:, : num_frames * _PARTS].reshape(_BANDS, -1, _PARTS, num_frames)
    quiet, floor, louder = np.quantile(bands, (0.05, 0.1, 0.25), axis=3).mean(axis=2) + _TINY  # each (band, part)
    change_db = (10 * np.log10(floor)).std(axis=1)
    spread_db = 10 * np.log10(louder.mean(axis=1) / quiet.mean(axis=1))
    expected_db = 10 * np.log10(_exponential_quantile(0.25, num_frames) / _exponential_quantile(0.05, num_frames))
    is_hiss = (change_db < _MAX_CHANGE_DB) & (np.abs(spread_db - expected_db) < _MAX_MISFIT_DB)
    if is_hiss.sum() < _MIN_BANDS:
        return np.zeros(len(power))
    # The median over a band's bins passes over the few that hold a steady tone.
    level = np.median(np.quantile(power[1:], 0.1, axis=1).reshape(_BANDS, -1), axis=1)
    level /= _exponential_quantile(0.1, power.shape[1])
    level = np.minimum(level, np.quantile(level[is_hiss], _LOW_BANDS))
    per_bin = np.repeat(level, (len(power) - 1) // _BANDS)
    return np.concatenate([per_bin[:1], per_bin])


def _exponential_quantile(share: float, num_samples: int) -> float:
    """Mean of numpy's quantile of ``num_samples`` drawn from the exponential distribution of mean 1."""
    order_means = np.cumsum(1 / np.arange(num_samples, 0, -1))
    return float(np.interp(share * (num_samples - 1), np.arange(num_samples), order_means))


def _hum(power: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Find harmonics of the mains that stand at constant level through the clip; mean power of each bin."""
    hum = np.zeros(len(power))
    if power.shape[1] < _MIN_FRAMES:
        return hum
    looked_at = power[: round(_HARMONICS * max(_MAINS_HZ) * _HUM_FFT / sample_rate_hz) + 10]  # with what is beside
    quiet_db, louder_db = 10 * np.log10(np.quantile(looked_at, (0.05, 0.25), axis=1) + _TINY)
    for mains_hz in _MAINS_HZ:
        lines = []
        for harmonic in range(1, _HARMONICS + 1):
            near = round(harmonic * mains_hz * _HUM_FFT / sample_rate_hz)
            line = near - 1 + int(np.argmax(quiet_db[near - 1 : near + 2]))
            beside_db = np.r_[quiet_db[line - 8 : line - 3], quiet_db[line + 4 : line + 9]]
            steady = louder_db[line] - quiet_db[line] < _MAX_LINE_SPREAD_DB
            # What leaks from a tone nearby stands over the median too, but not over the tone.
            rises = quiet_db[line] > max(np.median(beside_db) + _MIN_LINE_RISE_DB, beside_db.max())
            if steady and rises:
                lines.append(line)
        if len(lines) >= _MIN_LINES:
            for line in lines:
                lobe = slice(line - 2, line + 3)  # of the window: a line is five bins wide
                hum[lobe] = 10 ** (louder_db[lobe] / 10)
    return hum
