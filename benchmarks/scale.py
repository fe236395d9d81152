"""A dry run at 130,000 candidates: store, planner, index, page and Prefect's book-keeping, without any media.

    python -m benchmarks.scale --media FOLDER     writes benchmarks/results/scale.json

Candidates are made up (``benchmarks/made_up.py``); all else is the real code, but for two things: tars are
holes of the right size, and of the fetches that are recorded all but 500 are written at once. Each step runs in a
process of its own, which has loaded the flow and its candidates before: the peak is that of the whole process, and
``start`` and ``candidates`` tell how much of it is there already. With --media (a folder of some dozen videos) made-up
fingerprints have the bits of real ones.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import benchmarks.bookkeeping
from benchmarks import made_up
from benchmarks.environment import environment

RESULT = Path(__file__).parent / "results" / "scale.json"
SIZES = (2_000, 20_000, 130_000)
SAMPLE_BYTES = 5_016_064  # in a tar, heads and json included; arrays alone are 5,007,872
REAL_FETCHES = 500  # recorded one by one, as a crawl does
NEW = 1_000  # candidates that come later, to a set that stands
LOOKUPS = 1_000
AGAIN = "the same command again"

Extra = dict[str, Any]


class Dry:
    """The flow's request for the made-up candidates, with what it opens: store, crawl and build."""

    def __init__(self, folder: Path, count: int, media: Path | None) -> None:
        self.folder, self.count, self.media = folder, count, media
        self.store: Any = None
        self.crawl: Any = None
        self.build: Any = None

    def request(self) -> Any:
        """What the command's words ask for."""
        from flows.build_shards import build_shards
        from flows.request import Request

        bound = inspect.signature(build_shards.fn).bind(**self.words())
        bound.apply_defaults()
        return Request(**bound.arguments)

    def words(self) -> dict[str, Any]:
        """Parameters of the flow."""
        keys = self.folder / f"keys-{self.count}.txt"
        keys.write_text("".join(f"{query.request.split(':', 1)[1]}\n" for query in made_up.searches(self.count)))
        return {"source": [str(keys)], "out": str(self.folder / "set"), "store": str(self.folder / "store")}

    @contextmanager
    def opened(self) -> Iterator[Dry]:
        """As the flow begins."""
        from flows.crawling import list_candidates
        from pipeline.fetch import Crawl
        from pipeline.store import open_store

        request = self.request()
        with open_store(Path(request.store)) as self.store:
            self.crawl = Crawl(self.store, request.crawl())
            self.build = list_candidates(request, self.crawl, log=lambda _: None)
            self.crawl.queue(self.build.sources)
            yield self

    def list_searches(self) -> None:
        """Record searches and their results, one search after another."""
        from pipeline.store import open_store

        with open_store(self.folder / "store") as store:
            for query in made_up.searches(self.count):
                if not store.is_listed(query.request):
                    store.add_listings({query.request: made_up.listed(query, self.count)})

    def write_parts(self, sources: list[Any]) -> None:
        """Tables of parts as workers write them; they tell of tars of samples that are not there."""
        from pipeline import shards

        rng, found = np.random.default_rng(0), made_up.prints(len(sources), self.media)
        for batch in made_up.batches(sources, 16):
            name = shards.part_name(batch)
            rows = [made_up.row(source, next(found), rng) for source in batch]
            for number, row in enumerate(rows):
                row["sample"] = f"{name}-{number:02d}.tar" if row["status"] == "kept" else None
            shards.write_rows(self.build.work / f"{name}.parquet", rows, shards.PART)


# --- steps --------------------------------------------------------------------------------------------------------


def start(dry: Dry) -> Extra:
    """The flow's imports and nothing else."""
    return {}


def listing(dry: Dry) -> Extra:
    """2,600 searches and what they gave, a commit each."""
    dry.list_searches()
    return {}


def candidates(dry: Dry) -> Extra:
    """Rules compiled, candidates read from the store, checked against the set, and queued."""
    with dry.opened():
        dry.build.begin()
        return {"candidates": len(dry.build.sources)}


