"""How far stored features are from those computed in independent ways, on real clips.

    python -m benchmarks.fidelity --shards shards/mved --source FOLDER

It writes benchmarks/results/fidelity.json.

Sound: librosa's one-liner, and an FFT of explicitly cut frames in float64, on the samples that ffmpeg decoded.
Frames: PyAV decodes the whole file, the frame is chosen by its timestamp and scaled by PyAV; a stored frame must be
nearer to it than to its neighbours, unless they look the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import av
import librosa
import numpy as np
import tyro
from webdataset.tariterators import group_by_keys, tar_file_expander

from benchmarks.environment import environment
from pipeline import audio, media
from pipeline.clips import ClipSpan
from pipeline.schema import HOP, N_FFT, NUM_FRAMES, NUM_MELS, SAMPLE_RATES_HZ, Sample, decode

RESULT = Path(__file__).parent / "results" / "fidelity.json"
TICK_S = 1e-4  # ffmpeg counts time from the file's start in whole ticks of the stream
LOOK_ALIKE = 0.25  # mean levels by which neighbours in a slow fade differ


def samples(folder: Path) -> Iterator[Sample]:
    for tar in sorted(folder.glob("*.tar")):
        with tar.open("rb") as stream:
            for record in group_by_keys(tar_file_expander([{"url": tar.name, "stream": stream}])):
                yield decode(record)


def one_liner_db(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    mel = librosa.feature.melspectrogram(
        y=sound, sr=rate_hz, n_fft=N_FFT, hop_length=HOP, n_mels=NUM_MELS, pad_mode="reflect"
    )
    return np.asarray(librosa.power_to_db(mel))


def explicit_db(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    padded = np.pad(sound.astype(np.float64), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(frames * window, axis=1).T) ** 2
    mel = librosa.filters.mel(sr=rate_hz, n_fft=N_FFT, n_mels=NUM_MELS).astype(np.float64) @ power
    level_db = 10 * np.log10(np.maximum(mel, 1e-10))
    return np.maximum(level_db, level_db.max() - 80)


def frame_errors(path: Path, start_s: float, stored_THWC: np.ndarray) -> tuple[float, int]:
    """Mean absolute difference in levels of 255, and how many stored frames are nearer to a neighbour."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        origin_s = (container.start_time or 0) / av.time_base
        shown = [(float(f.pts * stream.time_base) - origin_s, f) for f in container.decode(stream)]
    times_s = np.array([time_s for time_s, _ in shown])
    errors, wrong = [], 0
    for i in range(NUM_FRAMES):
        right = max(int(np.searchsorted(times_s, start_s + i * 30 / NUM_FRAMES + TICK_S, side="right")) - 1, 0)
        distance = {
            k: float(np.abs(_scaled(shown[k][1]) - stored_THWC[i]).mean())
            for k in (right - 1, right, right + 1)
            if 0 <= k < len(shown)
        }
        errors.append(distance[right])
        wrong += distance[right] > min(distance.values()) + LOOK_ALIKE
    return float(np.mean(errors)), wrong


def _scaled(frame: av.VideoFrame) -> np.ndarray:
    scaled = frame.reformat(128, 128, "rgb24", interpolation="BILINEAR").to_ndarray()
    return np.asarray(scaled, dtype=np.int16)


def main(shards: Path, source: Path) -> None:
    """Compare every stored clip.

    Args:
        shards: A data set built from local files.
        source: The folder that it was built from.
    """
    rows = []
    for sample in samples(shards):
        path, start_s = source / sample.meta["source_id"], sample.meta["start_s"]
        found = media.probe(path)
        sound = media.decode_clip(path, ClipSpan(start_s=start_s), found, modality="audio").audio
        assert sound is not None
        row: dict[str, object] = {"key": sample.key}
        for name, signal in audio.at_rates(audio.fit_length(sound, 30 * audio.BASE_RATE_HZ)).items():
            stored_db = sample.arrays[name][0].astype(np.float64)
            rate_hz = SAMPLE_RATES_HZ[name]
            row[f"{name} to librosa, dB"] = float(np.abs(stored_db - one_liner_db(signal, rate_hz)).max())
            row[f"{name} to explicit FFT, dB"] = float(np.abs(stored_db - explicit_db(signal, rate_hz)).max())
        row["frames, mean levels"], row["frames, wrong"] = frame_errors(path, start_s, sample.arrays["frames"])
        rows.append(row)
    worst = {name: max(row[name] for row in rows) for name in rows[0] if name != "key"}  # type: ignore[type-var]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), "clips": len(rows), "worst": worst}, indent=1) + "\n")
    print(f"worst of {len(rows)} clips:")
    for name, value in worst.items():
        print(f"  {name:<30} {value:.4f}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.fidelity", description=__doc__)
