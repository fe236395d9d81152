"""What frames stored as JPEG cost and save, beside lossless ones: bytes, error, CPU time.

    python -m benchmarks.frames --media FOLDER --count 42

Frames of 30 s of each clip, as a build takes them, encoded at several qualities with colour at full resolution
(4:4:4, what ``pipeline.sheet`` stores) and halved (4:2:0); errors are against the lossless frames. Times of encoding
and decoding are CPU ms of one thread, the fastest of some rounds of each clip; table and file give medians over clips,
and quartiles. How fast sets of either are read: ``benchmarks.reading``.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # as in a worker

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torchvision.io import decode_jpeg

from benchmarks.environment import environment
from benchmarks.measure import spread
from pipeline.prepare import Recipe, prepare
from pipeline.schema import SHEET, Sample, decode, encode
from pipeline.sheet import decode_sheet
from pipeline.sources import list_sources

RESULT = Path(__file__).with_name("results") / "frames.json"
QUALITIES = (75, 85, 90, 95)
TRIES = 3  # of each clip's encoding and decoding
COLUMNS = ("bytes", "psnr_db", "mean_error", "encode_ms", "decode_ms", "torchvision_ms")

Spread = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path
    """Folder of videos of 30 s or more."""
    count: int = 42
    """Clips taken of it, evenly."""


def main(config: Config) -> None:
    torch.set_num_threads(1)
    found = list_sources(str(config.media), labels=None)
    sources = [found[i * len(found) // config.count] for i in range(min(config.count, len(found)))]
    outcomes = [prepare(source, recipe=Recipe(), seed=0) for source in sources]
    frames = [outcome.arrays["frames"] for outcome in outcomes if isinstance(outcome, Sample)]
    forms = {"npy": spreads([lossless(one) for one in frames])}
    for colour, subsampling in (("4:4:4", 0), ("4:2:0", 2)):
        for quality in QUALITIES:
            forms[f"jpeg {quality} {colour}"] = spreads([lossy(one, quality, subsampling) for one in frames])
    report = {"clips": len(frames), "frames": forms, "environment": environment()}
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    show(forms)


# --- one clip --------------------------------------------------------------------------------------------------------


def cpu_ms(function: Callable[[], object]) -> float:
    """CPU ms of the fastest try."""
    times = []
    for _ in range(TRIES):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return 1000 * min(times)


def lossless(frames: np.ndarray) -> Spread:
    sample = Sample(key="a_00000000_00000000", arrays={"frames": frames}, label=None, meta={})
    record = encode(sample)
    return {
        "bytes": len(record["frames.npy"]),
        "mean_error": 0.0,
        "encode_ms": cpu_ms(lambda: encode(sample)),
        "decode_ms": cpu_ms(lambda: decode(record, ["frames"])),
    }


def lossy(frames: np.ndarray, quality: int, subsampling: int) -> Spread:
    """What one quality makes of a clip; other colour than ours is encoded by Pillow alone, at the same layout."""
    sheet = frames.reshape(8, 8, 128, 128, 3).swapaxes(1, 2).reshape(1024, 1024, 3)

    def encoded() -> bytes:
        target = io.BytesIO()
        Image.fromarray(sheet).save(target, "JPEG", quality=quality, subsampling=subsampling)
        return target.getvalue()

    raw = encoded()
    if subsampling == 0:
        sample = Sample(key="a_00000000_00000000", arrays={"frames": frames}, label=None, meta={})
        assert raw == encode(sample, jpeg_quality=quality)[SHEET]
    back = decode_sheet(raw, frames.shape)
    data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)

    def by_torchvision() -> torch.Tensor:
        grid = decode_jpeg(data).permute(1, 2, 0).reshape(8, 128, 8, 128, 3)
        return grid.swapaxes(1, 2).reshape(64, 128, 128, 3)

    assert np.array_equal(by_torchvision().numpy(), back), "torchvision's decoder and Pillow's differ"
    error = np.abs(back.astype(np.int16) - frames)
    squared = float(np.square(error, dtype=np.float64).mean())
    return {
        "bytes": len(raw),
        "psnr_db": float(10 * np.log10(255**2 / squared)) if squared else float("inf"),
        "mean_error": float(error.mean()),
        "encode_ms": cpu_ms(encoded),
        "decode_ms": cpu_ms(lambda: decode_sheet(raw, frames.shape)),
        "torchvision_ms": cpu_ms(by_torchvision),
    }


def spreads(clips: Sequence[Spread]) -> dict[str, Spread]:
    return {name: spread([clip[name] for clip in clips]) for name in COLUMNS if name in clips[0]}


# --- words -----------------------------------------------------------------------------------------------------------


def show(forms: dict[str, dict[str, Spread]]) -> None:
    print("frames           " + "".join(f"{name:>22}" for name in COLUMNS))
    for form, columns in forms.items():
        cells = [words(columns[name]) if name in columns else "" for name in COLUMNS]
        print(f"{form:<17}" + "".join(f"{cell:>22}" for cell in cells))


def words(one: Spread) -> str:
    if "quarter" not in one or one["quarter"] == one["three_quarters"]:
        return f"{one['median']:,.0f}"
    digits = 0 if one["median"] >= 100 else 2 if one["median"] < 10 else 1
    return f"{one['median']:,.{digits}f} ({one['quarter']:,.{digits}f}-{one['three_quarters']:,.{digits}f})"


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.frames", description=__doc__))
