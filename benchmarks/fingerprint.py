"""Which changes of a song or video its fingerprint survives, what it mistakes, and what 130,000 of them cost.

    python -m benchmarks.fingerprint --media FOLDER FOLDER    writes benchmarks/results/fingerprint.json

Cases: every clip is changed, and looked up in an index of all the clips as they were. False matches: every pair of
clips at every offset, not only those that the index would look at. The limits of `pipeline/fingerprint.py` were set
after a look at some pairs of both halves; what one half alone allows is its `smallest`, to be held against the other
half. Two clips that match without being the same file are the
same recording where their waveforms correlate by more than 0.5. Scale: clips made from the real ones' bits.
"""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import tyro

from benchmarks.environment import environment
from pipeline import media
from pipeline.audio import BASE_RATE_HZ
from pipeline.clips import ClipSpan
from pipeline.errors import RejectedError
from pipeline.fingerprint import (
    PICTURE,
    SOUND,
    FingerprintIndex,
    Kind,
    _chromaprint_exe,
    audio_fingerprint,
    frame_hashes,
    own_change,
)

RESULT = Path(__file__).parent / "results" / "fingerprint.json"
SAME_WAVEFORM = 0.5  # peak of the normalised cross-correlation
CODECS = {
    "mp3, 64 kbit/s": ("mp3", "-c:a", "libmp3lame", "-b:a", "64k"),
    "aac, 48 kbit/s": ("m4a", "-c:a", "aac", "-b:a", "48k"),
    "opus, 24 kbit/s": ("webm", "-c:a", "libopus", "-b:a", "24k"),
}
SMALL = "scale=320:180"
PICTURES = {
    "180 lines, H.264 at crf 32": SMALL,
    "cropped by 5%": f"crop=iw*.95:ih*.95,{SMALL}",
    "cropped by 10%": f"crop=iw*.9:ih*.9,{SMALL}",
    "cropped by 10%, one corner kept": f"crop=iw*.9:ih*.9:0:0,{SMALL}",
    "letterboxed": "pad=iw:ih*4/3:0:(oh-ih)/2,scale=320:240",
    "pillarboxed": "scale=320:240,pad=426:240:(ow-iw)/2:0",
    "mirrored": f"hflip,{SMALL}",
    "brighter, more contrast": f"eq=brightness=.1:contrast=1.2,{SMALL}",
    "a white box of 3% of the picture": f"{SMALL},drawbox=x=250:y=10:w=60:h=30:color=white:t=fill",
}
SHARED_S = (20, 15, 12, 10, 8)
GRID_S = 30 / 64  # between frames


def ffmpeg(*args: str, given: bytes = b"") -> None:
    command = [media.ffmpeg_exe(), "-y", "-nostdin", "-loglevel", "error", "-threads", "1"]
    subprocess.run([*command, *args], input=given, check=True)


def heard(path: Path) -> np.ndarray:
    sound = media.decode_clip(path, ClipSpan(start_s=0), media.probe(path), modality="audio").audio
    assert sound is not None
    return sound


def seen(path: Path, start_s: float = 0.0) -> np.ndarray:
    frames = media.decode_clip(path, ClipSpan(start_s=start_s), media.probe(path), modality="video").frames_THWC
    assert frames is not None
    return frames


def sounds(sound: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """The sound, changed: as it comes out of a codec, at another level, and only its last seconds."""
    coded = sound
    for case, (suffix, *settings) in CODECS.items():
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, f"x.{suffix}")
            raw = ("-f", "f32le", "-ar", str(BASE_RATE_HZ), "-ac", "1", "-i", "pipe:0")
            ffmpeg(*raw, *settings, str(file), given=sound.astype("<f4").tobytes())
            coded = heard(file)
        yield case, coded
    yield "26 dB quieter", sound / 20
    yield "6 dB louder, clipped", np.clip(sound * 2, -1, 1)
    yield "11 kHz and back", soxr.resample(soxr.resample(sound, BASE_RATE_HZ, 11_025), 11_025, BASE_RATE_HZ)
    loudness = np.sqrt(np.square(sound).mean())
    yield "white noise at 20 dB", sound + loudness / 10 * rng.standard_normal(len(sound)).astype(np.float32)
    for shared_s in SHARED_S:
        kept = round((shared_s + rng.uniform(0, 0.124)) * BASE_RATE_HZ)
        yield f"{shared_s} s shared, opus", coded[-kept:]


