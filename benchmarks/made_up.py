"""Candidates of a crawl that never was, as the store, the parts and the plan know them: no media, no samples.

Of each 100 candidates 90 are kept, 8 dropped by the filters, with a picture, and 2 not to be had. One in 50 of those
kept is a copy of an earlier one. Fingerprints have the sizes of real ones, and with media at hand also their bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.copies import heard, made_up_films, made_up_sounds, seen
from pipeline import media
from pipeline.audio import BASE_RATE_HZ
from pipeline.fingerprint import KINDS, SOUND, audio_fingerprint, to_bytes
from pipeline.queries import Query
from pipeline.schema import MEMBERS, SCORES, sample_key
from pipeline.slices import Kind
from pipeline.sources import Source
from pipeline.store import Video

Row = dict[str, Any]

PER_SEARCH = 50
COPY_EVERY = 50  # of the clips that are kept
NUM_ITEMS = {"sound_print": 221, "picture_print": 64}  # of 30 s
THUMBNAIL_BYTES = 6_000  # of four frames, as JPEG
CLIP_BYTES = 32_768  # of the files that stand for fetched clips


def ending(number: int) -> str:
    """How a candidate ends: kept, dropped, or unavailable."""
    place = number % 100
    return "unavailable" if place in (7, 57) else "dropped" if place % 12 == 5 else "kept"


def searches(count: int) -> list[Query]:
    """So many candidates' worth of searches."""
    return [
        Query(request=f"ytsearch{PER_SEARCH}:words number {n}", is_search=True) for n in range(-(-count // PER_SEARCH))
    ]


def listed(query: Query, count: int) -> list[Video]:
    """What a search gave; the last one gives what is left of the count."""
    first = PER_SEARCH * int(query.request.rsplit(" ", 1)[1])
    return [
        Video(
            video_id=f"youtube:{number:011d}",
            link=f"https://www.youtube.com/watch?v={number:011d}",
            title=f"Somebody no. {number % 40_000}: a song with a longish title ({number}), official video",
            uploader=f"channel {number % 40_000}",
            duration_s=120.0 + number % 240,
        )
        for number in range(first, min(first + PER_SEARCH, count))
    ]


def number_of(source: Source) -> int:
    """Place of a candidate among all."""
    return int(source.source_id.split(":")[1])


def row(source: Source, prints: Row, rng: np.random.Generator) -> Row:
    """What a part holds of a candidate, as ``shards.index_row`` makes it."""
    number, end = number_of(source), ending(number_of(source))
    made: Row = {
        "source_id": source.source_id,
        "link": source.link,
        "title": source.title,
        "uploader": source.uploader,
        "upload_date": "20200101",
        "licence": "Creative Commons Attribution license (reuse allowed)",
        "query": source.query,
        "groups": list(source.groups),
    }
    if end == "unavailable":
        return made | {"status": "rejected", "code": "unavailable", "detail": "HTTP 404: Video unavailable"}
    made |= {name: float(rng.random()) for name, kind in SCORES.items() if str(kind) == "double"}
    start_ms = int(rng.integers(0, 90_000))
    made |= {
        "start_s": start_ms / 1000,
        "duration_s": source.duration_s,
        "valid_s": 30.0,
        "sha256": hashlib.sha256(source.source_id.encode()).hexdigest(),
        "fps": 25.0,
        "width_px": 640,
        "height_px": 360,
        "denoised": False,
        "text_rules": [],
    }
    if end == "dropped":
        code = ("speech", "static", "not-music")[number % 3]
        told = {"status": "rejected", "code": code, "detail": "so and so much of it", "flagged": [code]}
        return made | told | {"thumbnail": rng.bytes(THUMBNAIL_BYTES)}
    made |= {"status": "kept", "flagged": []}
    made |= {"key": sample_key(title=source.title, source_id=source.source_id, start_ms=start_ms)}
    for name, member in MEMBERS.items():
        for moment in ("mean", "meansq"):
            made[f"{moment}_{name}"] = rng.random(member.shape[member.channel_axis]).tolist()
    return made | prints


def prints(count: int, folder: Path | None) -> Iterator[Row]:
    """Fingerprints of so many clips by their columns; one in 50 is that of an earlier one, with some bits changed."""
    whole = {name: np.stack(list(islice(_items(name, count, folder), count))) for name in KINDS}  # 1.4 KB a clip
    rng = np.random.default_rng(1)
    for number in range(count):
        if copied := number >= COPY_EVERY and number % COPY_EVERY == 1:
            original = int(rng.integers(0, number // COPY_EVERY)) * COPY_EVERY
        made = {}
        for name, kind in KINDS.items():
            items = whole[name][original if copied else number]
            flip = (rng.random(len(items)) < 0.3).astype(kind.dtype) if copied else kind.dtype.type(0)
            made[name] = to_bytes(items ^ flip)
        yield made


def _items(name: str, count: int, folder: Path | None) -> Iterator[np.ndarray]:
    kind, length = KINDS[name], NUM_ITEMS[name]
    if folder is None:
        return _drifting(kind, length)
    files = sorted(path for path in folder.rglob("*") if path.suffix in media.MEDIA_SUFFIXES)
    if kind is SOUND:
        return made_up_sounds([audio_fingerprint(heard(path), BASE_RATE_HZ) for path in files], SOUND, count)
    return made_up_films([seen(path) for path in files], count)


def _drifting(kind: Kind, length: int) -> Iterator[np.ndarray]:
    """Items that change as music and pictures do, a quarter of their bits at a time, and are like no others."""
    rng = np.random.default_rng(kind.bits)
    while True:
        one, two, three = rng.integers(1, 2**kind.bits, (3, length), dtype=kind.dtype, endpoint=False)
        yield np.bitwise_xor.accumulate(one & (two | three))


def batches(sources: Sequence[Source], size: int) -> Iterator[Sequence[Source]]:
    """Candidates as the flow cuts them."""
    for first in range(0, len(sources), size):
        yield sources[first : first + size]
