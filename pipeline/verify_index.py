"""Index and ``dataset.json``, compared with the commit records: the half of ``verify`` that reads no tar."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from pipeline import shards
from pipeline.locations import Folder
from pipeline.schema import CODES, FAILURE_CODES, MEMBERS, SCORE_RANGES, Manifest
from pipeline.storage import open_table
from pipeline.takedown import PURGED, bare
from pipeline.verify_shard import Fault, NotAsPromisedError, check_columns, read_record

Row = dict[str, Any]

MAX_MANIFEST_BYTES = 100_000_000
MAX_THUMBNAIL_BYTES = 1_000_000
MAX_THUMBNAIL_PX = 1000  # on a side
ROWS_AT_ONCE = 256
DERIVED_TOLERANCE = 1e-9  # of the mean square: sums over the set may be taken in another order


@dataclass(kw_only=True)
class Seen:
    """What the records told, as far as the rest of the set must agree with it."""

    digests: dict[str, bytes] = field(default_factory=dict)
    """Of each row by its key; what the index names is taken out again."""
    shards: dict[str, str] = field(default_factory=dict)
    """Shard of each key."""
    placed: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Samples by split, shard and label."""
    groups: dict[str, str] = field(default_factory=dict)
    """First split of each source group."""
    moments: dict[tuple[bool, str], tuple[int, Any]] = field(default_factory=dict)
    """Number of rows, and sums of means and mean squares; by training split or not, and member."""

    def add(self, row: Row, shard: str) -> None:
        """Take in a row of a shard's record; what the row itself says of the shard may be nothing."""
        self.digests[row["key"]], self.shards[row["key"]] = _digest(row), shard
        self.placed[row["split"], row["shard"] or shard, row["label"]] += 1
        for name in MEMBERS:
            pair = [row.get(f"{moment}_{name}") or [] for moment in ("mean", "meansq")]
            at = (row["split"] in ("train", "unlabeled"), name)
            if {len(moment) for moment in pair} == {MEMBERS[name].shape[MEMBERS[name].channel_axis]}:
                count, sums = self.moments.get(at, (0, 0.0))
                with np.errstate(all="ignore"):  # a record may hold any number
                    self.moments[at] = (count + 1, sums + np.array(pair, dtype=np.float64))  # None becomes nan

    def normalization(self) -> dict[str, dict[str, list[float]]]:
        """As ``shards.normalization`` derives it from all rows at once."""
        training = any(at[0] for at in self.moments)
        stats = {}
        for (of_training, name), (count, sums) in self.moments.items():
            if of_training or not training:
                with np.errstate(all="ignore"):
                    mean, meansq = sums / count
                    stats[name] = {"mean": mean.tolist(), "std": np.sqrt(np.maximum(meansq - mean**2, 0)).tolist()}
        return stats


# --- index -------------------------------------------------------------------------------------------------------


def index_faults(folder: Folder, seen: Seen, candidates: Counter[tuple[str, str]]) -> Iterator[Fault]:
    """Read the index, compare it with the records, and count its candidates by status and code."""
    name, known, strangers = "index.parquet", set[str](), defaultdict[str, list[str]](list)
    try:
        for row in _rows(folder / name):
            candidates[row["status"], row["code"]] += 1
            if row["source_id"] in known:
                yield Fault(file=name, sample=str(row["source_id"]), what="has more than one row")
            known.add(row["source_id"])
            for told in _row_faults(row):
                yield Fault(file=name, sample=str(row["key"] or row["source_id"]), what=told)
            if row["status"] != "kept":
                continue
            digest = seen.digests.pop(row["key"], None)
            if digest is None:
                strangers[row["shard"]].append(row["key"])
            elif digest != _digest(row):
                told = f"{_differing(folder / seen.shards[row['key']], row)}, unlike its shard's record"
                yield Fault(file=name, sample=str(row["key"]), what=told)
    except NotAsPromisedError as error:
        yield Fault(file=name, what=str(error))
        return
    for shard, keys in strangers.items():
        yield Fault(file=name, what=f"names {len(keys)} samples of {shard} that no record has, such as {keys[0]}")
    unnamed = defaultdict(list)
    for key in seen.digests:
        unnamed[seen.shards[key]].append(key)
    for shard, keys in unnamed.items():
        yield Fault(file=name, what=f"has no row for {len(keys)} samples of {shard}, such as {keys[0]}")