def films(path: Path, duration_s: float, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """The picture, changed, and always coded anew."""
    with tempfile.TemporaryDirectory() as scratch:
        split = f"[0:v]split={len(PICTURES)}" + "".join(f"[i{n}]" for n in range(len(PICTURES)))
        changes = [f"[i{n}]{change},format=yuv420p[o{n}]" for n, change in enumerate(PICTURES.values())]
        files = [Path(scratch, f"{n}.mp4") for n in range(len(PICTURES))]
        coded = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "32", "-threads", "1", "-an"]
        targets = [arg for n, file in enumerate(files) for arg in ("-map", f"[o{n}]", *coded, str(file))]
        ffmpeg("-i", str(path), "-filter_complex", ";".join([split, *changes]), *targets)
        for case, file in zip(PICTURES, files, strict=True):
            yield case, seen(file)
        for shared_s in SHARED_S:
            yield f"{shared_s} s shared", seen(files[0], round(duration_s - shared_s - rng.uniform(0, GRID_S), 3))


class EveryOffset:
    """Differences of a query and every clip at every offset, by correlation of their bits."""

    SIZE = 512

    def __init__(self, fingerprints: list[np.ndarray], kind: Kind) -> None:
        self.kind, self.bits, self.masks, self.changes = kind, *self._spectra(fingerprints, kind)

    def _spectra(self, fingerprints: list[np.ndarray], kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        signs = np.zeros((len(fingerprints), self.SIZE // 2, kind.bits), np.float32)
        change = np.zeros(signs.shape[:2], np.float32)
        for n, items in enumerate(fingerprints):
            ones = (items[:, None] >> np.arange(kind.bits, dtype=items.dtype)) & items.dtype.type(1)
            signs[n, : len(items)] = np.where(items[:, None] != 0, 2.0 * ones - 1, 0)
            change[n, : len(items)] = own_change(items) * (items != 0)
        mask = np.abs(signs[:, :, 0])
        spectra = (np.fft.rfft(part, self.SIZE, axis=1) for part in (signs, mask, change))
        return tuple(spectrum.astype(np.complex64) for spectrum in spectra)  # type: ignore[return-value]  # three of them

    def smallest(self, query: np.ndarray) -> np.ndarray:
        """Of all offsets, a number a clip; infinite where no overlap has enough change to tell."""
        bits, mask, change = (part[0].conj() for part in self._spectra([query], self.kind))
        overlap = np.fft.irfft(self.masks * mask, axis=1).round()
        differing = (self.kind.bits * overlap - np.fft.irfft((self.bits * bits).sum(axis=2), axis=1)) / 2
        own = np.minimum(np.fft.irfft(self.masks * change, axis=1), np.fft.irfft(self.changes * mask, axis=1))
        enough = own >= self.kind.min_change_bits
        return np.asarray(np.where(enough, differing / np.maximum(own, 1), np.inf).min(axis=1))


def turned(query: np.ndarray, kind: Kind) -> list[np.ndarray]:
    if not kind.mirror_bits:
        return [query]
    return [query, np.where(query == 0, query, query ^ np.uint64(kind.mirror_bits))]


def all_pairs(originals: dict[str, np.ndarray], kind: Kind, same: set[frozenset[str]]) -> dict[str, Any]:
    """Differences of different recordings: pairs of clips of even number, of odd number, and mixed."""
    keys = list(originals)
    oracle = EveryOffset(list(originals.values()), kind)
    rows: dict[str, list[float]] = {"even": [], "odd": [], "mixed": []}
    for i, key in enumerate(keys):
        smallest = np.min([oracle.smallest(query) for query in turned(originals[key], kind)], axis=0)
        for j in range(i):
            if frozenset((key, keys[j])) not in same:
                half = "mixed" if (i + j) % 2 else ("odd" if i % 2 else "even")
                rows[half].append(float(smallest[j]))
    table: dict[str, Any] = {}
    for half, found in rows.items():
        told = [difference for difference in found if np.isfinite(difference)]
        table[half] = {"pairs": len(found), "false matches": sum(d <= kind.max_difference for d in told)}
        for name, share in (("smallest", 0), ("1 in 1000", 0.001), ("median", 0.5)):
            table[half][name] = float(np.quantile(told, share, method="higher")) if told else None
    return table


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Peak of the normalised cross-correlation of two sounds, at 8 kHz: near 1 for one recording."""
    a, b = (soxr.resample(sound, BASE_RATE_HZ, 8000) for sound in (one, other))
    size = len(a) + len(b)
    peak = np.abs(np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size).conj())).max()
    return float(peak / np.sqrt(np.square(a).sum() * np.square(b).sum()))


def look_up(
    index: FingerprintIndex, changed: dict[str, dict[str, np.ndarray]], same: set[frozenset[str]]
) -> dict[str, dict[str, Any]]:
    rows = {}
    for case, queries in changed.items():
        found, wrong, differences = 0, 0, []
        for key, query in queries.items():
            matches = {match.key: match.difference for match in index.matches(query)}
            found += key in matches
            differences += [matches[key]] if key in matches else []
            wrong += sum(other != key and frozenset((key, other)) not in same for other in matches)
        median, most = (float(np.quantile(differences, q)) if differences else None for q in (0.5, 0.95))
        rows[case] = {"clips": len(queries), "found": found, "wrong": wrong, "median": median, "95%": most}
    return rows


def made_up(fingerprints: list[np.ndarray], kind: Kind, count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Clips no one has heard: each bit's course over time is that of a real clip drawn for that bit."""
    length = max(map(len, fingerprints))
    whole = np.stack([items for items in fingerprints if len(items) == length])
    bits = ((whole[:, :, None] >> np.arange(kind.bits, dtype=whole.dtype)) & whole.dtype.type(1)).astype(np.uint8)
    rng = np.random.default_rng(seed)
    for first in range(0, count, 1000):
        drawn = bits[rng.integers(len(bits), size=(min(1000, count - first), kind.bits)), :, np.arange(kind.bits)]
        packed = np.packbits(drawn.transpose(0, 2, 1), axis=2, bitorder="little")
        for n, items in enumerate(np.ascontiguousarray(packed).view(kind.dtype)[:, :, 0]):
            yield f"made up {first + n}", np.roll(items, int(rng.integers(length)))


def at_scale(
    originals: dict[str, np.ndarray], changed: dict[str, dict[str, np.ndarray]], kind: Kind, count: int
) -> dict[str, Any]:
    entries = list(made_up(list(originals.values()), kind, count - len(originals)))
    before_mib = peak_mib(anew=True)
    began = time.process_time()
    index = FingerprintIndex([*originals.items(), *entries], kind)
    row: dict[str, Any] = {"clips": count, "build, s": time.process_time() - began}
    row["peak above the fingerprints, MiB"] = peak_mib() - before_mib
    row["index, MiB"] = sum(a.nbytes for a in (index._items, index._change, *sum(index._bands, ()))) / 2**20
    unknown = [items for _, items in made_up(list(originals.values()), kind, 100, seed=1)]
    began, false = time.process_time(), sum(len(index.matches(items)) for items in unknown)
    row |= {"match of a made-up clip, ms": 10 * (time.process_time() - began), "false matches of 100": false}
    began = time.process_time()
    for items in originals.values():
        index.matches(items)
    row["match of a real clip, ms"] = 1000 * (time.process_time() - began) / len(originals)
    row["found"] = {}
    for case, queries in changed.items():
        some = list(queries.items())[::4]
        hits = [{match.key for match in index.matches(query)} for _, query in some]
        row["found"][case] = f"{sum(key in hit for (key, _), hit in zip(some, hits, strict=True))} of {len(some)}"
    return row


def peak_mib(*, anew: bool = False) -> float:
    """Most memory that the process ever held, or held since it was last asked anew (Linux)."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_s() -> float:
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + child.ru_utime + child.ru_stime


def collect(files: list[tuple[str, Path]]) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Fingerprints by kind and case ("original" among them) and key; cost by kind; the sounds, at the base rate."""
    rng = np.random.default_rng(0)
    prints: dict[str, Any] = {"sound": {}, "picture": {}}
    cost: dict[str, list[float]] = {"sound": [], "picture": []}
    kept: dict[str, np.ndarray] = {}
    for key, path in files:
        try:
            probe = media.probe(path)
            kept[key] = sound = heard(path)
        except RejectedError as rejected:
            print(f"left out {key}: {rejected.detail}")
            continue
        began = cpu_s()
        prints["sound"].setdefault("original", {})[key] = audio_fingerprint(sound, BASE_RATE_HZ)
        cost["sound"].append(cpu_s() - began)
        for case, changed in sounds(sound, rng):
            prints["sound"].setdefault(case, {})[key] = audio_fingerprint(changed, BASE_RATE_HZ)
        if probe.video_stream is not None:
            frames = seen(path)
            began = cpu_s()
            prints["picture"].setdefault("original", {})[key] = frame_hashes(frames)
            cost["picture"].append(cpu_s() - began)
            for case, frames in films(path, min(probe.duration_s("video"), 30.0), rng):
                prints["picture"].setdefault(case, {})[key] = frame_hashes(frames)
    return prints, {name: 1000 * float(np.median(each)) for name, each in cost.items() if each}, kept


def main(media_folders: tuple[Path, ...], scale: int = 130_000) -> None:
    """Measure on the clips of some folders.

    Args:
        media_folders: Folders of music or music videos; the first 30 s of every file are a clip.
        scale: Clips in the large index.
    """
    files = [
        (f"{n}/{path.relative_to(folder)}", path)
        for n, folder in enumerate(media_folders)
        for path in sorted(folder.rglob("*"))
        if path.suffix in media.MEDIA_SUFFIXES
    ]
    prints, cost_ms, kept = collect(files)
    results: dict[str, Any] = {}
    same: set[frozenset[str]] = set()
    for name, kind in (("sound", SOUND), ("picture", PICTURE)):
        originals = prints[name].get("original", {})
        if not originals:
            continue
        index = FingerprintIndex(originals.items(), kind)
        alike = {frozenset((key, m.key)) for key, items in originals.items() for m in index.matches(items)}
        same |= {pair for pair in alike if len(pair) == 2 and correlation(*(kept[key] for key in pair)) > SAME_WAVEFORM}
        results[name] = {
            "limits": {"max_difference": kind.max_difference, "min_change_bits": kind.min_change_bits},
            "CPU a clip, ms": cost_ms[name],
            "different recordings": all_pairs(originals, kind, same),
            "cases": look_up(index, prints[name], same),
            "scale": at_scale(originals, prints[name], kind, scale),
        }
    told = subprocess.run([_chromaprint_exe(), "-version"], capture_output=True, text=True, check=True).stdout
    found = {"clips": len(kept), "pairs that are one recording": len(same), "Chromaprint by ffmpeg": told.split()[2]}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), **found, "results": results}, indent=1) + "\n")
    show(found, results)


def show(found: dict[str, Any], results: dict[str, Any]) -> None:
    print(", ".join(f"{name}: {value}" for name, value in found.items()))
    for name, result in results.items():
        print(f"\n| {name} | found | wrong | difference, median | 95% |\n|---|---|---|---|---|")
        for case, row in result["cases"].items():
            numbers = " | ".join("" if row[q] is None else f"{row[q]:.2f}" for q in ("median", "95%"))
            print(f"| {case} | {row['found']} of {row['clips']} | {row['wrong']} | {numbers} |")
        print(f"\n| {name}, different recordings | pairs | false | smallest | 1 in 1000 | median |")
        print("|---|---|---|---|---|---|")
        for half, row in result["different recordings"].items():
            numbers = " | ".join("" if row[q] is None else f"{row[q]:.2f}" for q in ("smallest", "1 in 1000", "median"))
            print(f"| {half} | {row['pairs']} | {row['false matches']} | {numbers} |")
        print(f"\n{name}: {result['CPU a clip, ms']:.0f} ms a clip; {result['limits']}; {result['scale']}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.fingerprint", description=__doc__)
