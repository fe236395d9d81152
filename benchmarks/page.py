"""Time and memory that card and page of a large set take.

    python -m benchmarks.page                 writes benchmarks/results/page.json

The index is made up: 130,000 candidates, half of them kept, a quarter of the others with a picture of 6 KB. Of its 508
shards those with clips that the page shows are tars of 8 samples, theirs last; the others are commit records over empty
tars. What makes it up runs in another process than what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.environment import environment
from pipeline.filters.judge import Filters
from pipeline.page.clips import NUM_HEARD, NUM_SHOWN, spread
from pipeline.prepare import Recipe
from pipeline.schema import CODES, INDEX, MEMBERS, SCORES, Manifest, Sample, encode
from pipeline.shards import record_of, write_rows
from pipeline.thumbnail import thumbnail

RESULT = Path(__file__).parent / "results" / "page.json"
NUM_ROWS = 130_000
PER_SHARD = 128
THUMBNAIL_BYTES = 6_000
PICTURED = frozenset({"silent", "tone", "clipped", "speech", "not-music", "static"})


def make(folder: Path, num_rows: int) -> None:
    """Write a made-up set: index, ``dataset.json``, commit records and a few tars."""
    from webdataset import TarWriter

    rng = np.random.default_rng(0)
    num_kept = num_rows // 2
    shards = [f"unlabeled-{number:06d}.tar" for number in range(-(-num_kept // PER_SHARD))]
    codes = rng.choice([code for code in CODES if code != "purged"], num_rows - num_kept)
    names = np.arange(num_rows)
    picture = thumbnail(np.zeros(MEMBERS["frames"].shape, np.uint8))  # what stands behind its end is not looked at
    left_out = [None] * (num_rows - num_kept)
    columns: dict[str, Any] = {
        "key": [f"clip-{n}_00000000_00000000" for n in names[:num_kept]] + left_out,
        "source_id": [f"youtube:{n:011d}" for n in names],
        "link": [f"https://www.youtube.com/watch?v={n:011d}" for n in names],
        "status": ["kept"] * num_kept + ["rejected"] * (num_rows - num_kept),
        "code": [None] * num_kept + codes.tolist(),
        "detail": [None] * num_kept + [f"so and so much of it, clip {n}" for n in names[num_kept:]],
        "split": ["unlabeled"] * num_kept + left_out,
        "source_group": [f"group {n // 2}" for n in names],
        "shard": [shards[n // PER_SHARD] for n in names[:num_kept]] + left_out,
        "duration_s": rng.normal(230, 60, num_rows),
        "valid_s": np.full(num_rows, 30.0),
        "title": [f"Somebody: a song with a longish title ({n}), official video" for n in names],
        "uploader": [f"channel {n}" for n in rng.integers(0, 40_000, num_rows)],
        "licence": ["Creative Commons Attribution license (reuse allowed)"] * num_rows,
        "query": [f"search:words number {n}" for n in rng.integers(0, 300, num_rows)],
        "thumbnail": [None] * num_kept
        + [picture + rng.bytes(THUMBNAIL_BYTES - len(picture)) if code in PICTURED else None for code in codes],
    }
    columns |= {name: rng.random(num_rows) for name, kind in SCORES.items() if kind == pa.float64()}
    empty = {name: pa.nulls(num_rows, INDEX.field(name).type) for name in INDEX.names if name not in columns}
    table = pa.table({name: columns.get(name, empty.get(name)) for name in INDEX.names}, schema=INDEX)
    pq.write_table(table, folder / "index.parquet", compression="zstd")
    shown = {n // PER_SHARD: n for n in spread([range(num_kept)], NUM_SHOWN) + spread([range(num_kept)], NUM_HEARD)}
    zeros = {name: np.zeros(member.shape, member.dtype) for name, member in MEMBERS.items()}
    for number, shard in enumerate(shards):
        tar = folder / shard
        with tar.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as writer:
            if number in shown:
                for key in [*(f"other-{n}_00000000_00000000" for n in range(7)), columns["key"][shown[number]]]:
                    writer.write(encode(Sample(key=key, arrays=zeros, label=None, meta={})))
        write_rows(record_of(tar), [], INDEX, metadata={"tar_sha256": "0" * 64, "tar_bytes": str(tar.stat().st_size)})
    manifest = Manifest(
        labels=None,
        recipe=Recipe().to_dict(),
        recipe_hash=Recipe().hash,
        splits={"unlabeled": {"shards": shards, "samples": num_kept, "per_class": {}}},
        counts={"kept": num_kept, "rejected": num_rows - num_kept, "failed": 0, "by_code": {}},
        normalization={},
        settings={"filters": Filters().to_dict()},
    )
    (folder / "dataset.json").write_text(manifest.to_json())


def measure(folder: Path) -> dict[str, float]:
    """Write card and page of a set, and tell what that took."""
    begin = time.perf_counter()
    from pipeline import report

    report.rebuild(folder)
    seconds = time.perf_counter() - begin
    status = Path("/proc/self/status").read_text()  # getrusage would tell of the parent as well
    return {
        "seconds": seconds,
        "peak_mb": int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6,
    }


def main(rows: int = NUM_ROWS, measured: str = "") -> None:
    """Run the benchmark.

    Args:
        rows: Candidates of the set that is made up.
        measured: A set that stands; used by this program itself.
    """
    if measured:
        print(json.dumps(measure(Path(measured))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, rows)
        command = [sys.executable, "-m", "benchmarks.page", "--measured", scratch]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        sizes = {name: (folder / name).stat().st_size for name in ("index.parquet", "report.html", "croissant.json")}
    result = {"rows": rows, **found, "bytes": sizes}
    for name, value in result.items():
        print(name, value)
    RESULT.write_text(json.dumps({**environment(), **result}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