def _rows(file: Folder) -> Iterator[Row]:
    try:
        with open_table(file) as opened:
            check_columns(opened.schema_arrow)
            for batch in opened.iter_batches(ROWS_AT_ONCE, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise NotAsPromisedError(f"cannot be read: {error}") from error


def _row_faults(row: Row) -> Iterator[str]:
    status, code = row["status"], row["code"]
    if status not in ("kept", "rejected", "failed"):
        yield f"has status {status}; known are kept, rejected and failed"
    elif status == "kept" and (code is not None or not row["key"] or not row["shard"]):
        yield f"is kept, with code {code}, key {row['key']} and shard {row['shard']}"
    elif status != "kept" and (code not in CODES or row["shard"] is not None):
        yield f"is {status}, with code {code} and shard {row['shard']}"
    elif status != "kept" and (status == "failed") != (code in FAILURE_CODES):
        yield f"is {status}, which does not go with code {code}"
    if code == PURGED and (told := sorted(name for name in row.keys() - bare(row).keys() if row[name] is not None)):
        yield f"was taken down, and still has {', '.join(told)}"
    yield from _score_faults(row)
    if (picture := row.get("thumbnail")) is not None and (wrong := _wrong_with(picture)):
        yield f"has a thumbnail that {wrong}"


def _score_faults(row: Row) -> Iterator[str]:
    for name, (lowest, highest) in SCORE_RANGES.items():
        value = row.get(name)
        if value is not None and not lowest <= value <= highest:  # which no NaN is
            yield f"has {name} {value:g}, which lies between {lowest:g} and {highest:g}"
    if strangers := sorted({str(code) for code in row.get("flagged") or []} - set(CODES)):
        yield f"is flagged as {', '.join(strangers)}, which no filter says"


def _wrong_with(picture: bytes) -> str | None:
    if len(picture) > MAX_THUMBNAIL_BYTES:
        return f"has {len(picture)} bytes"
    try:
        with Image.open(io.BytesIO(picture), formats=["JPEG"]) as image:
            if max(image.size) > MAX_THUMBNAIL_PX:
                return f"has {image.width} x {image.height} pixels"
            image.load()
    except UnidentifiedImageError:  # its words are an address in memory
        return "cannot be decoded: it is no JPEG"
    except Exception as error:  # a damaged picture raises whatever its decoder does
        return f"cannot be decoded: {error}"
    return None


def _digest(row: Row) -> bytes:
    told = sorted((name, value) for name, value in row.items() if value is not None)  # older rows have fewer columns
    return hashlib.blake2b(repr(told).encode(errors="surrogateescape"), digest_size=16).digest()


def _differing(tar: Folder, row: Row) -> str:
    other = next((other for other in read_record(tar)[0] if other["key"] == row["key"]), {})
    names = sorted(name for name in row.keys() | other.keys() if repr(row.get(name)) != repr(other.get(name)))
    return f"has another {', '.join(names)}"


# --- dataset.json ------------------------------------------------------------------------------------------------


def read_manifest(file: Folder) -> Manifest:
    """Read ``dataset.json``, of which nothing is believed.

    Raises
    ------
    NotAsPromisedError, SchemaError
        If it cannot be used.
    """
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise NotAsPromisedError(f"has {file.stat().st_size} bytes")
        manifest = Manifest.from_json(file.read_text(encoding="utf-8"), where="it")
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise NotAsPromisedError(f"cannot be read: {error}") from error
    labels = manifest.labels
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise NotAsPromisedError("has labels that are no list of names")
    if labels is not None and len(set(labels)) < len(labels):
        raise NotAsPromisedError("names a label twice")
    for name in ("recipe", "splits", "counts", "normalization", "settings"):
        if not isinstance(getattr(manifest, name), dict):
            raise NotAsPromisedError(f"has {name} of another form than it should")
    filters = manifest.settings.get("filters")
    if filters is not None and not (isinstance(filters, dict) and isinstance(filters.get("thresholds", {}), dict)):
        raise NotAsPromisedError("has filters of another form than it should")
    if any(not isinstance(limit, int | float) for limit in (filters or {}).get("thresholds", {}).values()):
        raise NotAsPromisedError("has a threshold that is no number")
    if not (isinstance(manifest.versions, dict) and all(isinstance(told, str) for told in manifest.versions.values())):
        raise NotAsPromisedError("has versions of another form than it should")
    if manifest.recipe.get("modality") not in ("both", "audio", "video"):
        raise NotAsPromisedError("has a recipe of no known modality")
    if manifest.recipe.get("frames", "npy") not in ("npy", "jpeg"):
        raise NotAsPromisedError("has a recipe of no known form of frames")
    return manifest


def manifest_faults(manifest: Manifest, seen: Seen, candidates: Counter[tuple[str, str]]) -> Iterator[Fault]:
    """Derive anew what ``dataset.json`` says, from records and index."""
    recipe_hash = hashlib.sha256(json.dumps(manifest.recipe, sort_keys=True).encode()).hexdigest()[:16]
    placed = ({"split": s, "shard": h, "label": x} for (s, h, x), n in seen.placed.items() for _ in range(n))
    rows = [{"status": status, "code": code} for (status, code), n in candidates.items() for _ in range(n)]
    derived = {
        "recipe_hash": recipe_hash,
        "splits": shards.split_summary(placed, manifest.labels),
        "counts": shards.count(rows),
    }
    for name, value in derived.items():
        for told in _differences(name, getattr(manifest, name), value):
            yield Fault(file="dataset.json", what=told)
    normalization = seen.normalization()
    if normalization.keys() != manifest.normalization.keys():
        told = f"normalization is of {sorted(manifest.normalization)}, the records have {sorted(normalization)}"
        yield Fault(file="dataset.json", what=told)
    for name in normalization.keys() & manifest.normalization.keys():
        if not _is_close(manifest.normalization[name], normalization[name]):
            yield Fault(file="dataset.json", what=f"normalization of {name} is not that of the records")


def _differences(name: str, said: object, derived: object) -> Iterator[str]:
    if isinstance(said, dict) and isinstance(derived, dict):
        for key in sorted(said.keys() | derived.keys()):
            yield from _differences(f"{name}.{key}", said.get(key), derived.get(key))
    elif said != derived:
        yield f"{name} is {said}, and should be {derived}"


def _is_close(said: object, derived: Mapping[str, Sequence[float]]) -> bool:
    """Compare mean and variance, on the scale of the mean square."""
    try:
        with np.errstate(all="ignore"):
            return _differ_little(said, derived)
    except (TypeError, ValueError, KeyError, OverflowError):
        return False


def _differ_little(said: Any, derived: Mapping[str, Sequence[float]]) -> bool:
    mean, std = (np.array(said[moment], dtype=np.float64) for moment in ("mean", "std"))
    own_mean, own_std = np.array(derived["mean"]), np.array(derived["std"])
    scale = own_mean**2 + own_std**2
    close = np.abs(mean - own_mean) <= DERIVED_TOLERANCE * np.sqrt(scale)
    close &= np.abs(std**2 - own_std**2) <= DERIVED_TOLERANCE * scale
    return mean.shape == own_mean.shape and bool(close.all())
