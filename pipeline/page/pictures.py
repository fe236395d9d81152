"""Frames, mel and phase as pictures that stand in the page itself, as ``data:`` URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import librosa
import matplotlib
import numpy as np
from PIL import Image

from pipeline.page.charts import Tick, minus, nice_numbers
from pipeline.schema import CLIP_S, HOP, NUM_MELS, SAMPLE_RATES_HZ, SLOW_STRIDE

FRAME_PX = 96  # of a frame of the slow pathway as shown
JPEG_QUALITY = 80
RANGE_DB = 80.0  # shown below the clip's loudest bin
NUM_COLORS = 64  # of a spectrogram: half the bytes of 256, and nobody sees it
PHASE_S = (10.0, 15.0)  # shown of the phase: over 30 s a column is less than a pixel, and all looks like noise
MAX_THUMBNAIL_BYTES = 100_000  # ours take about 6 KB; an index may come from anywhere
MAX_THUMBNAIL_PX = 4096

WIDE, NARROW = 720.0, 440.0  # widths of the drawings of 30 s and of 5 s
LEFT, MARGIN, TOP, BOTTOM, HEIGHT = 52.0, 8.0, 6.0, 134.0, 156.0  # units of the drawing: about a pixel
HERTZ = (500, 1_000, 2_000, 4_000, 8_000, 12_000)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as the page takes it."""

    uri: str
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class Spectrogram:
    """One channel of one array, with its axes."""

    title: str
    picture: Picture
    words: str
    """What is seen, for those who do not see it."""
    scale: str
    """What dark and bright stand for."""
    width: float
    """Of the drawing."""
    times: list[Tick]
    hertz: list[tuple[float, str]]
    """Height in the drawing, and frequency."""


def jpeg(image: Image.Image) -> Picture:
    """A photograph."""
    target = io.BytesIO()
    image.save(target, "JPEG", quality=JPEG_QUALITY)
    return _picture("jpeg", target.getvalue(), image.size)


def stored_thumbnail(data: bytes | None) -> Picture | None:
    """The JPEG of an index, if it is one."""
    if not data or len(data) > MAX_THUMBNAIL_BYTES:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:  # reads the head alone
            size = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return _picture("jpeg", data, size) if max(size) <= MAX_THUMBNAIL_PX else None


def slow_frames(frames_THWC: np.ndarray) -> list[Picture]:
    """The 8 frames of the slow pathway as it sees them: square, whatever the video was."""
    return [
        jpeg(Image.fromarray(frame).resize((FRAME_PX, FRAME_PX), Image.Resampling.LANCZOS))
        for frame in frames_THWC[::SLOW_STRIDE]
    ]


def mel_picture(name: str, array: np.ndarray) -> Spectrogram:
    """Log-mel power, from 80 dB below the clip's loudest bin up to it."""
    level = array[0].astype(np.float32)
    top = float(level.max())
    kilohertz = SAMPLE_RATES_HZ[name] / 1000
    return _spectrogram(
        level,
        name=name,
        low=top - RANGE_DB,
        high=top,
        colors="magma",
        title="Log-mel power",
        words=f"Log-mel power at {kilohertz:g} kHz over 30 s",
        scale=minus(f"from {round(top - RANGE_DB)} dB, dark, to {round(top)} dB, bright"),
        span_s=(0.0, float(CLIP_S)),
        width=WIDE,
    )


def phase_picture(name: str, array: np.ndarray, *, phase: str) -> Spectrogram:
    """Phase, five seconds of it. The projected one differs in size from band to band: each has its own scale."""
    rate_hz = SAMPLE_RATES_HZ[name]
    first, last = (round(second * rate_hz / HOP) for second in PHASE_S)
    angle = array[1, :, first:last].astype(np.float32)
    if phase == "angle":
        limit, scale, colors = float(np.pi), "the circle of colours goes once round, from −π to π", "twilight"  # noqa: RUF001
    else:
        spread = angle.std(axis=1, keepdims=True)
        angle = np.divide(angle, spread, out=np.zeros_like(angle), where=spread > 0)
        limit, scale, colors = 2.5, "blue is below 0, red above, each band by its own spread", "RdBu_r"
    return _spectrogram(
        angle,
        name=name,
        low=-limit,
        high=limit,
        colors=colors,
        title=f"Phase ({phase})",
        words=f"Phase at {rate_hz / 1000:g} kHz, seconds {PHASE_S[0]:g} to {PHASE_S[1]:g}",
        scale=scale,
        span_s=PHASE_S,
        width=NARROW,
    )


def _spectrogram(
    values: np.ndarray,
    *,
    name: str,
    low: float,
    high: float,
    colors: str,
    title: str,
    words: str,
    scale: str,
    span_s: tuple[float, float],
    width: float,
) -> Spectrogram:
    steps = np.clip((values[::-1] - low) / (high - low) * NUM_COLORS, 0, NUM_COLORS - 1).astype(np.uint8)
    palette = matplotlib.colormaps[colors](np.linspace(0, 1, NUM_COLORS))[:, :3]
    image = Image.fromarray(steps, "P")
    image.putpalette(np.round(palette * 255).astype(np.uint8).tobytes())
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return Spectrogram(
        title=title,
        picture=_picture("png", target.getvalue(), image.size),
        words=words,
        scale=scale,
        width=width,
        times=[_time(second, span_s, width) for second in nice_numbers(*span_s)],
        hertz=[
            (height_of(hz, name), f"{hz / 1000:g}k" if hz >= 1000 else str(hz))
            for hz in HERTZ
            if hz < SAMPLE_RATES_HZ[name] / 2
        ],
    )


def _time(second: float, span_s: tuple[float, float], width: float) -> Tick:
    share = (second - span_s[0]) / (span_s[1] - span_s[0])
    x = LEFT + (width - MARGIN - LEFT) * share
    return Tick(round(x, 2), f"{second:g} s", "end" if share == 1 else "middle")


def height_of(hz: float, name: str) -> float:
    """Where in the drawing a frequency lies: bands are spaced evenly in mel, from 0 to half the rate."""
    highest = float(librosa.hz_to_mel(SAMPLE_RATES_HZ[name] / 2))
    band = float(librosa.hz_to_mel(hz)) / highest * (NUM_MELS + 1) - 0.5  # edges of the picture: 0 and 128
    return round(BOTTOM - (BOTTOM - TOP) * band / NUM_MELS, 2)


def _picture(kind: str, data: bytes, size: tuple[int, int]) -> Picture:
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(uri=uri, width_px=size[0], height_px=size[1])
