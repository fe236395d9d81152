"""Copies of real clips for the benchmark of fingerprints, changed as those do who upload a song or video again.

And clips that are copies of nothing: as many as wanted, made of the fingerprints of real ones.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
from PIL import Image

from pipeline import media
from pipeline.audio import BASE_RATE_HZ
from pipeline.clips import ClipSpan
from pipeline.fingerprint import FLAT_LEVELS, PICTURE
from pipeline.slices import Kind

CODECS = {
    "mp3, 64 kbit/s": ("mp3", "-c:a", "libmp3lame", "-b:a", "64k"),
    "aac, 48 kbit/s": ("m4a", "-c:a", "aac", "-b:a", "48k"),
    "opus, 24 kbit/s": ("webm", "-c:a", "libopus", "-b:a", "24k"),
}
SHIFTS = (-5, -2, 2, 5)  # per cent of tempo or pitch; a semitone is 6
SMALL, SMALL_FPS = "scale=320:180", 10  # copies are made and coded at this size and rate
PICTURES = {
    "180 lines, 10 a second, H.264 at crf 32": "null",
    "cropped by 5%": "crop=iw*.95:ih*.95,scale=320:180",
    "cropped by 10%": "crop=iw*.9:ih*.9,scale=320:180",
    "cropped by 10%, one corner kept": "crop=iw*.9:ih*.9:0:0,scale=320:180",
    "letterboxed": "pad=iw:ih*4/3:0:(oh-ih)/2",
    "mirrored": "hflip",
    "brighter, more contrast": "eq=brightness=.1:contrast=1.2",
    "graded: warm, saturated, gamma 0.8": "colorbalance=rs=.2:bs=-.2,eq=saturation=1.5:gamma=.8",
    "black and white": "hue=s=0",
    "subtitles": (
        "drawtext=text='la la la, and on it goes':fontsize=16:fontcolor=white:borderw=1:"
        "x=(w-tw)/2:y=h-26:enable='lt(mod(t,3),2)'"
    ),
    "a logo of 1% of the picture": "drawbox=x=280:y=10:w=30:h=19:color=white:t=fill",
    "a white box of 3% of the picture": "drawbox=x=250:y=10:w=60:h=30:color=white:t=fill",
}
SHARED_S = (20, 15, 12, 10, 8)
GRID_S = 30 / 64  # between frames
WINDOWS = (40, 64)  # of 64 pixels: the least and most of a picture that a made-up clip shows
PIECE_FRAMES = (2, 8)  # of one shot, in a made-up clip: shortest and longest


def ffmpeg(*args: str, given: bytes = b"") -> None:
    command = [media.ffmpeg_exe(), "-y", "-nostdin", "-loglevel", "error", "-threads", "1", "-filter_threads", "1"]
    subprocess.run([*command, *args], input=given, check=True)


def heard(path: Path) -> np.ndarray:
    sound = media.decode_clip(path, ClipSpan(start_s=0), media.probe(path), modality="audio").audio
    assert sound is not None
    return sound


def seen(path: Path, start_s: float = 0.0) -> np.ndarray:
    frames = media.decode_clip(path, ClipSpan(start_s=start_s), media.probe(path), modality="video").frames_THWC
    assert frames is not None
    return frames


def sounds(sound: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, float]]:
    """The sound, changed, and how many seconds of it that is: coded, at another level, its end, and shifted."""
    whole_s = len(sound) / BASE_RATE_HZ
    raw = ("-f", "f32le", "-ar", str(BASE_RATE_HZ), "-ac", "1", "-i", "pipe:0")
    coded = sound
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [(Path(scratch, f"x.{suffix}"), settings) for suffix, *settings in CODECS.values()]
        ffmpeg(*raw, *(word for file, words in outputs for word in (*words, str(file))), given=sound.tobytes())
        for case, (file, _) in zip(CODECS, outputs, strict=True):
            coded = heard(file)
            yield case, coded, whole_s
        shifts = {}
        for percent in SHIFTS:
            factor = 1 + percent / 100
            shifts[f"tempo {percent:+}%"] = f"atempo={factor}"
            resampled = f"asetrate={BASE_RATE_HZ * factor:.0f},aresample={BASE_RATE_HZ}"
            shifts[f"pitch {percent:+}%"] = f"{resampled},atempo={1 / factor:.5f}"
        files = [Path(scratch, str(n)) for n in range(len(shifts))]
        targets = [
            word
            for graph, file in zip(shifts.values(), files, strict=True)
            for word in ("-af", graph, "-f", "f32le", "-ar", str(BASE_RATE_HZ), "-t", "30", str(file))
        ]
        ffmpeg(*raw, *targets, given=sound.tobytes())
        for case, file in zip(shifts, files, strict=True):
            yield case, np.fromfile(file, "<f4"), whole_s
    yield "26 dB quieter", sound / 20, whole_s
    yield "6 dB louder, clipped", np.clip(sound * 2, -1, 1), whole_s
    narrow = soxr.resample(soxr.resample(sound, BASE_RATE_HZ, 11_025), 11_025, BASE_RATE_HZ)
    yield "11 kHz and back", narrow, whole_s
    loudness = np.sqrt(np.square(sound).mean())
    noise = loudness / 10 * rng.standard_normal(len(sound)).astype(np.float32)
    yield "white noise at 20 dB", sound + noise, whole_s
    for shared_s in SHARED_S:
        kept = round((shared_s + rng.uniform(0, 0.124)) * BASE_RATE_HZ)
        yield f"{shared_s} s shared, opus", coded[-kept:], kept / BASE_RATE_HZ


def films(path: Path, duration_s: float, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, float]]:
    """The picture, changed and coded anew, and how many seconds of it that is."""
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch, "small.mkv")
        ffmpeg("-t", "30", "-i", str(path), "-an", "-vf", f"{SMALL},fps={SMALL_FPS}", "-c:v", "rawvideo", str(small))
        split = f"[0:v]split={len(PICTURES)}" + "".join(f"[i{n}]" for n in range(len(PICTURES)))
        changes = [f"[i{n}]{change},format=yuv420p[o{n}]" for n, change in enumerate(PICTURES.values())]
        files = [Path(scratch, f"{n}.mp4") for n in range(len(PICTURES))]
        coded = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "32", "-threads", "1"]
        targets = [word for n, file in enumerate(files) for word in ("-map", f"[o{n}]", *coded, str(file))]
        ffmpeg("-i", str(small), "-filter_complex", ";".join([split, *changes]), *targets)
        for case, file in zip(PICTURES, files, strict=True):
            yield case, seen(file), duration_s
        for percent in SHIFTS:
            other = Path(scratch, f"tempo{percent}.mp4")
            ffmpeg("-itsscale", str(1 / (1 + percent / 100)), "-i", str(files[0]), "-c", "copy", str(other))
            yield f"tempo {percent:+}%", seen(other), duration_s
        for shared_s in SHARED_S:
            start_s = round(duration_s - shared_s - rng.uniform(0, GRID_S), 3)
            yield f"{shared_s} s shared", seen(files[0], start_s), duration_s - start_s


def made_up_sounds(prints: Sequence[np.ndarray], kind: Kind, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Clips no one has heard: each bit's course over time is that of a real clip drawn for that bit."""
    length = max(map(len, prints))
    whole = np.stack([items for items in prints if len(items) == length])
    bits = ((whole[:, :, None] >> np.arange(kind.bits, dtype=whole.dtype)) & whole.dtype.type(1)).astype(np.uint8)
    rng = np.random.default_rng(seed)
    for first in range(0, count, 1000):
        drawn = bits[rng.integers(len(bits), size=(min(1000, count - first), kind.bits)), :, np.arange(kind.bits)]
        packed = np.packbits(drawn.transpose(0, 2, 1), axis=2, bitorder="little")
        for items in np.ascontiguousarray(packed).view(kind.dtype)[:, :, 0]:
            yield np.roll(items, int(rng.integers(length)))


