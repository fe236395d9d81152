"""The contract between the pipeline and the trainer: one sample, one index row, one ``dataset.json``.

Whatever both programs must agree on stands here and, as far as the JPEG of frames goes, in ``pipeline.sheet``. The
module needs numpy and pyarrow alone, and Pillow where frames are stored as JPEG, so that a GPU host can read shards
without librosa or ffmpeg, and a crawl host can write them without torch.

    sample  <key>.frames.npy  <key>.mel_32k.npy  <key>.mel_8k.npy  <key>.mel_22k.npy  [<key>.cls]  <key>.json
            or <key>.frames.jpg in place of the first
    set     <split>-000000.tar + <split>-000000.parquet (its commit record), index.parquet, dataset.json, README.md
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.sheet import decode_sheet, encode_sheet

SCHEMA_VERSION = 1

EMOTIONS = ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")  # MVED's six, in the authors' order

Modality = Literal["both", "audio", "video"]
Frames = Literal["npy", "jpeg"]
Split = Literal["train", "val", "test", "unlabeled"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "unlabeled")

# --- the signals of a sample -------------------------------------------------------------------------------------

CLIP_S = 30  # seconds of a sample
NUM_FRAMES = 64  # frames of the fast pathway, spread evenly over the clip
SLOW_STRIDE = 8  # the slow pathway's 8 frames are frames[::8]
FRAME_SIZE_PX = 128
N_FFT = 2048  # samples of a Hann window, at every rate
HOP = 512  # samples between columns, at every rate
NUM_MELS = 128
SAMPLE_RATES_HZ = {"mel_32k": 32_000, "mel_8k": 8_000, "mel_22k": 22_050}


def num_columns(sample_rate_hz: int) -> int:
    """Columns of a centred spectrogram of one clip: 1876 at 32 kHz, 1292 at 22.05 kHz, 469 at 8 kHz."""
    return 1 + CLIP_S * sample_rate_hz // HOP


@dataclass(frozen=True, kw_only=True)
class Member:
    """One array of a sample: what a tar member of that name must hold."""

    name: str
    modality: Literal["audio", "video"]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    channel_axis: int


MEMBERS: dict[str, Member] = {
    "frames": Member(
        name="frames",
        modality="video",
        dtype=np.dtype(np.uint8),
        shape=(NUM_FRAMES, FRAME_SIZE_PX, FRAME_SIZE_PX, 3),  # T H W C, RGB
        channel_axis=3,
    ),
} | {
    name: Member(
        name=name,
        modality="audio",
        dtype=np.dtype(np.float16),
        shape=(2, NUM_MELS, num_columns(rate_hz)),  # channel 0 log-mel power in dB, channel 1 phase
        channel_axis=0,
    )
    for name, rate_hz in SAMPLE_RATES_HZ.items()
}


def members_of(modality: Modality) -> tuple[str, ...]:
    """Names of the arrays that a set of this modality holds."""
    return tuple(name for name, member in MEMBERS.items() if modality in ("both", member.modality))


SHEET = "frames.jpg"


def files_of(name: str) -> tuple[str, ...]:
    """Names, after the key's dot, under which a tar may hold an array; of the two of the frames a sample has one.

    None has more bytes than the array itself and the head of an ``.npy`` file.
    """
    return (f"{name}.npy", SHEET) if name == "frames" else (f"{name}.npy",)


def file_of(name: str, recipe: Mapping[str, Any]) -> str:
    """The one of these names that samples of this recipe have."""
    return SHEET if name == "frames" and recipe.get("frames") == "jpeg" else f"{name}.npy"


# --- what became of a candidate ----------------------------------------------------------------------------------

Status = Literal["kept", "rejected", "failed"]

CODES: dict[str, str] = {
    "unavailable": "the file or page is not there",
    "private": "its owner or members alone may see it",
    "age-gated": "the site wants to know the viewer's age",
    "geo-blocked": "the site does not show it in this country",
    "forbidden": "the site refuses it",
    "live": "it is live, and has no end yet",
    "licence": "its licence is not the one asked for, or not known",
    "excluded": "a set that was to be kept apart holds it",
    "unsupported-link": "the link is not http(s), or nothing known can read it",
    "no-label": "a labelled set was asked for, and the candidate has no known label or split",
    "no-audio": "the file has no sound",
    "no-video": "the file has no moving picture",
    "too-short": "less than 25 s of sound and picture",
    "too-large": "beyond the limits on bytes or pixels",
    "undecodable": "the file is damaged, or no media file at all",
    "text": "title, description, category or length say that it is something else: an interview, a trailer, an album",
    "silent": "nothing, or next to nothing, is to be heard",
    "tone": "its sound is one held tone or hum",
    "clipped": "its sound is cut off at full scale for much of the time",
    "speech": "people talk for much of it",
    "not-music": "little of it is music or singing: applause, noise, a game",
    "static": "its picture does not move: a still, slides, black",
    "duplicate": "the same clip is in the set already",
    "key-collision": "by chance another clip has the same key; another title or seed tells them apart",
    "purged": "it was taken down; what told of it is gone, and no later build takes it",
    "network": "the site could not be reached, or broke off",
    "timeout": "the clip took longer than the limit",
    "internal": "our own error; the traceback stands in detail",
}
"""Every reason for which a candidate is not kept. `network`, `timeout` and `internal` are failures: worth a retry."""

FAILURE_CODES = frozenset({"network", "timeout", "internal"})


class SchemaError(ValueError):
    """Stored data that break the contract; the message names the thing and the mend."""


# --- one sample --------------------------------------------------------------------------------------------------

_KEY = re.compile(r"[a-z0-9-]+_[0-9a-f]{8}_[0-9]{8}")


def sample_key(*, title: str, source_id: str, start_ms: int) -> str:
    """Key of a clip: ``<slug>_<8 hex of the source's identity>_<start, 8 digits of milliseconds>``.

    Stems repeat across classes and splits and hold dots and brackets; a tar key ends at its first dot. Hence the slug,
    and the hash of the whole identity.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "clip"
    return f"{slug}_{hashlib.sha256(source_id.encode()).hexdigest()[:8]}_{start_ms:08d}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip: arrays by member name, an optional class index, and what is known of it (JSON-able)."""

    key: str
    arrays: Mapping[str, np.ndarray]
    label: int | None
    meta: Mapping[str, Any]
    index_only: Mapping[str, bytes] = field(default_factory=dict)
    """What stands in the index alone, by its column: fingerprints."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Why a candidate is no sample: a code of ``CODES``, a detail, and what was learned of it until then."""

    code: str
    detail: str
    meta: Mapping[str, Any]
    index_only: Mapping[str, bytes] = field(default_factory=dict)
    """What stands in the index alone, by its column: a picture of the clip, where it could be decoded."""


