"""Noise reduction that leaves music alone: noisereduce behind a gate.

The paper reduced noise in its unlabelled clips without saying how. Spectral gating takes quiet music for noise, so the
profile is taken from the quietest frames, and clips whose noise floor is low are left as they are. It is off by
default: ``docs/denoise.md`` shows what each strength does to real music.
"""

from __future__ import annotations

import librosa
import numpy as np

_WINDOW = 2048  # samples of a frame
_FLOOR_QUANTILE = 0.05  # of a frequency bin's power over time: what is there even when the music pauses
_QUIET_SHARE = 0.1  # of the frames are taken for the noise profile
SNR_GATE_DB = 0.0  # denoised only where the noise floor is estimated at least as strong as the sound above it
STRENGTH = 0.5  # of the noise taken: the best of those tried where the gate opens on noisy music
DEFAULT_ON = False  # no gate and strength tried keep clean music at 20 dB SDR and help noisy music: docs/denoise.md


def estimate_snr_db(audio: np.ndarray) -> float:
    """Estimate how far the steady noise floor lies below the sound, by minimum statistics (after Martin 2001).

    The floor is the 5% quantile over time of each frequency bin. For noise of constant level the power in a bin is
    exponentially distributed, so that quantile is -ln(0.95) of the mean, which is undone. Digital silence is left out.

    Returns
    -------
    float
        dB; infinite for a silent or perfectly clean clip.
    """
    spectrum = librosa.stft(audio, n_fft=_WINDOW, hop_length=_WINDOW // 2, center=False)
    power = spectrum.real**2 + spectrum.imag**2
    power = power[:, power.sum(axis=0) > 1e-6]
    if power.shape[1] < 10:
        return float("inf")
    floor = np.quantile(power, _FLOOR_QUANTILE, axis=1) / -np.log(1 - _FLOOR_QUANTILE)
    noise, total = float(floor.sum()), float(power.mean(axis=1).sum())
    if noise <= 1e-9 * total:
        return float("inf")
    return float(10 * np.log10(max(total - noise, 1e-3 * total) / noise))


def denoise_if_noisy(audio: np.ndarray, sample_rate_hz: int, *, snr_db: float) -> tuple[np.ndarray, bool]:
    """Denoise a clip if its estimated SNR opens the gate: the sound, and whether it was denoised."""
    if snr_db >= SNR_GATE_DB:
        return audio, False
    return denoise(audio, sample_rate_hz=sample_rate_hz, strength=STRENGTH), True


def quietest(audio: np.ndarray) -> np.ndarray:
    """Concatenate the quietest tenth of the clip's frames, digital silence aside."""
    frames = audio[: len(audio) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    energy = np.square(frames).sum(axis=1)
    audible = np.flatnonzero(energy > 1e-12)
    chosen = audible[np.argsort(energy[audible], kind="stable")][: max(8, round(_QUIET_SHARE * len(audible)))]
    return frames[np.sort(chosen)].reshape(-1)


def denoise(audio: np.ndarray, *, sample_rate_hz: int, strength: float) -> np.ndarray:
    """Reduce steady noise by ``strength`` (0 keeps all, 1 takes all of it), whatever the gate says.

    Parameters
    ----------
    audio
        float32 (samples,), mono.

    Returns
    -------
    numpy.ndarray
        float32 of the same shape.
    """
    import noisereduce  # takes a second, and loads torch where it is installed

    noise = quietest(audio)
    if strength == 0 or len(noise) < 8 * _WINDOW:
        return audio
    cleaned = noisereduce.reduce_noise(
        y=audio, sr=sample_rate_hz, y_noise=noise, stationary=True, prop_decrease=strength, n_fft=_WINDOW, n_jobs=1
    )
    return np.asarray(cleaned, dtype=np.float32)
