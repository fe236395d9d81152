"""What frames stored as JPEG cost and save, beside lossless ones: bytes, error, CPU time, and samples a second.

    python -m benchmarks.frames --media FOLDER --count 42 --rounds 7

Frames of 30 s of each clip, as a build takes them, encoded at several qualities with colour at full resolution
(4:4:4, what ``pipeline.sheet`` stores) and halved (4:2:0); errors are against the lossless frames. Times of encoding
and decoding are CPU ms of one thread, the fastest of some rounds of each clip; table and file give medians over clips,
and quartiles. Then a real set is built both ways, and read by the trainer's own loader as pretraining reads it, beside
reading its tars as they lie there and doing nothing with them: the ways take turns, round by round. All is read from
the page cache: what is measured is the work, not the disk.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # as in a worker

import io
import json
import tempfile
import time
import warnings
from collections import defaultdict
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
from pipeline import shards
from pipeline.build import Build
from pipeline.prepare import Recipe, prepare
from pipeline.schema import SHEET, Sample, decode, encode
from pipeline.sheet import QUALITY, decode_sheet
from pipeline.sources import Source, list_sources
from trainer.inputs import members_read
from trainer.loader import Loader, Order
from trainer.models.presets import build_encoder, network_config
from trainer.shards import ShardSet, num_samples

RESULT = Path(__file__).with_name("results") / "frames.json"
QUALITIES = (75, 85, 90, 95)
TRIES = 3  # of each clip's encoding and decoding
READERS = (0, 2)  # worker processes
EPOCHS = 3  # read without checking hashes, in a round
COLUMNS = ("bytes", "psnr_db", "mean_error", "encode_ms", "decode_ms", "torchvision_ms")

Spread = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path
    """Folder of videos of 30 s or more."""
    count: int = 42
    """Clips taken of it, evenly."""
    rounds: int = 7
    """How often each way of reading is timed."""


def main(config: Config) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # of more workers than cores
    found = list_sources(str(config.media), labels=None)
    sources = [found[i * len(found) // config.count] for i in range(min(config.count, len(found)))]
    outcomes = [(source, prepare(source, recipe=Recipe(), seed=0)) for source in sources]
    clips = [(source, outcome) for source, outcome in outcomes if isinstance(outcome, Sample)]
    frames = [sample.arrays["frames"] for _, sample in clips]
    forms = {"npy": spreads([lossless(one) for one in frames])}
    for colour, subsampling in (("4:4:4", 0), ("4:2:0", 2)):
        for quality in QUALITIES:
            forms[f"jpeg {quality} {colour}"] = spreads([lossy(one, quality, subsampling) for one in frames])
    with tempfile.TemporaryDirectory() as scratch:
        recipes = {"npy": Recipe(), f"jpeg {QUALITY}": Recipe(frames="jpeg", jpeg_quality=QUALITY)}
        sets = {name: built(Path(scratch) / name.replace(" ", ""), clips, r) for name, r in recipes.items()}
        reading = read_in_turns(sets, config.rounds)
    report = {"clips": len(clips), "frames": forms, "reading": reading, "environment": environment()}
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    show(forms, reading)


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


# --- a set -----------------------------------------------------------------------------------------------------------


def built(out: Path, clips: Sequence[tuple[Source, Sample]], recipe: Recipe) -> Path:
    """A set of clips that are prepared already, as the flow builds it."""
    build = Build.request(
        out=out,
        sources=[source for source, _ in clips],
        recipe=recipe,
        seed=0,
        labelled=None,
        split_rule=None,
        samples_per_shard=16,
    )
    build.begin()
    for source, sample in clips:
        shards.write_part(build.work, [source], [shards.prepared(source, sample, jpeg_quality=recipe.jpeg_quality)])
    build.make_plan()
    for name in build.shards_to_pack():
        build.pack(name)
    build.finish()
    return out


def read_in_turns(sets: dict[str, Path], rounds: int) -> dict[str, dict[str, Spread]]:
    """Samples a second by set and way: raw; by the loader, first epoch (with hashes) and later ones.

    With them the CPU time of one process, which other work on the machine changes less.
    """
    members = members_read(build_encoder(network_config("slow-fast", "paper")).inputs)
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for name, folder in sets.items():
            data = ShardSet.open(str(folder))
            samples = num_samples(data.shards)
            began = time.perf_counter()
            for shard in data.shards:
                Path(shard.path).read_bytes()
            rates[name]["raw reading"].append(samples / (time.perf_counter() - began))
            for workers in READERS:
                how = f"{workers} workers" if workers else "one process"
                order = Order(batch_size=8, shuffle_buffer=16, workers=workers)
                loader = Loader(data, data.shards, members=members, order=order, keep_workers=True)
                began = time.perf_counter()
                assert sum(len(batch["keys"]) for batch in loader.batches(0)) == samples
                rates[name][f"{how}, first epoch"].append(samples / (time.perf_counter() - began))
                began, began_cpu = time.perf_counter(), time.process_time()
                for epoch in range(1, 1 + EPOCHS):
                    for _batch in loader.batches(epoch):
                        pass
                rates[name][f"{how}, later epochs"].append(EPOCHS * samples / (time.perf_counter() - began))
                if not workers:
                    rates[name]["the same, CPU ms a sample"].append(
                        1000 * (time.process_time() - began_cpu) / (EPOCHS * samples)
                    )
                del loader  # its workers go with it
    sizes = {name: sum(tar.stat().st_size for tar in folder.glob("*.tar")) for name, folder in sets.items()}
    return {
        name: {how: spread(values) for how, values in ways.items()}
        | {"bytes a sample": {"median": sizes[name] / num_samples(ShardSet.open(str(sets[name])).shards)}}
        for name, ways in rates.items()
    }


# --- words -----------------------------------------------------------------------------------------------------------


def show(forms: dict[str, dict[str, Spread]], reading: dict[str, dict[str, Spread]]) -> None:
    print("frames           " + "".join(f"{name:>22}" for name in COLUMNS))
    for form, columns in forms.items():
        cells = [words(columns[name]) if name in columns else "" for name in COLUMNS]
        print(f"{form:<17}" + "".join(f"{cell:>22}" for cell in cells))
    print("\nsamples/s                 " + "".join(f"{name:>26}" for name in reading))
    for how in next(iter(reading.values())):
        print(f"{how:<26}" + "".join(f"{words(ways[how]):>26}" for ways in reading.values()))


def words(one: Spread) -> str:
    if "quarter" not in one or one["quarter"] == one["three_quarters"]:
        return f"{one['median']:,.0f}"
    digits = 0 if one["median"] >= 100 else 2 if one["median"] < 10 else 1
    return f"{one['median']:,.{digits}f} ({one['quarter']:,.{digits}f}-{one['three_quarters']:,.{digits}f})"


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.frames", description=__doc__))
