"""What denoising does to real music, clean and with hiss, hum and a crowd added.

    python -m benchmarks.denoise --music FOLDER FOLDER --speech FOLDER

Writes benchmarks/results/denoise.json and prints the tables of docs/denoise.md. Noise is added to 42 clips of each
folder or some more, evenly spaced; all of them show what happens to clean sound. ``--speech`` holds wave files of talk,
of which the crowd is made: Debian's asterisk-core-sounds-en-wav has them under /usr/share/asterisk/sounds.

SDR is the power of the clean sound over that of the difference to it, in dB. Log-mel distance is the mean absolute
difference of the 32 kHz log-mel that samples store, in dB. Both are given as gain over leaving the noise in: below 0
the cure is worse than the illness. On clean sound SDR stands as it is. Noise is added at a ratio of mean powers.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import librosa
import noisereduce
import numpy as np
import tyro
from tqdm import tqdm

from benchmarks import talk
from benchmarks.environment import environment
from pipeline import denoise, media
from pipeline.audio import BASE_RATE_HZ, fit_length
from pipeline.clips import ClipSpan
from pipeline.schema import HOP, N_FFT, NUM_MELS

RESULT = Path(__file__).parent / "results" / "denoise.json"
NUM_SAMPLES = 30 * BASE_RATE_HZ
CLIPS = 42  # of a folder, at least, where it holds as many
ADDED_SNR_DB = (0, 10, 20)
CODED_EVERY, WAYS_EVERY = 6, 12  # clips: what costs most is tried on some
CODECS = {
    "AAC 128 kbit/s": ("-c:a", "aac", "-b:a", "128k", "-f", "adts"),
    "AAC 64 kbit/s": ("-c:a", "aac", "-b:a", "64k", "-f", "adts"),
    "Opus 64 kbit/s": ("-c:a", "libopus", "-b:a", "64k", "-f", "ogg"),
}
NUM_VOICES, NUM_APPLAUSES = 24, 3
HARMONICS = (1, 0.6, 0.8, 0.35, 0.5, 0.2, 0.3, 0.1, 0.15, 0.08)  # amplitudes of a hum's lines

Row = dict[str, float]


def sdr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10(np.square(reference).sum() / max(np.square(reference - estimate).sum(), 1e-12)))


def log_mel_db(sound: np.ndarray) -> np.ndarray:
    """Channel 0 of ``mel_32k``, without the phase that takes most of its time."""
    mel = librosa.feature.melspectrogram(
        y=sound, sr=BASE_RATE_HZ, n_fft=N_FFT, hop_length=HOP, n_mels=NUM_MELS, pad_mode="reflect"
    )
    return np.asarray(librosa.power_to_db(mel))


def distance_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(np.abs(log_mel_db(reference) - log_mel_db(estimate)).mean())


def gain(clean: np.ndarray, noisy: np.ndarray, denoised: np.ndarray) -> Row:
    return {
        "sdr": sdr_db(clean, denoised) - (0.0 if noisy is clean else sdr_db(clean, noisy)),
        "distance": distance_db(clean, noisy) - distance_db(clean, denoised),
    }


def mixed(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    scale = np.sqrt(np.square(clean).mean() / np.square(noise).mean() / 10 ** (snr_db / 10))
    return np.asarray(clean + noise * scale, dtype=np.float32)


def hum(mains_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Ten harmonics of a mains that is off by up to 0.05%."""
    t_s = np.arange(NUM_SAMPLES) / BASE_RATE_HZ
    phase = 2 * np.pi * mains_hz * (1 + rng.uniform(-5e-4, 5e-4)) * t_s
    lines = [a * np.sin(n * phase + rng.uniform(0, 2 * np.pi)) for n, a in enumerate(HARMONICS, start=1)]
    return np.asarray(np.sum(lines, axis=0))


def band_noise(low_hz: float, high_hz: float, rng: np.random.Generator, num_samples: int = NUM_SAMPLES) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    at_hz = np.fft.rfftfreq(num_samples, 1 / BASE_RATE_HZ)
    made: np.ndarray = np.fft.irfft(spectrum * ((at_hz > low_hz) & (at_hz < high_hz)), num_samples)
    return made


