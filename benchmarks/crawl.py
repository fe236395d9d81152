"""How much of the videos a crawl pulls: bytes that a site sends, over the bytes of the whole videos.

    python -m benchmarks.crawl

It writes benchmarks/results/crawl.json. The site is the tests' catalogue on loopback: 60 videos of 4 minutes, a third
each as an mp4 with its index at the front, one with its index at the end, and HLS; real yt-dlp, ffmpeg and proxy.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks.environment import environment
from pipeline.crawl import Access
from pipeline.fetch import Crawl, CrawlSettings
from pipeline.queries import candidates_of, read_queries
from pipeline.store import open_store
from tests.catalogue.media import long_recording
from tests.catalogue.site import PLUGINS, Catalogue, Recording, Video

RESULT = Path(__file__).parent / "results" / "crawl.json"
NUM_VIDEOS = 60
KINDS = ("mp4, index first", "mp4, index last", "hls")


def whole_bytes(recording: Recording, kind: str) -> int:
    """Size of the whole video at 360p, in the form in which it is offered."""
    if kind != "hls":
        return recording.files[360].stat().st_size
    assert recording.hls is not None
    return sum(file.stat().st_size for file in recording.hls.glob("360*"))


def main() -> None:
    """Crawl, count, print, write."""
    folder = Path(tempfile.gettempdir()) / "catalogue-long"
    first, last = (long_recording(folder, number=n, faststart=n == 0) for n in (0, 1))
    made = {KINDS[0]: first, KINDS[1]: last, KINDS[2]: first}
    kind_of = {f"video-{n:02d}": KINDS[n % len(KINDS)] for n in range(NUM_VIDEOS)}
    videos = [
        Video(id=name, recording=made[kind], kind="hls" if kind == "hls" else "mp4") for name, kind in kind_of.items()
    ]
    with Catalogue(videos, searches={"song": list(kind_of)}) as site, tempfile.TemporaryDirectory() as scratch:
        os.environ |= site.environment
        access = Access(allow_private=True, plugins=str(PLUGINS), request_pause_s=0)
        settings = CrawlSettings(access=access, seed=0, modality="both", sleep_s=(0, 0))
        began_s = time.perf_counter()
        with open_store(Path(scratch)) as store:
            crawl = Crawl(store, settings)
            queries = read_queries(["search:song"], search_prefix="catsearch", per_search=NUM_VIDEOS)
            sources = candidates_of(crawl.list_videos(queries), None, clips_per_video=1)
            crawl.queue(sources)
            fetched = [source for source in crawl.fetch(sources) if source.problem is None]
            stored = sum(source.path.stat().st_size for source in fetched if source.path)
        elapsed_s = time.perf_counter() - began_s
        served = {kind: sum(site.bytes_of(name) for name, k in kind_of.items() if k == kind) for kind in KINDS}
    whole = {kind: sum(whole_bytes(made[k], k) for k in kind_of.values() if k == kind) for kind in KINDS}
    rows = {kind: {"served_bytes": served[kind], "whole_bytes": whole[kind]} for kind in KINDS}
    rows["all"] = {"served_bytes": sum(served.values()), "whole_bytes": sum(whole.values())}
    for row in rows.values():
        row["ratio"] = round(row["served_bytes"] / row["whole_bytes"], 4)
    result = {
        "environment": environment(),
        "command": "python -m benchmarks.crawl",
        "videos": NUM_VIDEOS,
        "fetched": len(fetched),
        "stored_bytes": stored,
        "seconds": round(elapsed_s, 1),
        "by_kind": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{len(fetched)} of {NUM_VIDEOS} fetched in {elapsed_s:.0f} s, {stored / 1e6:.0f} MB stored")
    for kind, row in rows.items():
        print(f"{kind:18} {row['served_bytes'] / 1e6:7.1f} of {row['whole_bytes'] / 1e6:7.1f} MB: {row['ratio']:.3f}")


if __name__ == "__main__":
    main()
