"""How fast the trainer reads, beside plain loops that read and decode the same arrays.

    python -m benchmarks.reading --media FOLDER
    python -m benchmarks.reading --shards LOSSLESS JPEG

With a folder of videos, a set of their clips is built twice, frames lossless and as JPEG; otherwise two sets are given.
Both are read as slow-fast pretraining reads them: by the trainer's own ``Loader``, in its own process and by two
workers. Reading the same tars "raw" can mean several things, and all are told:

decoded
    What anyone would write first: ``tarfile``, ``np.load`` and Pillow, for the same members, each array thrown away as
    soon as it is there. Nothing is checked, hashed, held, shuffled or made into batches. Several such processes have
    shards of their own and hand nothing over.
handed over
    The same loop in workers of torch's ``DataLoader``, which stacks batches by itself and hands them to the main
    process: what it takes that the arrays are there, where one process does not read enough.
bytes
    The tars' bytes, from one end to the other. Whoever hands out arrays cannot come near that where decoding is work.

The aims are against the first in one process, and against the second with two workers: the same arrays at the same
place. "First epoch" is the loader's first pass, in which it reads all members and compares hashes.

The ways take turns, round by round, and each round has a ratio of its own, so that other work on the machine touches
all alike; CPU times of one process stand beside it. All is read from the page cache: what is measured is the work, not
the disk.
"""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import tarfile
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.environment import environment
from benchmarks.measure import spread
from pipeline import shards
from pipeline.build import Build
from pipeline.prepare import Recipe, prepare
from pipeline.schema import Sample, file_of
from pipeline.sources import Source, list_sources
from pipeline.stages import pack_shard
from trainer.inputs import members_read
from trainer.loader import Loader
from trainer.models.presets import build_encoder, network_config
from trainer.order import Order
from trainer.shards import ShardSet, num_samples

RESULT = Path(__file__).with_name("results") / "reading.json"
FORMS = ("lossless", "JPEG")
WORKERS = 2
ONE, SOME = "one process", f"{WORKERS} workers"
IN_ONE, IN_SOME = (f"{ONE}: loader", f"{ONE}: decoded"), (f"{SOME}: loader", f"{SOME}: handed over")
COMPARED = (
    IN_ONE,
    (f"{ONE}: loader, first epoch", f"{ONE}: decoded"),
    IN_SOME,
    (f"{SOME}: loader", f"{SOME}: decoded"),
    (f"{ONE}: loader", "bytes"),
)
SAMPLES_PER_SHARD = 7
BATCH_SIZE = 8
SHUFFLE_BUFFER = 16
PASSES = 3  # over the set, in a round of each way
NETWORK: Literal["slow-fast"] = "slow-fast"

