"""What a user would write in an afternoon: librosa.load, PyAV's frames, librosa's features, one clip after another.

    python -m benchmarks.plain_script '[["video.mp4", 42.0]]' OUT

It gives the same arrays as the pipeline, near enough, with no filters, no fingerprints, no denoising and no error
handling, and is the peer of ``benchmarks.peers``. ``all`` turns every frame into an array and then takes 64, as most
examples do; ``some`` turns only those 64, as a careful user would. It prints CPU seconds a clip as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path

import av
import librosa
import numpy as np
from PIL import Image

warnings.simplefilter("ignore")  # librosa.load of a video says that audioread is on its way out

RATES_HZ = {"mel_32k": 32_000, "mel_22k": 22_050, "mel_8k": 8_000}


def frames_of(path: str, start_s: float, *, take: str) -> np.ndarray:
    """64 frames of 30 s at 128 x 128: uint8 (64, 128, 128, 3)."""
    found, times = [], []
    with av.open(path) as video:
        video.seek(int(start_s * av.time_base))
        for frame in video.decode(video=0):
            if frame.time < start_s:
                continue
            if frame.time >= start_s + 30:
                break
            times.append(frame.time)
            is_next = len(found) < 64 and frame.time >= start_s + len(found) * 30 / 64
            if take == "all" or is_next:
                found.append(frame.to_ndarray(format="rgb24"))
    if take == "all":
        found = [found[i] for i in np.linspace(0, len(found) - 1, 64).astype(int)]
    return np.stack([np.asarray(Image.fromarray(frame).resize((128, 128))) for frame in found])


def features_of(path: str, start_s: float) -> dict[str, np.ndarray]:
    """Log-mel and phase at three rates: float16 (2, 128, columns) each."""
    sound, rate_hz = librosa.load(path, sr=32_000, offset=start_s, duration=30)
    arrays = {}
    for name, target_hz in RATES_HZ.items():
        heard = librosa.resample(sound, orig_sr=rate_hz, target_sr=target_hz)
        power = librosa.feature.melspectrogram(y=heard, sr=target_hz, n_fft=2048, hop_length=512, n_mels=128)
        filters = librosa.filters.mel(sr=target_hz, n_fft=2048, n_mels=128)
        phase = filters @ np.angle(librosa.stft(heard, n_fft=2048, hop_length=512))
        arrays[name] = np.stack([librosa.power_to_db(power), phase]).astype(np.float16)
    return arrays


def cpu_s() -> float:
    """CPU seconds of this process and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(clips: list[tuple[str, float]], out: Path) -> dict[str, list[float]]:
    """CPU seconds of every clip, both ways; the first one is done once before, for what is loaded then."""
    took: dict[str, list[float]] = {"all": [], "some": []}
    for take, seconds in took.items():
        for number, (path, start_s) in enumerate([clips[0], *clips]):
            began = cpu_s()
            np.savez(out / f"{number}.npz", frames=frames_of(path, start_s, take=take), **features_of(path, start_s))
            seconds.append(cpu_s() - began)
        del seconds[0]
    return took


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