def crowd(speech: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Many voices at once, each at its own pitch and distance, with applause now and then.

    Without recorded speech a voice is band noise that comes and goes four times a second.
    """
    babble = np.zeros(NUM_SAMPLES)
    for _ in range(NUM_VOICES):
        if speech:
            words = np.roll(speech[rng.integers(len(speech))], rng.integers(NUM_SAMPLES))
            speed = rng.uniform(0.8, 1.2)
            voice = np.interp(np.arange(NUM_SAMPLES) * speed % (NUM_SAMPLES - 1), np.arange(NUM_SAMPLES), words)
        else:
            syllables = np.repeat(rng.exponential(size=8 * 30), BASE_RATE_HZ // 8)
            voice = band_noise(150, 3500 * rng.uniform(0.8, 1.2), rng) * syllables
        babble += voice / voice.std() * 10 ** (rng.uniform(-12, 0) / 20)
    applause = np.zeros(NUM_SAMPLES)
    for _ in range(NUM_APPLAUSES):
        length = round(rng.uniform(2, 5) * BASE_RATE_HZ)
        claps = np.convolve(rng.random(length) < 100 / BASE_RATE_HZ, np.exp(-np.arange(320) / 100))[:length]
        start = rng.integers(NUM_SAMPLES - length)
        applause[start : start + length] += band_noise(700, 6000, rng, length) * claps * np.hanning(length)
    return np.asarray(babble / babble.std() + 0.5 * applause / applause.std())


def coded(sound: np.ndarray, settings: tuple[str, ...]) -> np.ndarray:
    """The sound out of a codec, put where it was: codecs delay it, and clip what is too loud."""
    scale = 0.9 / max(0.9, np.abs(sound).max())
    raw = ("-f", "f32le", "-ar", str(BASE_RATE_HZ), "-ac", "1")
    begin = (media.ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-threads", "1")
    encode = [*begin, *raw, "-i", "pipe:0", *settings, "pipe:1"]
    stream = subprocess.run(
        encode, input=(sound * scale).astype("<f4").tobytes(), capture_output=True, check=True
    ).stdout
    decode = [*begin, "-i", "pipe:0", *raw, "pipe:1"]
    out = subprocess.run(decode, input=stream, capture_output=True, check=True).stdout
    heard = fit_length(np.frombuffer(out, "<f4"), NUM_SAMPLES) / scale
    match = np.fft.irfft(np.fft.rfft(sound) * np.conj(np.fft.rfft(heard)))
    return np.roll(heard, int(np.argmax(match)))


def behind_the_gate(clean: np.ndarray, noisy: np.ndarray) -> Row:
    """What a build does to the sound; ``snr`` is the estimate that opens the gate."""
    noise = denoise.find_noise(noisy, sample_rate_hz=BASE_RATE_HZ)
    told = {"snr": noise.snr_db, "open": noise.opens_gate}
    if not noise.opens_gate:
        return told | {"sdr": 0.0, "distance": 0.0}
    return told | gain(clean, noisy, denoise.denoise(noisy, noise, sample_rate_hz=BASE_RATE_HZ))


def ways(noisy: np.ndarray, added: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The sound denoised with other settings than the build's, whatever the gate says."""
    noise = denoise.find_noise(noisy, sample_rate_hz=BASE_RATE_HZ)
    if noise.hiss.any():
        for strength in (0.5, 0.7, 0.9, 1.0):
            sound = denoise.denoise(noisy, noise, sample_rate_hz=BASE_RATE_HZ, strength=strength)
            yield f"as built, strength {strength:g}", sound
    frames = noisy[: NUM_SAMPLES // N_FFT * N_FFT].reshape(-1, N_FFT)
    quietest = frames[np.sort(np.argsort(np.square(frames).sum(axis=1))[: len(frames) // 10])].reshape(-1)
    profiles = {"quietest tenth of whole frames": quietest}
    if added.any():
        power = np.square(np.abs(librosa.stft(added, n_fft=N_FFT))).mean(axis=1)
        profiles["the added noise itself"] = denoise.noise_like(power, 10 * BASE_RATE_HZ)
    masks: dict[str, dict[str, None]] = {
        "smoothed mask": {},
        "mask as it is": {"freq_mask_smooth_hz": None, "time_mask_smooth_ms": None},
    }
    for (profile, y_noise), (mask, settings) in itertools.product(profiles.items(), masks.items()):
        common = {"sr": BASE_RATE_HZ, "stationary": True, "prop_decrease": denoise.STRENGTH, "n_fft": N_FFT}
        yield f"{profile}, {mask}", noisereduce.reduce_noise(y=noisy, y_noise=y_noise, **common, **settings)


def decoded(files: list[Path]) -> Iterator[np.ndarray]:
    for file in tqdm(files, unit="clip"):
        sound = media.decode_clip(file, ClipSpan(start_s=0.0), media.probe(file), modality="audio").audio
        assert sound is not None
        yield fit_length(sound, NUM_SAMPLES)


def measure(music: list[Path], speech: list[np.ndarray]) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Rows by sound, what a build does; and rows by sound and settings, what other ones would do."""
    built, tried = defaultdict(list), defaultdict(list)
    rng = np.random.default_rng(0)
    for folder in music:
        files = sorted(path for path in folder.rglob("*") if path.suffix in media.MEDIA_SUFFIXES)
        every = max(1, len(files) // CLIPS)
        for place, clean in enumerate(decoded(files)):
            built[f"{folder.name}: clean"].append(behind_the_gate(clean, clean))
            if place % every != every // 2:
                continue
            number = place // every
            noises = {
                "white": rng.standard_normal(NUM_SAMPLES),
                "hum": hum((50, 60)[number % 2], rng),
                "crowd": crowd(speech, rng),
            }
            for (name, noise), snr_db in itertools.product(noises.items(), ADDED_SNR_DB):
                noisy = mixed(clean, noise, snr_db)
                built[f"{folder.name}: {name}, {snr_db} dB"].append(behind_the_gate(clean, noisy))
                if number % CODED_EVERY == 0 and name != "crowd" and snr_db == 10:
                    for codec, settings in CODECS.items():
                        heard = behind_the_gate(clean, coded(noisy, settings))
                        built[f"some: {name}, {snr_db} dB, then {codec}"].append(heard)
                if number % WAYS_EVERY == 0 and name != "hum" and snr_db > 0:
                    for way, sound in ways(noisy, noisy - clean):
                        tried[f"{name}, {snr_db} dB: {way}"].append(gain(clean, noisy, sound))
            if number % WAYS_EVERY == 0:
                for way, sound in ways(clean, np.zeros(0)):
                    tried[f"clean: {way}"].append(gain(clean, clean, sound))
    return built, tried


def table(rows: dict[str, list[Row]], first: str) -> Iterator[str]:
    """Medians with the worst clip in brackets, of the clips that were denoised."""
    yield f"| {first} | denoised | estimated SNR, dB | SDR, dB | log-mel distance, dB |"
    yield "|---|---|---|---|---|"
    for name, measured in rows.items():
        done = [row for row in measured if row.get("open", True)]
        found = [row["snr"] for row in done if "snr" in row]
        cells = [f"{np.median(found):.1f}" if found else ""]
        for quantity in ("sdr", "distance"):
            values = [row[quantity] for row in done]
            cells.append(f"{np.median(values):+.1f} ({min(values):+.1f})" if values else "")
        yield f"| {name} | {len(done)} of {len(measured)} | {' | '.join(cells)} |"


def main(music: list[Path], speech: Path | None = None) -> None:
    """Measure, write and print.

    Args:
        music: Folders of clean music or music videos.
        speech: A folder of wave files of talk; without it the crowd is made of noise.
    """
    if speech is None:
        print("no --speech: the crowd is made of noise that comes and goes like syllables, not of voices")
    began_s = time.process_time()
    built, tried = measure(music, talk.talk_clips(speech, 2 * NUM_VOICES, seed=0) if speech else [])
    tables = {"built": built, "tried": tried}
    note = {"environment": environment(), "CPU, s": round(time.process_time() - began_s), "speech": speech is not None}
    RESULT.parent.mkdir(exist_ok=True)
    rounded = {
        table_name: {
            name: [{k: round(float(v), 2) for k, v in row.items()} for row in rows] for name, rows in t.items()
        }
        for table_name, t in tables.items()
    }
    RESULT.write_text(json.dumps(note | rounded).replace("}], ", "}],\n").replace("Infinity", "null") + "\n")
    print("\n".join([*table(built, "sound"), "", *table(tried, "other ways"), "", f"{note['CPU, s']} s of CPU"]))


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.denoise", description=__doc__)
