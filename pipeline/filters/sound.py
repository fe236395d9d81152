"""Is anything to be heard? Silence, clipping, and one held tone.

All four scores are read off frames of an eighth of a second. ``docs/filters.md`` has the evidence for their limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.fft import rfft

from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict

FRAME_S = 0.128
SILENT_DB = -60.0  # RMS of a frame, of full scale, below which nothing is heard
LOWEST_DB = -120.0  # told of digital silence, and of no sound at all

_DAMAGED = 8.0  # amplitude that no sound has, 18 dB over full scale
_FAINTEST = 1e-6  # amplitude, -120 dB

_STEPS = 16  # of amplitude, equal, up to the clip's peaks; finer ones take square waves for clipping
_FOOT = 3  # steps beyond which the histogram must have fallen
_PEAK_QUANTILE = 0.99  # of the frames' peaks: a click is no peak of the clip
_TONE_HZ = 20.0  # what is lower is no tone
_SAME = 0.95  # cosine between a frame's spectrum and the clip's, from which it is the same tone
_SAME_DB = 1.5  # of its level: what is struck or plucked fades by more


def scores(audio: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Score a clip's sound.

    Parameters
    ----------
    audio
        float32 (samples,), mono, not denoised; any length. What is no number counts as 0.
    rate_hz
        Of ``audio``.

    Returns
    -------
    dict
        ``loudness_db``: RMS of the clip, dB of full scale, -120 at least (a sine at full scale has -3);
        ``silent_share`` of its time; ``clipped_share`` of its samples; ``tone_share`` of the time in which something
        sounds: one steady tone, chord or hum, the same all along, and nothing else.
    """
    size = round(FRAME_S * rate_hz)
    sound = np.clip(np.nan_to_num(audio), -_DAMAGED, _DAMAGED)
    frames_TS = sound[: len(sound) // size * size].reshape(-1, size)
    if not len(frames_TS):
        return {"loudness_db": LOWEST_DB, "silent_share": 1.0, "clipped_share": 0.0, "tone_share": 0.0}
    power = frames_TS.var(axis=1, dtype=np.float64)
    level_db = np.array([_db(one) for one in power])
    heard = level_db >= SILENT_DB
    found = {
        "loudness_db": _db(power.mean()),
        "silent_share": 1 - heard.mean(),
        "clipped_share": clipped_share(frames_TS),
        "tone_share": tone_share(frames_TS[heard], level_db[heard], rate_hz),
    }
    return {name: round(float(score), 4) for name, score in found.items()}


def clipped_share(frames_TS: np.ndarray) -> float:
    """Share of samples that clipping has piled up at one amplitude.

    In a sound that is whole, the larger an amplitude is the rarer it is. What is clipped crowds at the limit, and still
    does so after a change of volume or rate and lossy coding, where no two samples in a row are equal any more. So what
    is counted lies above a histogram that may only fall. A plain tone crowds at its peaks too: there the histogram
    rises from the start, and what has not fallen first does not count.
    """
    amplitude = np.abs(frames_TS)
    peak = float(np.quantile(amplitude.max(axis=1), _PEAK_QUANTILE))
    if peak < _FAINTEST:
        return 0.0
    step = np.minimum(amplitude * ((_STEPS - 1e-3) / peak), _STEPS).astype(np.int64).ravel()
    counts = np.bincount(step, minlength=_STEPS)[:_STEPS]
    falling = np.minimum.accumulate(counts)
    fallen = falling < counts[:_FOOT].min()
    return float((counts - falling)[fallen].sum() / amplitude.size)


def tone_share(frames_TS: np.ndarray, level_db: np.ndarray, rate_hz: int) -> float:
    """Share of frames that have the spectrum and the level which the clip has all along.

    Noise does not: its spectrum of one frame differs from the mean by a cosine of 0.9 (amplitudes of a Rayleigh
    distribution).
    """
    if not len(frames_TS):
        return 0.0
    size = frames_TS.shape[1]
    spectrum_TF = np.abs(rfft(frames_TS * np.hanning(size).astype(np.float32), axis=1))
    spectrum_TF[:, : int(_TONE_HZ * size / rate_hz) + 1] = 0
    spectrum_TF /= np.linalg.norm(spectrum_TF, axis=1, keepdims=True) + 1e-12
    usual_F = spectrum_TF.mean(axis=0)
    same = spectrum_TF @ usual_F >= _SAME * np.linalg.norm(usual_F)
    return float((same & (np.abs(level_db - np.median(level_db)) <= _SAME_DB)).mean())


def verdicts(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """What is to be said against a clip."""
    loudness_db, silent = scores.get("loudness_db"), scores.get("silent_share")
    if loudness_db is not None and loudness_db < thresholds.loudness:
        yield Verdict("silent", f"loudness {loudness_db:.0f} dB, {thresholds.loudness:.0f} at least")
    if silent is not None and silent > thresholds.silence:
        yield Verdict("silent", f"silence for {silent:.0%} of the time, {thresholds.silence:.0%} at most")
    tone, clipped = scores.get("tone_share"), scores.get("clipped_share")
    if tone is not None and tone > thresholds.tone:
        yield Verdict("tone", f"one steady tone for {tone:.0%} of the sound, {thresholds.tone:.0%} at most")
    if clipped is not None and clipped > thresholds.clipping:
        yield Verdict("clipped", f"{clipped:.1%} of the samples clipped, {thresholds.clipping:.1%} at most")


def _db(power: float) -> float:
    return 10 * float(np.log10(max(power, 10 ** (LOWEST_DB / 10))))