def fetches(dry: Dry) -> Extra:
    """What a crawl records of a fetch, 500 times, with files of 32 KB; the others at once."""
    from pipeline.clips import ClipSpan

    store, rng, began = dry.store, np.random.default_rng(0), time.perf_counter()
    for source in dry.build.sources[:REAL_FETCHES]:
        key, video = dry.crawl._keys[source.source_id], store.video(source.video_id)
        store.set_resolved(video)
        store.spans(key)
        store.set_span(key, ClipSpan(start_s=30.0))
        file = store.fetching / "clip.mkv"
        file.write_bytes(rng.bytes(made_up.CLIP_BYTES))
        store.set_fetched(key, file, fetch_s=4.5, versions={"yt-dlp": "2026.1", "ffmpeg": "5.1"})
    each_ms = 1000 * (time.perf_counter() - began) / REAL_FETCHES
    with store._transaction() as database:
        database.execute("UPDATE video SET resolved = 1, description = title || title || title")
        database.execute(
            "UPDATE clip SET state = 'fetched', start_s = 30, length_s = 30, num_bytes = 2500000, fetch_s = 4.5, "
            'sha256 = lower(hex(randomblob(32))), versions = \'{"ffmpeg": "5.1", "yt-dlp": "2026.1"}\' '
            "WHERE sha256 IS NULL"
        )
    store._read("PRAGMA wal_checkpoint(TRUNCATE)")
    return {"ms a fetch": each_ms, "database, MB": (dry.folder / "store" / "crawl.sqlite").stat().st_size / 1e6}


