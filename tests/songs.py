"""A small song, made by additive synthesis: chords, a broken chord above them, a drum and a rattle. It is music."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

RATE_HZ = 32_000
BEAT_S = 0.5
ROOTS = (0, -3, 5, 7)  # semitones of the four bars' chords


def song(seconds: float, *, seed: int = 0) -> np.ndarray:
    """Float32 (seconds * 32,000,), mono; another seed gives another key, order of notes and rhythm."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(int(seconds * RATE_HZ), np.float32)
    key_hz = 110 * 2 ** (rng.integers(12) / 12)
    order, strong = rng.permutation(8) % 4, rng.random(8) < 0.5
    for bar in range(int(seconds / (4 * BEAT_S)) + 1):
        start_s = 4 * BEAT_S * bar
        chord_hz = [key_hz * 2 ** ((ROOTS[bar % 4] + step) / 12) for step in (0, 4, 7, 12)]
        for hz in chord_hz[:3]:
            _add(sound, start_s, _note(hz, 4 * BEAT_S, 0.1))
        for half_beat in range(8):
            at_s = start_s + half_beat * BEAT_S / 2
            _add(sound, at_s, _note(2 * chord_hz[order[half_beat]], 1.2 * BEAT_S, 0.12))
            _add(sound, at_s, _drum() if strong[half_beat] else _rattle(rng))
    return np.clip(sound, -1, 1)


def write_song(path: Path, seconds: float, *, seed: int = 0) -> Path:
    """Write a song as a wave file of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.round(song(seconds, seed=seed) * 32767).astype("<i2").tobytes())
    return path


def _add(sound: np.ndarray, at_s: float, part: np.ndarray) -> None:
    first = int(at_s * RATE_HZ)
    room = sound[first : first + len(part)]
    room += part[: len(room)]


def _times(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE_HZ)) / RATE_HZ


def _note(hz: float, seconds: float, amplitude: float) -> np.ndarray:
    t = _times(seconds)
    partials = sum(np.sin(2 * np.pi * hz * k * t) / k**1.5 for k in range(1, 7))
    return (amplitude * partials * np.exp(-3 * t / seconds) * np.minimum(1, t / 0.005)).astype(np.float32)


def _drum() -> np.ndarray:
    t = _times(0.15)
    return (0.4 * np.sin(2 * np.pi * (60 + 80 * np.exp(-40 * t)) * t) * np.exp(-25 * t)).astype(np.float32)


def _rattle(rng: np.random.Generator) -> np.ndarray:
    t = _times(0.15)
    return (0.15 * rng.standard_normal(len(t)) * np.exp(-30 * t)).astype(np.float32)
