"""What denoising does to real music: SDR by strength, on clean clips and with white noise added.

    python -m benchmarks.denoise FOLDER     writes benchmarks/results/denoise.json, prints the table of docs/denoise.md

SDR is the power of the clean sound over that of the difference to it, in dB; on a clean clip higher is better and 20 dB
is wanted; on a noisy clip the figure is the gain over leaving the noise in.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from pipeline import denoise, media
from pipeline.clips import ClipSpan

STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.9)
ADDED_SNR_DB = (0, 5, 10, 20)
RATE_HZ = 32_000
RESULT = Path(__file__).parent / "results" / "denoise.json"


def sdr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10(np.square(reference).sum() / max(np.square(reference - estimate).sum(), 1e-12)))


def with_white_noise(audio: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(len(audio)).astype(np.float32)
    return audio + noise * np.sqrt(np.square(audio).mean() / np.square(noise).mean() / 10 ** (snr_db / 10))


def measure(audio: np.ndarray, snr_db: float | None, rng: np.random.Generator) -> dict[str, float]:
    """SDR by strength; for a noisy clip as gain over the noisy clip. ``snr`` is the estimate the gate sees."""
    heard = audio if snr_db is None else with_white_noise(audio, snr_db, rng)
    base = 0.0 if snr_db is None else sdr_db(audio, heard)
    row = {"snr": denoise.estimate_snr_db(heard)}
    for strength in STRENGTHS:
        cleaned = denoise.denoise(heard, sample_rate_hz=RATE_HZ, strength=strength)
        row[f"{strength:g}"] = sdr_db(audio, cleaned) - base
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    files = sorted(p for p in folder.rglob("*") if p.suffix in media.MEDIA_SUFFIXES)
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, float]]] = {"clean": [], **{f"{snr} dB": [] for snr in ADDED_SNR_DB}}
    for file in files:
        audio = media.decode_clip(file, ClipSpan(start_s=0.0), media.probe(file), modality="audio").audio
        assert audio is not None
        for name, snr_db in zip(rows, (None, *ADDED_SNR_DB), strict=True):
            rows[name].append(measure(audio, snr_db, rng))
    lines = ["| sound | estimated SNR | gate opens | " + " | ".join(f"strength {s:g}" for s in STRENGTHS) + " |"]
    lines.append("|---|---|---|" + "---|" * len(STRENGTHS))
    for name, measured in rows.items():
        snr = np.array([row["snr"] for row in measured])
        opens = f"{int((snr < denoise.SNR_GATE_DB).sum())} of {len(snr)}"
        cells = [np.array([row[f"{s:g}"] for row in measured]) for s in STRENGTHS]
        shown = " | ".join(f"{np.median(c):+.1f} ({c.min():+.1f})" for c in cells)
        lines.append(f"| {name} | {np.median(snr):.1f} ({snr.min():.1f} to {snr.max():.1f}) | {opens} | {shown} |")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), "files": len(files), "rows": rows}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