def lookups(dry: Dry) -> Extra:
    """All states read at once, then about 1,000 single ones."""
    began = time.perf_counter()
    dry.store.clips()
    all_s, began = time.perf_counter() - began, time.perf_counter()
    some = dry.build.sources[:: max(1, dry.count // LOOKUPS)]
    for source in some:
        key = dry.crawl._keys[source.source_id]
        dry.store.video(source.video_id), dry.store.spans(key), dry.store.clip(key)
    return {"all states, s": all_s, "a candidate, ms": 1000 * (time.perf_counter() - began) / len(some)}


def parts(dry: Dry) -> Extra:
    """Tables of parts, with the time in which their rows are made up."""
    dry.write_parts(list(dry.build.sources))
    sizes = [part.stat().st_size for part in dry.build.parts()]
    return {"parts": len(sizes), "parts, MB": sum(sizes) / 1e6}


def resumed(dry: Dry) -> Extra:
    """What is pending, where all parts are there and no plan yet: a build that was killed."""
    return {"pending": len(dry.build.pending())}


def plan(dry: Dry) -> Extra:
    """Duplicates, groups, shuffle and packing, written down."""
    dry.build.make_plan()
    return {"plan, MB": dry.build.plan_file.stat().st_size / 1e6}


def pack(dry: Dry) -> Extra:
    """What packing reads of the plan, and the commit records; tars are holes of the right size."""
    from pipeline import shards

    build, read_s, names = dry.build, 0.0, dry.build.shards_to_pack()
    for name in names:
        began = time.perf_counter()
        rows = list(build.plan_rows(shard=name))
        read_s += time.perf_counter() - began
        size = SAMPLE_BYTES * len(rows)
        with (build.out / name).open("wb") as tar:
            tar.truncate(size)
        promise = {"recipe_hash": build.recipe.hash, "tar_sha256": "0" * 64, "tar_bytes": str(size)}
        done = [row | {"sample_sha256": "0" * 64} for row in rows]
        shards.write_rows(shards.record_of(build.out / name), done, shards.INDEX, metadata=promise)
    return {"shards": len(names), "rows of a shard read in, ms": 1000 * read_s / len(names)}


def finish(dry: Dry) -> Extra:
    """Index, dataset.json, card and page."""
    counts, out = dry.build.finish().counts, dry.build.out
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file() and file.suffix != ".tar")
    told = {"kept": counts["kept"], "duplicates": counts["by_code"].get("duplicate", 0)}
    return told | {"index, MB": (out / "index.parquet").stat().st_size / 1e6, "all but tars, MB": size / 1e6}


def settle(dry: Dry) -> Extra:
    """States of all candidates written to the store."""
    dry.crawl.settle(dry.build.known_rows())
    return {}


def up_to_date(dry: Dry) -> Extra:
    """Whether anything is left to do."""
    assert dry.build.up_to_date() is not None
    return {}


def index_check(dry: Dry) -> Extra:
    """Verify, without its reading of tars: records, index and dataset.json."""
    from pipeline import shards
    from pipeline.verify_index import Seen, index_faults, manifest_faults, read_manifest
    from pipeline.verify_shard import read_record

    out, seen, counted = dry.folder / "set", Seen(), Counter[tuple[str, str]]()
    for tar in shards.committed_shards(out):
        for row in read_record(tar)[0]:
            seen.groups.setdefault(row["source_group"], row["split"])
            seen.add(row, tar.name)
    faults = [*index_faults(out, seen, counted), *manifest_faults(read_manifest(out / "dataset.json"), seen, counted)]
    # Made-up pictures are none: that is found, and nothing else.
    return {"other faults": sum("thumbnail" not in fault.what for fault in faults)}


def opening(dry: Dry) -> Extra:
    """The set opened as the trainer does."""
    from trainer.shards import ShardSet, num_samples

    return {"samples": num_samples(ShardSet.open(str(dry.folder / "set")).shards)}


def later_parts(dry: Dry) -> Extra:
    """Parts of 1,000 new candidates, for a set that stands."""
    dry.build.begin()
    pending = dry.build.pending()
    dry.write_parts(pending)
    return {"pending": len(pending)}


def later_plan(dry: Dry) -> Extra:
    """The plan of those, beside all that stands."""
    return plan(dry)


IN_FLOW = (fetches, lookups, parts, resumed, plan, pack, finish, settle, up_to_date, later_parts, later_plan)
"""Steps that begin where the flow has read its candidates."""

STEPS = (start, listing, candidates, *IN_FLOW[:-2], index_check, opening, *IN_FLOW[-2:])


def measure(step: Callable[[Dry], Extra], dry: Dry) -> dict[str, Any]:
    """Seconds, CPU seconds and peak of resident memory of a step in this process, and what it tells itself."""
    if step not in (opening, index_check):
        import flows.build_shards  # noqa: F401  which loads Prefect
    if step in (later_parts, later_plan):
        dry = Dry(dry.folder, dry.count + NEW, dry.media)
        dry.list_searches()
    with dry.opened() if step in IN_FLOW else nullcontext():
        before_mb, began, cpu_s = peak_mb(), time.perf_counter(), process_s()
        told = step(dry)
        spent = {"seconds": time.perf_counter() - began, "cpu_s": process_s() - cpu_s}
    return {**spent, "peak_mb": peak_mb(), "before_mb": before_mb, **told}


def peak_mb() -> float:
    """Most memory that this process held; getrusage would tell of the one that started it as well."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def process_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def at_size(count: int, media: Path | None) -> dict[str, Any]:
    """All steps at one size, one after another."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        words = [sys.executable, "-m", "benchmarks.scale", "--folder", scratch, "--candidates", str(count)]
        words += ["--media", str(media)] if media else []
        for step in STEPS:
            done = subprocess.run([*words, "--step", step.__name__], stdout=subprocess.PIPE, text=True, check=True)
            found[step.__name__] = told = json.loads(done.stdout.splitlines()[-1])
            print(line(count, step.__name__, told), flush=True)
            if step is up_to_date:
                found[AGAIN] = second_run(Dry(Path(scratch), count, media))
                print(line(count, AGAIN, found[AGAIN]), flush=True)
    return found


def second_run(dry: Dry) -> dict[str, Any]:
    """What a user waits for who starts a build again that is done."""
    asked, began = dry.words(), time.perf_counter()
    flags = ["--source", asked["source"][0], "--out", asked["out"], "--store", asked["store"]]
    words = [sys.executable, "-m", "flows.build_shards", *flags]
    command = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(command.pid, 0)
    assert status == 0
    spent = {"seconds": time.perf_counter() - began, "cpu_s": usage.ru_utime + usage.ru_stime}
    return {**spent, "peak_mb": usage.ru_maxrss * 1024 / 1e6}


def line(count: int, name: str, told: dict[str, Any]) -> str:
    """A row of the table."""
    rest = {what: value for what, value in told.items() if what not in ("seconds", "cpu_s", "peak_mb", "before_mb")}
    words = ", ".join(
        f"{what} {value:,.4g}" if isinstance(value, float) else f"{what} {value:,}" for what, value in rest.items()
    )
    return f"| {count:,} | {name} | {told['seconds']:.1f} | {told['cpu_s']:.1f} | {told['peak_mb']:.0f} | {words} |"


def main(
    candidates: tuple[int, ...] = SIZES,
    media: Path | None = None,
    prefect: bool = True,
    step: str | None = None,
    folder: Path | None = None,
) -> None:
    """Run the benchmark; what is not run keeps its earlier results.

    Args:
        candidates: Sizes to run at.
        media: A folder of videos, whose fingerprints the made-up ones are made of.
        prefect: Measure Prefect's book-keeping too.
        step: One step, in this process; used by this program itself.
        folder: For that step.
    """
    if step is not None and folder is not None:
        chosen = next(one for one in STEPS if one.__name__ == step)
        print(json.dumps(measure(chosen, Dry(folder, candidates[0], media))))
        return
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"sizes": {}}
    if prefect:
        found["prefect"] = {"environment": environment(), **rounded(benchmarks.bookkeeping.measure())}
        print(found["prefect"])
    print("| candidates | step | s | CPU s | peak, MB | |\n|---|---|---|---|---|---|")
    for count in candidates:
        prints = "of real clips" if media else "random"
        steps = rounded(at_size(count, media))
        found["sizes"][str(count)] = {"environment": environment(), "fingerprints": prints, **steps}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


def rounded(value: Any) -> Any:
    """Four digits are more than enough."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