def encode(sample: Sample, *, jpeg_quality: int | None = None) -> dict[str, Any]:
    """Turn a sample into the record that ``webdataset.TarWriter`` writes: ``__key__`` and bytes by extension.

    Parameters
    ----------
    sample
        What is to be stored.
    jpeg_quality
        Of the frames, 1 to 95; None stores them lossless.

    Raises
    ------
    SchemaError
        If the key, a dtype or a shape breaks the contract, or a number is not finite.
    """
    if not _KEY.fullmatch(sample.key):
        raise SchemaError(f"sample key {sample.key!r} is not <slug>_<8 hex>_<8 digits>")
    record: dict[str, Any] = {"__key__": sample.key}
    for name, array in sample.arrays.items():
        _check_form(sample.key, name, array.dtype, array.shape)
        if not np.isfinite(array).all():
            raise SchemaError(f"sample {sample.key}: {name} holds numbers that are not finite")
        if name == "frames" and jpeg_quality is not None:
            record[SHEET] = encode_sheet(array, quality=jpeg_quality)
            continue
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        record[f"{name}.npy"] = buffer.getvalue()
    if sample.label is not None:
        record["cls"] = str(sample.label).encode()
    record["json"] = json.dumps(sample.meta, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return record


def decode(record: Mapping[str, Any], members: Collection[str] | None = None) -> Sample:
    """Turn the bytes of a tar record back into a sample, reading nothing but what the contract allows.

    Nothing is unpickled; members that the contract does not know are ignored. Frames come in either form.

    Parameters
    ----------
    record
        ``__key__`` and bytes by extension, as ``webdataset`` groups them.
    members
        Names of the arrays wanted; all that are present by default. Those of ``.npy`` are the bytes given, so they
        cannot be written to.

    Raises
    ------
    SchemaError
        If a wanted array is absent or an array, label or json breaks the contract.
    """
    key = str(record.get("__key__", "?"))
    wanted = [n for n in MEMBERS if not record.keys().isdisjoint(files_of(n))] if members is None else members
    arrays = {name: _read_array(key, name, record) for name in wanted}
    try:
        label = int(record["cls"]) if "cls" in record else None
        meta = json.loads(record.get("json", b"{}"))
    except ValueError as error:
        raise SchemaError(f"sample {key}: cls or json cannot be read ({error})") from error
    return Sample(key=key, arrays=arrays, label=label, meta=meta)


def _read_array(key: str, name: str, record: Mapping[str, Any]) -> np.ndarray:
    files = [file for file in files_of(name) if file in record]
    if not files:
        told = " or ".join(files_of(name))
        raise SchemaError(f"sample {key} has no {told}; build the set with the modality that the network needs")
    if len(files) > 1:
        raise SchemaError(f"sample {key} has {' and '.join(files)}, of which only one can be; build the set again")
    try:
        if files == [SHEET]:
            return decode_sheet(record[SHEET], MEMBERS[name].shape)
        return _array_within(key, name, record[files[0]])
    except SchemaError:
        raise
    except ValueError as error:
        raise SchemaError(f"sample {key}: {files[0]} cannot be read ({error})") from error


def _array_within(key: str, name: str, raw: bytes) -> np.ndarray:
    """Return the array that lies in the bytes of a ``.npy``, not a copy of it; so it cannot be written to."""
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"a file of version {version[0]}.{version[1]}")
    shape, fortran_order, dtype = _NPY_HEADERS[version](stream)
    _check_form(key, name, dtype, shape)
    flat = np.frombuffer(raw, dtype, count=math.prod(shape), offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _check_form(key: str, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    member = MEMBERS.get(name)
    if member is None:
        raise SchemaError(f"sample {key}: unknown member {name!r}; known are {', '.join(MEMBERS)}")
    if dtype != member.dtype or shape != member.shape:
        raise SchemaError(
            f"sample {key}: {name} is {dtype}{shape}, but schema {SCHEMA_VERSION} says {member.dtype}{member.shape}"
        )


# --- the index: one row a candidate, kept or not -----------------------------------------------------------------

SCORES: dict[str, pa.DataType] = {
    "text_rules": pa.list_(pa.string()),  # names of the rules of pipeline/filters/rules.csv that its page or name hits
    "loudness_db": pa.float64(),  # RMS of the clip, dB of full scale
    "silent_share": pa.float64(),  # of its time
    "clipped_share": pa.float64(),  # of its samples
    "tone_share": pa.float64(),  # of the time in which it sounds: one steady tone and nothing else
    "speech_share": pa.float64(),  # of its time, as the two that follow; they may overlap
    "singing_share": pa.float64(),
    "music_share": pa.float64(),  # of music or singing
    "motion": pa.float64(),  # median difference of successive small frames, grey levels
    "moved": pa.float64(),  # share of its time in which more moves than a zoom, pan or fade of a still
    "still_share": pa.float64(),  # of its time: next to nothing changes
    "camera_share": pa.float64(),  # of its time: a zoom or pan of the whole picture, as over a still
    "held_s": pa.float64(),  # longest time for which next to nothing changes
    "black_share": pa.float64(),  # of its time
}
"""What the filters found of a clip, kept or not, by column of the index; `python -m pipeline.filters` judges anew."""

SCORE_RANGES = {name: (0.0, 1.0) for name, kind in SCORES.items() if kind == pa.float64()} | {
    "loudness_db": (-120.0, 20.0),
    "motion": (0.0, 255.0),
    "held_s": (0.0, float(CLIP_S)),
}
"""Lowest and highest of each score that is a number: all but three are shares."""

INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("source_id", pa.string()),  # relative path, or link
        ("link", pa.string()),
        ("status", pa.string()),  # kept, rejected, failed
        ("code", pa.string()),  # one of CODES; null when kept
        ("detail", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("source_group", pa.string()),  # what must not straddle splits
        ("shard", pa.string()),  # bare name of the tar; null unless kept
        ("start_s", pa.float64()),  # of the clip in its source
        ("duration_s", pa.float64()),  # of the whole source
        ("valid_s", pa.float64()),  # of the clip before padding
        ("sha256", pa.string()),  # of the media file
        ("title", pa.string()),
        ("uploader", pa.string()),
        ("upload_date", pa.string()),
        ("licence", pa.string()),
        ("query", pa.string()),  # the search, list or link that gave it
        ("fps", pa.float64()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("snr_db", pa.float64()),  # of steady hiss or hum before denoising; null where none is found
        ("denoised", pa.bool_()),
        ("flagged", pa.list_(pa.string())),  # codes of the filters that would drop it; see pipeline/filters
        *SCORES.items(),
        ("duplicate_of", pa.string()),  # key of the earlier clip that shows or plays the same
        ("thumbnail", pa.binary()),  # JPEG of four frames, of clips that the filters dropped
        ("sample_sha256", pa.string()),  # of names and bytes of the sample's members; pipeline/tars.py
        ("sample_offset", pa.int64()),  # of its first header in the tar: one sample is read without the others
        ("sample_bytes", pa.int64()),  # of all its members there, headers and padding included
        ("sound_print", pa.binary()),  # Chromaprint, uint32 every 0.124 s; pipeline/fingerprint.py
        ("picture_print", pa.binary()),  # pHash, uint64 a frame
    ]
    # Per-channel mean and mean square of each stored array: what the set's normalisation is summed from.
    + [(f"{moment}_{name}", pa.list_(pa.float64())) for name in MEMBERS for moment in ("mean", "meansq")]
)


# --- dataset.json ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``dataset.json`` says of a set."""

    labels: list[str] | None
    """Class names by class index; none for an unlabelled set."""
    recipe: dict[str, Any]
    """Settings that shape the stored arrays."""
    recipe_hash: str
    splits: dict[str, dict[str, Any]]
    """``{split: {"shards": [names], "samples": n, "per_class": {label: n}}}``."""
    counts: dict[str, Any]
    """``{"kept": n, "rejected": n, "failed": n, "by_code": {code: n}}``: one candidate, one count."""
    normalization: dict[str, dict[str, list[float]]]
    """``{member: {"mean": [...], "std": [...]}}`` per channel, of the training (or unlabelled) split."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How the set was drawn: seed, split rule, labels."""
    versions: dict[str, str] = field(default_factory=dict)
    """Tools that made it; equal bytes are promised for equal tools on one type of processor."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Text of ``dataset.json``."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "dataset.json") -> Manifest:
        """Read ``dataset.json``.

        Raises
        ------
        SchemaError
            If it is no manifest, or of another schema version.
        """
        try:
            raw = json.loads(text)
            version = raw["schema_version"]
        except (ValueError, TypeError, KeyError) as error:
            mend = "remove it and build the set as before: what stands in it is kept, and it is written anew"
            raise SchemaError(f"{where} is no data set manifest ({error}); {mend}") from error
        if version != SCHEMA_VERSION:
            raise SchemaError(
                f"{where} is of schema version {version}, this software reads {SCHEMA_VERSION}; "
                "build the set again, or use the release that wrote it"
            )
        try:
            return cls(**{name: raw[name] for name in cls.__dataclass_fields__ if name in raw})
        except TypeError as error:
            raise SchemaError(f"{where} is incomplete ({error}); build the set again") from error