Clips = Sequence[tuple[Source, Sample]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Flags."""

    media: Path | None = None
    """Folder of videos of 30 s or more."""
    shards: tuple[Path, Path] | None = None
    """Two sets of the same clips: frames lossless, and as JPEG."""
    count: int = 42
    """Clips taken of the folder, evenly."""
    rounds: int = 9
    """How often each way of reading is timed."""

    def __post_init__(self) -> None:
        if (self.media is None) == (self.shards is None):
            raise ValueError("--media or --shards: one of them, please")


def main(config: Config) -> None:
    """Build where there are no sets, read, print, and write it down."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # of more workers than cores
    with tempfile.TemporaryDirectory() as scratch:
        folders = config.shards or built_both(Path(scratch), config)
        report = {form: measured(folder, config.rounds) for form, folder in zip(FORMS, folders, strict=True)}
    RESULT.write_text(json.dumps({**report, "environment": environment()}, indent=1) + "\n")
    print(table(report))


# --- sets ------------------------------------------------------------------------------------------------------------


def built_both(scratch: Path, config: Config) -> tuple[Path, Path]:
    """Sets of the folder's clips, prepared once."""
    found = list_sources(str(config.media), labels=None)
    sources = [found[i * len(found) // config.count] for i in range(min(config.count, len(found)))]
    outcomes = [(source, prepare(source, recipe=Recipe(), seed=0)) for source in sources]
    clips = [(source, outcome) for source, outcome in outcomes if isinstance(outcome, Sample)]
    return built(scratch / "lossless", clips, Recipe()), built(scratch / "jpeg", clips, Recipe(frames="jpeg"))


def built(out: Path, clips: Clips, recipe: Recipe) -> Path:
    """A set of clips that are prepared already, as the flow builds it."""
    build = Build.request(
        out=out,
        sources=[source for source, _ in clips],
        recipe=recipe,
        seed=0,
        labelled=None,
        split_rule=None,
        samples_per_shard=SAMPLES_PER_SHARD,
    )
    build.begin()
    quality = recipe.jpeg_quality if recipe.frames == "jpeg" else None
    for source, sample in clips:
        shards.write_part(build.work, [source], [shards.prepared(source, sample, jpeg_quality=quality)])
    build.make_plan()
    for name in build.shards_to_pack():
        pack_shard(out, name, None, recipe.hash)
    build.finish()
    return out


# --- the plain loop --------------------------------------------------------------------------------------------------


def decoded(path: str, suffixes: frozenset[str]) -> Iterator[np.ndarray]:
    """Arrays of a tar, of these kinds."""
    with tarfile.open(path) as tar:
        for entry in tar:
            suffix = entry.name.split(".", 1)[1]
            if suffix not in suffixes:
                continue
            raw = io.BytesIO(tar.extractfile(entry).read())  # type: ignore[union-attr]
            if suffix.endswith(".npy"):
                yield np.load(raw)
            else:
                sheet = np.asarray(Image.open(raw))
                yield sheet.reshape(8, 128, 8, 128, 3).swapaxes(1, 2).reshape(64, 128, 128, 3)


def read_bytes(paths: Sequence[str]) -> None:
    """The same memory is filled again and again."""
    room = bytearray(1 << 20)
    for path in paths:
        with Path(path).open("rb", buffering=0) as file:
            while file.readinto(room):
                pass


def decode_and_drop(paths: Sequence[str], suffixes: frozenset[str]) -> float:
    """CPU seconds that it took."""
    began = time.process_time()
    for path in paths:
        take_all(decoded(path, suffixes))
    return time.process_time() - began


class Plain(IterableDataset[dict[str, np.ndarray]]):
    """The same loop in a DataLoader's workers, sample by sample."""

    def __init__(self, paths: Sequence[str], suffixes: frozenset[str]) -> None:
        self.paths, self.suffixes = paths, suffixes

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        worker = get_worker_info()
        assert worker is not None
        for path in self.paths[worker.id :: worker.num_workers]:
            arrays = decoded(path, self.suffixes)
            while sample := {str(n): array for n, array in enumerate(itertools.islice(arrays, len(self.suffixes)))}:
                yield sample


def take_all(things: Iterable[object]) -> None:
    for _thing in things:
        pass


# --- turns -----------------------------------------------------------------------------------------------------------


@dataclass
class Turn:
    """Once round the set by one way; means of some passes."""

    seconds: float
    cpu_s: float
    """Of the process that reads, where there is one."""


def turn(read: Callable[[], object], passes: int = PASSES) -> Turn:
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in range(passes):
        read()
    return Turn((time.perf_counter() - began) / passes, (time.process_time() - began_cpu) / passes)


def loader_turns(data: ShardSet, members: Sequence[str], workers: int) -> dict[str, Turn]:
    """A new loader's first epoch, and later ones."""
    order = Order(batch_size=BATCH_SIZE, shuffle_buffer=SHUFFLE_BUFFER, workers=workers)
    loader = Loader(data, data.shards, members=members, order=order, keep_workers=True)
    epochs = itertools.count()

    def read() -> None:
        take_all(loader.batches(next(epochs)))

    return {"loader, first epoch": turn(read, 1), "loader": turn(read)}


def pool_turn(pool: Pool, paths: Sequence[str], suffixes: frozenset[str], processes: int) -> Turn:
    """Decode by processes that hand nothing over."""
    shares = [(paths[n::processes], suffixes) for n in range(processes)]
    spent: list[float] = []
    one = turn(lambda: spent.extend(pool.starmap(decode_and_drop, shares, 1)))
    return Turn(one.seconds, sum(spent) / PASSES)


def measured(folder: Path, rounds: int) -> dict[str, Any]:
    """Samples a second of each way, and how many times that of other ways the loader's are, round by round."""
    data = ShardSet.open(str(folder))
    paths = [shard.path for shard in data.shards]
    members = members_read(build_encoder(network_config(NETWORK, "paper")).inputs)
    suffixes = frozenset(file_of(name, data.manifest.recipe) for name in members)
    plain = DataLoader(Plain(paths, suffixes), batch_size=BATCH_SIZE, num_workers=WORKERS, persistent_workers=True)
    took: dict[str, list[Turn]] = defaultdict(list)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1) as one, fork.Pool(WORKERS) as some:  # begun before anything is timed or a loader is made
        take_all(plain)
        for _ in range(rounds):
            took["bytes"].append(turn(lambda: read_bytes(paths)))
            for who, workers, pool in ((ONE, 0, one), (SOME, WORKERS, some)):
                for name, found in loader_turns(data, members, workers).items():
                    took[f"{who}: {name}"].append(found)
                took[f"{who}: decoded"].append(pool_turn(pool, paths, suffixes, max(1, workers)))
            took[f"{SOME}: handed over"].append(turn(lambda: take_all(plain)))
    samples = num_samples(data.shards)
    return {
        "samples": samples,
        "shards": len(paths),
        "bytes_a_sample": sum(Path(path).stat().st_size for path in paths) // samples,
        "samples_s": {way: spread([samples / one.seconds for one in turns]) for way, turns in took.items()},
        "cpu_ms_a_sample": {
            way: spread([1000 * one.cpu_s / samples for one in turns])
            for way, turns in took.items()
            if not way.startswith(SOME)
        },
        "times_as_fast": {
            f"{way} / {other}": spread([b.seconds / a.seconds for a, b in zip(took[way], took[other], strict=True)])
            for way, other in COMPARED
        },
    }


# --- words -----------------------------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> str:
    """All of it, in Markdown."""
    lines = [f"| | {' | '.join(FORMS)} |", "| --- | --- | --- |"]
    for kind, words in (("samples_s", "samples/s"), ("cpu_ms_a_sample", "CPU ms a sample"), ("times_as_fast", "ratio")):
        for way in report[FORMS[0]][kind]:
            found = [report[form][kind][way] for form in FORMS]
            digits = 2 if kind == "times_as_fast" else 1
            cells = [
                f"{one['median']:.{digits}f} ({one['quarter']:.{digits}f} to {one['three_quarters']:.{digits}f})"
                for one in found
            ]
            lines.append(f"| {words}: {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.reading", description=__doc__))
