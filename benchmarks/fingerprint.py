"""Which changes of a song or video its fingerprint survives, what it mistakes, and what 130,000 of them cost.

    python -m benchmarks.fingerprint --media-folders FOLDER FOLDER    writes benchmarks/results/fingerprint.json

Copies: every video, and every sixth recording, is changed in many ways (`benchmarks/copies.py`) and looked up in an
index of all clips as they were. Other recordings: every pair of clips at every offset, not only those that the index
would look at. The limits in `pipeline/fingerprint.py` are 7/10 of the smallest difference of two recordings, of the
half of the clips where that is smaller; here each half's own limit is tried on the other half. Two clips that match
without being the same file are the same recording where their waveforms correlate by more than 0.5.

Scale: every clip of a large index is compared to those before it. It holds the real clips among made-up ones. Those
with a picture are cut together from shots of the real ones, first from every other video and then from the others:
what is found across these halves is a mistake.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.copies import films, heard, made_up_films, made_up_sounds, seen, sounds
from benchmarks.environment import environment
from benchmarks.every_offset import EveryOffset, correlation
from pipeline import media
from pipeline.audio import BASE_RATE_HZ
from pipeline.errors import RejectedError
from pipeline.fingerprint import PICTURE, SOUND, _chromaprint_exe, audio_fingerprint, frame_hashes
from pipeline.matching import FingerprintIndex
from pipeline.slices import Kind
from trainer.metrics import wilson_interval

RESULT = Path(__file__).parent / "results" / "fingerprint.json"
SAME_WAVEFORM = 0.5  # peak of the normalised cross-correlation
COPIED_EVERY = 6  # of the clips that have no picture
SAFE = 0.7  # a limit, as a share of the smallest difference of two recordings
KINDS = {"sound": SOUND, "picture": PICTURE}


@dataclass
class Prints:
    """Fingerprints of one kind."""

    originals: dict[str, np.ndarray] = field(default_factory=dict)
    copies: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))
    """By case and key."""
    shared_s: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """How much of the original a copy holds, likewise."""
    cost_s: list[float] = field(default_factory=list)
    """CPU of each."""


def other_recordings(prints: Prints, kind: Kind, same: set[frozenset[str]]) -> dict[str, list[float]]:
    """Least differences of different recordings: pairs of clips of even number, of odd number, and mixed."""
    keys = list(prints.originals)
    oracle = EveryOffset(list(prints.originals.values()), kind)
    found: dict[str, list[float]] = {"even": [], "odd": [], "mixed": []}
    for i, key in enumerate(keys):
        least = oracle.least(prints.originals[key])
        for j in range(i):
            if frozenset((key, keys[j])) not in same:
                half = "mixed" if (i + j) % 2 else ("odd" if i % 2 else "even")
                found[half].append(float(least[j]))
    return found


def told_of_pairs(found: dict[str, list[float]], kind: Kind) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for half, each in found.items():
        false = sum(d <= kind.max_difference for d in each)
        table[half] = {"pairs": len(each), "false matches": false, "95% interval": wilson_interval(false, len(each))}
        for name, share in (("smallest", 0), ("1 in 1000", 0.001), ("median", 0.5)):
            table[half][name] = float(np.quantile(each, share, method="higher"))
    return table


def look_up(prints: Prints, kind: Kind, same: set[frozenset[str]]) -> dict[str, dict[str, Any]]:
    """By case: copies found by the index, by comparing every offset, and what was found wrongly."""
    index = FingerprintIndex(prints.originals.items(), kind)
    alone = {key: EveryOffset([items], kind) for key, items in prints.originals.items()}
    rows = {}
    for case, queries in prints.copies.items():
        found, wrong, differences, off_s = [], 0, [], []
        least = {key: float(alone[key].least(query)[0]) for key, query in queries.items()}
        for (key, _), matches in zip(queries.items(), index.matches_of(list(queries.values())), strict=True):
            by_key = {match.key: match for match in matches}
            wrong += sum(other != key and frozenset((key, other)) not in same for other in by_key)
            if key in by_key:
                found.append(key)
                differences.append(by_key[key].difference)
                off_s.append(abs(kind.seconds(by_key[key].overlap) - prints.shared_s[case][key]))
        rows[case] = {
            "clips": len(queries),
            "found": len(found),
            "95% interval": wilson_interval(len(found), len(queries)),
            "found at every offset": sum(each <= kind.max_difference for each in least.values()),
            "wrong": wrong,
            "difference, median": float(np.median(differences)) if differences else None,
            "seconds shared, error of 95%": float(np.quantile(off_s, 0.95)) if off_s else None,
            "least": least,
        }
    return rows


def by_other_half(
    cases: dict[str, dict[str, Any]], pairs: dict[str, list[float]], keys: list[str]
) -> dict[str, dict[str, Any]]:
    """What the limit that one half's other recordings allow finds, rightly and wrongly, in the other half."""
    tried = {}
    for chosen_on, tried_on, parity in (("even", "odd", 1), ("odd", "even", 0)):
        limit = round(SAFE * min(pairs[chosen_on]), 2)
        false = sum(d <= limit for d in pairs[tried_on])
        row: dict[str, Any] = {"limit": limit, "pairs": len(pairs[tried_on]), "false": false}
        row["false, 95% interval"] = wilson_interval(false, len(pairs[tried_on]))
        row["found"] = {}
        for case, told in cases.items():
            least = [d for key, d in told["least"].items() if keys.index(key) % 2 == parity]
            num = sum(d <= limit for d in least)
            row["found"][case] = {"of": len(least), "found": num, "95% interval": wilson_interval(num, len(least))}
        tried[f"{chosen_on}, tried on {tried_on}"] = row
    return tried


