"""Talk for the filters' benchmark: clips made of recorded prompts, alone and over music.

    python -m benchmarks.talk --prompts FOLDER --music FOLDER --out FOLDER     writes wavs to listen to

Prompts are the voice of a telephone exchange, as Debian's asterisk-core-sounds-en-wav has it: real speech of 8 kHz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
import tyro

from pipeline.audio import BASE_RATE_HZ
from pipeline.clips import ClipSpan
from pipeline.media import MEDIA_SUFFIXES, decode_clip, probe

CLIP_S = 30
GAPS_S = (0.1, 0.3, 0.6, 1.0)  # between prompts; a clip has one of them, in turn
SHORTEST_S = 1.0  # a prompt: single digits and letters, and most beeps, are shorter
NO_TALK = ("silence", "beep", "2tone", "monkeys")  # in the paths of what is no prompt
LEVEL = 0.1  # RMS of a clip where the voice is heard, of full scale: -20 dB
AUDIBLE_DB = 30  # the voice is heard where 20 ms are at most this far below the loudest 20 ms
BLOCK = BASE_RATE_HZ // 50  # samples of 20 ms


def read(file: Path) -> np.ndarray:
    """One sound file, mono at 32 kHz."""
    sound, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(sound.mean(axis=1), rate_hz, BASE_RATE_HZ), np.float32)


def heard_rms(sound: np.ndarray) -> float:
    """RMS of the blocks in which something is heard: pauses do not count."""
    blocks = sound[: len(sound) // BLOCK * BLOCK].reshape(-1, BLOCK)
    power = np.square(blocks, dtype=np.float64).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() / 10 ** (AUDIBLE_DB / 10)].mean()))


def talk_clips(folder: Path, n: int, seed: int) -> list[np.ndarray]:
    """Make clips of talk from a folder of prompts.

    Returns
    -------
    list of np.ndarray, float32 (960000,)
        30 s, mono, 32 kHz; prompts in random order with equal pauses, 0.1 to 1 s by clip; -20 dB where there is voice.
    """
    rng = np.random.default_rng(seed)
    files = sorted(folder.rglob("*.wav"))
    named = [file for file in files if not any(word in str(file.relative_to(folder)) for word in NO_TALK)]
    prompts = [file for file in named if soundfile.info(file).duration >= SHORTEST_S]
    length = CLIP_S * BASE_RATE_HZ
    clips = []
    for number in range(n):
        gap = np.zeros(round(GAPS_S[number % len(GAPS_S)] * BASE_RATE_HZ), np.float32)
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < length:
            prompt = read(prompts[rng.integers(len(prompts))])
            parts += [prompt * (LEVEL / heard_rms(prompt)), gap]
        clips.append(np.clip(np.concatenate(parts)[:length], -1, 1))
    return clips


def over_music(speech: np.ndarray, music: np.ndarray, snr_db: float) -> np.ndarray:
    """Lay talk over music.

    Parameters
    ----------
    speech, music
        float32, mono, 32 kHz. Music is cut to the talk's length, or repeated.
    snr_db
        Level of the voice, where it is heard, above the level of the music, in dB.

    Returns
    -------
    np.ndarray, float32
        The sum, at most 0.9 of full scale.
    """
    music = np.resize(music, len(speech)).astype(np.float32)
    mixed = speech + music * (heard_rms(speech) / max(heard_rms(music), 1e-9) / 10 ** (snr_db / 20))
    return np.asarray(mixed * min(1, 0.9 / np.abs(mixed).max()), np.float32)


def write(sound: np.ndarray, target: Path) -> None:
    """Write a clip as a wav of 16 bits."""
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, sound, BASE_RATE_HZ, subtype="PCM_16")


def heard(file: Path) -> np.ndarray:
    """The first 30 s of a media file's sound, as the pipeline decodes it."""
    sound = decode_clip(file, ClipSpan(start_s=0), probe(file), modality="audio").audio
    assert sound is not None
    return sound


def main(prompts: Path, music: Path, out: Path, n: int = 8, seed: int = 0) -> None:
    """Write clips of talk, alone and over music 6 dB quieter.

    Args:
        prompts: Folder of wavs with talk.
        music: Folder of music, or of music videos.
        out: Folder to write to.
        n: How many of each.
        seed: Of the draw.
    """
    songs = sorted(file for file in music.rglob("*") if file.suffix in MEDIA_SUFFIXES)
    rng = np.random.default_rng(seed)
    for number, clip in enumerate(talk_clips(prompts, n, seed)):
        write(clip, out / f"talk-{number:03d}.wav")
        song = songs[rng.integers(len(songs))]
        write(over_music(clip, heard(song), 6), out / f"talk-{number:03d}-over-{song.stem}.wav")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.talk", description=__doc__)