def made_up_films(films_NTHWC: Sequence[np.ndarray], count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Clips no one has seen: pieces of the shots of real ones, each through a window of its own, perhaps mirrored.

    So their hashes are as unequally distributed as those of real pictures, which decides what a lookup costs.
    """
    table = _windowed_hashes(films_NTHWC)  # film, frame, window
    rng = np.random.default_rng(seed)
    num_films, num_frames, num_windows = table.shape
    shortest, longest = PIECE_FRAMES
    for _ in range(count):
        lengths = rng.integers(shortest, longest + 1, num_frames // shortest)
        pieces = np.repeat(np.arange(len(lengths)), lengths)[:num_frames]
        within = np.arange(num_frames) - np.searchsorted(pieces, pieces)
        film = rng.integers(0, num_films, len(lengths))[pieces]
        frame = rng.integers(0, num_frames - longest, len(lengths))[pieces] + within
        hashes = table[film, frame, rng.integers(0, num_windows, len(lengths))[pieces]]
        turned = (rng.random(len(lengths)) < 0.5)[pieces] & (hashes != 0)
        yield np.where(turned, hashes ^ PICTURE.dtype.type(PICTURE.mirror_bits), hashes)


def _windowed_hashes(films_NTHWC: Sequence[np.ndarray]) -> np.ndarray:
    """PHash of every frame through every window: uint64 (films, frames, windows); of frames of 64 x 64 pixels."""
    side = 64
    cosines = np.cos(np.pi * (np.arange(32) + 0.5) * np.arange(8)[:, None] / 32)
    windows = []  # from a window to the 8 lowest cosines of the 32 pixels that it is scaled to
    for width in range(WINDOWS[0], WINDOWS[1] + 1, 3):
        for first in range(0, side - width + 1, 4):
            pixels = Image.fromarray(np.eye(width, dtype=np.float32)).resize((width, 32), Image.Resampling.LANCZOS)
            lowest = np.matmul(cosines, np.asarray(pixels, np.float64))
            windows.append(np.pad(lowest, ((0, 0), (first, side - width - first))))
    across = np.concatenate(windows).astype(np.float32)
    table = np.zeros((len(films_NTHWC), max(map(len, films_NTHWC)), len(windows) ** 2), PICTURE.dtype)
    for n, frames in enumerate(films_NTHWC):
        for t, frame in enumerate(frames):
            grey = Image.fromarray(frame).convert("L").resize((side, side), Image.Resampling.BOX)
            levels = np.asarray(grey, np.float32)
            if levels.std() >= FLAT_LEVELS:
                lowest = (across @ levels @ across.T).reshape(len(windows), 8, len(windows), 8)
                lowest = lowest.transpose(0, 2, 1, 3).reshape(-1, 64)
                bits = lowest > np.median(lowest, axis=1, keepdims=True)
                table[n, t] = np.packbits(bits, axis=1).view(">u8")[:, 0]
    return table