def of_another_part(prints: Prints, kind: Kind) -> dict[str, int]:
    """How many clips have a second half that is found in the first: a loop, or a mistake."""
    gap = round(kind.first_item_s / kind.item_s)  # items that tell of both halves
    first = {key: items[: (len(items) - gap) // 2] for key, items in prints.originals.items()}
    second = [items[(len(items) + gap) // 2 :] for items in prints.originals.values()]
    index = FingerprintIndex(first.items(), kind)
    found = sum(key in {m.key for m in ms} for key, ms in zip(first, index.matches_of(second), strict=True))
    return {"clips": len(first), "found": found}


def made_up(
    prints: Prints, name: str, clips_NTHWC: list[np.ndarray], count: int
) -> tuple[list[np.ndarray], list[int | None]]:
    """Clips among which the real ones are to be found again, and for all, the real ones first, whose shots they show.

    Those of different halves of the films have nothing in common, nor have those that are of no film.
    """
    if name == "sound":
        filler = list(made_up_sounds(list(prints.originals.values()), SOUND, count))
        return filler, [None] * (len(prints.originals) + count)
    filler = [
        clip
        for half, num in ((0, count // 2), (1, count - count // 2))
        for clip in made_up_films(clips_NTHWC[half::2], num, seed=half)
    ]
    halves: list[int | None] = [n % 2 for n in range(len(prints.originals))]
    return filler, halves + [0] * (count // 2) + [1] * (count - count // 2)


def at_scale(
    prints: Prints, kind: Kind, filler: list[np.ndarray], half_of: list[int | None]
) -> tuple[dict[str, Any], FingerprintIndex]:
    """Join real clips among made-up ones, then look the copies up."""
    keys = [*prints.originals, *(f"made up {n}" for n in range(len(filler)))]
    before_mib = peak_mib(anew=True)
    began = time.process_time()
    index = FingerprintIndex(zip(keys, [*prints.originals.values(), *filler], strict=True), kind)
    row: dict[str, Any] = {"clips": len(keys), "index built in, CPU s": time.process_time() - began}
    row["index, MiB"] = index.num_bytes / 2**20
    began, found = time.process_time(), []
    for _, rows in index.join():
        found += [(int(one), int(other)) for one, other in zip(rows["query"], rows["entry"], strict=True)]
    row["whole join, CPU s"] = time.process_time() - began
    row["join of a clip, ms"] = 1000 * row["whole join, CPU s"] / len(keys)
    apart = [(i, j) for i, j in found if half_of[i] is None or half_of[i] != half_of[j]]
    one, other = half_of.count(0), half_of.count(1)
    row["pairs with nothing in common"] = one * other or len(keys) * (len(keys) - 1) // 2
    real = len(prints.originals)
    row["false pairs"] = sum(max(pair) >= real for pair in apart)
    row["peak above the clips, MiB"] = peak_mib() - before_mib
    queries = [query for case in prints.copies.values() for query in case.values()]
    began = time.process_time()
    matches = iter(list(index.matches_of(queries)))
    row["lookup of a copy, ms"] = 1000 * (time.process_time() - began) / len(queries)
    row["found"] = {
        case: f"{sum(key in {m.key for m in next(matches)} for key in copies)} of {len(copies)}"
        for case, copies in prints.copies.items()
    }
    return row, index


def peak_mib(*, anew: bool = False) -> float:
    """Most memory that the process ever held, or held since it was last asked anew (Linux)."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_s() -> float:
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + child.ru_utime + child.ru_stime


def collect(files: list[tuple[str, Path]]) -> tuple[dict[str, Prints], dict[str, np.ndarray], list[np.ndarray]]:
    """Fingerprints by kind, the sounds at the base rate, and the pictures."""
    rng = np.random.default_rng(0)
    prints, heard_of, frames = {name: Prints() for name in KINDS}, {}, []
    for number, (key, path) in enumerate(files):
        try:
            probe = media.probe(path)
            heard_of[key] = sound = heard(path)
        except RejectedError as rejected:
            print(f"left out {key}: {rejected.detail}")
            continue
        began = cpu_s()
        prints["sound"].originals[key] = audio_fingerprint(sound, BASE_RATE_HZ)
        prints["sound"].cost_s.append(cpu_s() - began)
        if probe.video_stream is None and number % COPIED_EVERY:
            continue
        for case, changed, shared_s in sounds(sound, rng):
            prints["sound"].copies[case][key] = audio_fingerprint(changed, BASE_RATE_HZ)
            prints["sound"].shared_s[case][key] = shared_s
        if probe.video_stream is not None:
            frames.append(seen(path))
            began = cpu_s()
            prints["picture"].originals[key] = frame_hashes(frames[-1])
            prints["picture"].cost_s.append(cpu_s() - began)
            for case, changed, shared_s in films(path, min(probe.duration_s("video"), 30.0), rng):
                prints["picture"].copies[case][key] = frame_hashes(changed)
                prints["picture"].shared_s[case][key] = shared_s
    return prints, heard_of, frames


def main(media_folders: tuple[Path, ...], scale: int = 130_000) -> None:
    """Measure on the clips of some folders.

    Args:
        media_folders: Folders of music or music videos; the first 30 s of every file are a clip.
        scale: Clips in the large index.
    """
    began_s = cpu_s()
    files = [
        (f"{n}/{path.relative_to(folder)}", path)
        for n, folder in enumerate(media_folders)
        for path in sorted(folder.rglob("*"))
        if path.suffix in media.MEDIA_SUFFIXES
    ]
    prints, heard_of, frames = collect(files)
    results: dict[str, Any] = {}
    same: set[frozenset[str]] = set()
    held = []  # both indexes, as in a build
    for name, kind in KINDS.items():
        mine = prints[name]
        if len(mine.originals) < 4:
            continue
        index = FingerprintIndex(mine.originals.items(), kind)
        alike = {frozenset((key, m.key)) for key, items in mine.originals.items() for m in index.matches(items)}
        same |= {
            pair for pair in alike if len(pair) == 2 and correlation(*(heard_of[key] for key in pair)) > SAME_WAVEFORM
        }
        pairs, cases = other_recordings(mine, kind, same), look_up(mine, kind, same)
        filler, half_of = made_up(mine, name, frames, scale - len(mine.originals))
        large, kept = at_scale(mine, kind, filler, half_of)
        held.append(kept)
        results[name] = {
            "limits": {key: getattr(kind, key) for key in ("max_difference", "min_change_bits", "sure_change_bits")},
            "CPU a clip, ms": 1000 * float(np.median(mine.cost_s)),
            "different recordings": told_of_pairs(pairs, kind),
            "second half in the first": of_another_part(mine, kind),
            "by the other half's limit": by_other_half(cases, pairs, list(mine.originals)),
            "cases": {case: {key: row[key] for key in row if key != "least"} for case, row in cases.items()},
            "scale": large,
        }
    told = subprocess.run([_chromaprint_exe(), "-version"], capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = {"clips": len(heard_of), "pairs that are one recording": len(same)}
    found |= {"both large indexes, MiB": round(sum(index.num_bytes for index in held) / 2**20)}
    found |= {"Chromaprint by ffmpeg": told.split()[2], "CPU of all this, s": round(cpu_s() - began_s)}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), **found, "results": results}, indent=1) + "\n")
    show(found, results)


def show(found: dict[str, Any], results: dict[str, Any]) -> None:
    print(", ".join(f"{name}: {value}" for name, value in found.items()))
    for name, result in results.items():
        print(f"\n| {name} | found | 95% interval | at every offset | among {result['scale']['clips']:,} | wrong |")
        print("|---|---|---|---|---|---|")
        for case, row in result["cases"].items():
            low, high = row["95% interval"]
            small = f"{row['found']} of {row['clips']} | {low:.2f} to {high:.2f} | {row['found at every offset']}"
            print(f"| {case} | {small} | {result['scale']['found'][case]} | {row['wrong']} |")
        print(f"\n| {name}, different recordings | pairs | false | smallest | 1 in 1000 | median |")
        print("|---|---|---|---|---|---|")
        for half, row in result["different recordings"].items():
            numbers = " | ".join(f"{row[q]:.2f}" for q in ("smallest", "1 in 1000", "median"))
            print(f"| {half} | {row['pairs']} | {row['false matches']} | {numbers} |")
        for halves, row in result["by the other half's limit"].items():
            cases = "; ".join(f"{case} {told['found']} of {told['of']}" for case, told in row["found"].items())
            print(f"\nchosen on {halves}: limit {row['limit']}, false {row['false']} of {row['pairs']}; {cases}")
        scale = {key: value for key, value in result["scale"].items() if key != "found"}
        print(f"\n{name}: {result['CPU a clip, ms']:.0f} ms a clip; {result['limits']}; {scale}")
        print(f"second half in the first: {result['second half in the first']}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.fingerprint", description=__doc__)
