"""Sounds that tests make for themselves: talk by ffmpeg's synthesiser, and music of plain notes."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.media import ffmpeg_exe

RATE_HZ = 32_000

NEWS = (
    "Good evening and welcome. Tonight we talk with a baker from the old harbour, who has risen before the sun for "
    "thirty years. She tells us how the town has changed, what people ask for now, and why she would not trade her "
    "oven for anything. Then the weather, with wind from the west and some rain toward the morning, and at the end a "
    "word on the trains, which were late again today because of works on the line near the bridge."
)


def talk(voice: str, folder: Path) -> np.ndarray:
    """About 23 s of a read text, at 32 kHz; skips the test where ffmpeg has no voice."""
    target = folder / f"{voice}.wav"
    speaking = ["-f", "lavfi", "-i", f"flite=voice={voice}:text='{NEWS}'", "-ar", str(RATE_HZ), str(target)]
    done = subprocess.run([ffmpeg_exe(), "-y", "-nostdin", "-loglevel", "error", *speaking], check=False)
    if done.returncode:
        pytest.skip("this ffmpeg is built without libflite")
    sound: np.ndarray = soundfile.read(target, dtype="float32")[0]
    return sound


@cache
def note(frequency_hz: float, seconds: float, *, decay_s: float = 0.4, partials: int = 7) -> np.ndarray:
    """A plucked note, float32; with an infinite decay a held one."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = [
        np.sin(2 * np.pi * frequency_hz * k * t) / k * np.exp(-t * k**0.5 / decay_s) for k in range(1, partials + 1)
    ]
    return np.sum(tones, axis=0).astype(np.float32)


def song(seconds: int, seed: int = 0) -> np.ndarray:
    """Broken chords, four notes a second."""
    rng = np.random.default_rng(seed)
    sound = np.zeros((seconds + 3) * RATE_HZ, np.float32)
    for count in range(seconds * 4):
        root_hz = (220.0, 174.6, 261.6, 196.0)[count // 8 % 4] * (1 if count % 2 else 0.5)
        one = note(root_hz * 2 ** (rng.choice([0, 4, 7, 12]) / 12), 3)
        start = count * RATE_HZ // 4
        sound[start : start + len(one)] += 0.1 * one
    return sound[: seconds * RATE_HZ]
