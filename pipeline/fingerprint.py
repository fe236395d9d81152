"""Is it the same song or video again? Chromaprint of the sound, perceptual hashes of the frames, and an index of many.

A fingerprint is a sequence of items: a uint32 every 0.124 s of sound, a uint64 every 0.47 s of picture. Two clips match
where, laid over each other at some offset, they differ by much less than either differs from itself seconds later. So
silence, a held tone, noise or a still picture matches nothing: they do not differ from themselves.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from pipeline.errors import UserError

FINGERPRINT_TIMEOUT_S = 60.0
FLAT_LEVELS = 6.0  # standard deviation of 255 grey levels, below which a frame is flat and has no hash
BAR_LEVEL = 28  # of 255: rows and columns that are hardly ever brighter are black bars
OWN_LAGS = (3, 5, 8, 13)  # items at which a clip is compared to itself: 0.4 to 1.6 s of sound, 1.4 to 6 s of picture
MAX_ALIGNMENTS = 4096  # looked at closely for one query, those with most equal items first
MAX_ENTRIES = 512  # of an item that more entries than this have in common: it tells nothing


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one kind of fingerprint is read; the limits are evidence of ``benchmarks/fingerprint.py``."""

    bits: int
    """Of an item."""
    band_bits: int
    """Items are looked up by slices of so many bits, one of which must be equal."""
    max_difference: float
    """The largest difference of a match, as a share of what the clips differ from themselves."""
    min_change_bits: int
    """What a clip must differ from itself over the overlap, in all: too short or too steady a match proves nothing."""
    mirror_bits: int = 0
    """Bits that a picture's mirror image has the other way round."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an item, the same on every machine."""
        return np.dtype(f"<u{self.bits // 8}")


SOUND = Kind(bits=32, band_bits=32, max_difference=0.4, min_change_bits=300)
PICTURE = Kind(bits=64, band_bits=16, max_difference=0.6, min_change_bits=200, mirror_bits=0x5555555555555555)


@dataclass(frozen=True, kw_only=True, order=True)
class Match:
    """A clip of the index that is the same as the one asked for."""

    difference: float
    """0: equal; 1: they differ as much as either from itself seconds later."""
    key: str
    overlap: int
    """Items that lie over each other."""


def audio_fingerprint(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    """Chromaprint of a clip's sound (algorithm 2, as AcoustID stores it), by ffmpeg's muxer of that name.

    Parameters
    ----------
    sound
        float (n,), mono, between -1 and 1.
    rate_hz
        Of the sound.

    Returns
    -------
    np.ndarray
        uint32, one item every 0.124 s, each of 2.4 s of sound: 221 of 30 s, none of less than 2.4 s.

    Raises
    ------
    UserError
        If neither imageio-ffmpeg's ffmpeg nor the one on PATH knows Chromaprint.
    """
    pcm = np.round(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
    source = ["-f", "s16le", "-ar", str(rate_hz), "-ac", "1", "-i", "pipe:0"]
    target = ["-f", "chromaprint", "-fp_format", "raw", "pipe:1"]
    command = [_chromaprint_exe(), "-nostdin", "-hide_banner", "-loglevel", "error", "-threads", "1", *source, *target]
    # In a group of its own, as in media: Ctrl-C is for the flow to answer.
    done = subprocess.run(
        command, input=pcm, capture_output=True, timeout=FINGERPRINT_TIMEOUT_S, check=True, process_group=0
    )
    return from_bytes(done.stdout, SOUND)


@functools.cache
def _chromaprint_exe() -> str:
    """Path of an ffmpeg with Chromaprint: imageio-ffmpeg's, which starts in half the time, else the system's."""
    found = []
    try:
        import imageio_ffmpeg

        found.append(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        pass
    found += [system] if (system := shutil.which("ffmpeg")) else []
    for exe in filter(_knows_chromaprint, found):
        return str(exe)
    raise UserError("no ffmpeg here knows Chromaprint, which tells songs apart; run `apt-get install ffmpeg`")


def _knows_chromaprint(exe: str) -> bool:
    told = subprocess.run([exe, "-hide_banner", "-h", "muxer=chromaprint"], capture_output=True, check=False).stdout
    return b"Muxer chromaprint" in told


def frame_hashes(frames_THWC: np.ndarray) -> np.ndarray:
    """Perceptual hash (pHash: signs of the lowest 8 x 8 cosine coefficients) of every frame, black bars cut off.

    Parameters
    ----------
    frames_THWC
        uint8 (n, 128, 128, 3), RGB.

    Returns
    -------
    np.ndarray
        uint64 (n,); 0 for a flat frame, which has no hash.

    References
    ----------
    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010; ImageHash's ``phash``.
    """
    hashes = np.zeros(len(frames_THWC), PICTURE.dtype)
    if not len(frames_THWC):
        return hashes
    pictures = [Image.fromarray(frame).convert("L") for frame in frames_THWC]
    grey_THW = np.stack([np.asarray(picture) for picture in pictures])
    box = _inside_bars(grey_THW)
    for i, picture in enumerate(pictures):
        if grey_THW[i].std() >= FLAT_LEVELS:
            bits = imagehash.phash(picture.crop(box)).hash
            hashes[i] = np.packbits(bits).view(">u8")[0]
    return hashes


def _inside_bars(grey_THW: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the picture inside black bars; the whole where less than half would be left."""
    edges = []
    for axis, size in ((1, grey_THW.shape[2]), (2, grey_THW.shape[1])):
        lit = np.flatnonzero((grey_THW > BAR_LEVEL).mean(axis=(0, axis)) > 0.01)
        first, last = (int(lit[0]), int(lit[-1]) + 1) if len(lit) > size // 2 else (0, size)
        edges.append((first + (first > 0), last - (last < size)))  # the border row is half bar, half picture
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def to_bytes(fingerprint: np.ndarray) -> bytes:
    """Bytes of a fingerprint, for a binary column: 0.9 KB of a clip's sound, 0.5 KB of its picture."""
    return fingerprint.astype(fingerprint.dtype.newbyteorder("<")).tobytes()


def from_bytes(raw: bytes | None, kind: Kind) -> np.ndarray:
    """Fingerprint from its bytes; an absent one is empty."""
    return np.frombuffer(raw or b"", kind.dtype)


def own_change(fingerprint: np.ndarray) -> np.ndarray:
    """Bits by which each item differs from those a few places before and behind it, on average: float32 (n,).

    About 11 of 32 in music, 5 in noise, 0 in silence and in a held tone.
    """
    total, count = np.zeros((2, len(fingerprint)), np.float32)
    for lag in OWN_LAGS:
        one, other = fingerprint[lag:], fingerprint[:-lag]
        known = (one != 0) & (other != 0)
        bits = np.bitwise_count(one ^ other) * known
        for side in (slice(lag, None), slice(None, -lag)):
            total[side] += bits
            count[side] += known
    return np.asarray(total / np.maximum(count, 1))


class FingerprintIndex:
    """Fingerprints of many clips, to ask which of them a clip is the same as.

    An inverted index in sorted arrays. 13 bytes an item of sound (2.9 KB a clip), 33 of picture (2.1 KB).
    """

    def __init__(self, entries: Iterable[tuple[str, np.ndarray]], kind: Kind) -> None:
        self.kind = kind
        self.keys: list[str] = []
        fingerprints, changes = [np.zeros(0, kind.dtype)], [np.zeros(0, np.uint8)]
        for key, fingerprint in entries:
            self.keys.append(key)
            fingerprints.append(fingerprint)
            changes.append(np.round(4 * own_change(fingerprint)).astype(np.uint8))
        self._starts = np.cumsum([0, *map(len, fingerprints[1:])])
        self._items, self._change = np.concatenate(fingerprints), np.concatenate(changes)  # changes in quarter bits
        telling = np.flatnonzero((self._items != 0) & (self._change > 0)).astype(np.uint32)
        self._bands = []
        for band in _bands(self._items[telling], kind):
            order = np.argsort(band, kind="stable")
            self._bands.append((band[order], telling[order]))

    def match(self, fingerprint: np.ndarray) -> Match | None:
        """The clip most like this one, if any is the same."""
        return min(self.matches(fingerprint), default=None)

    def matches(self, fingerprint: np.ndarray) -> list[Match]:
        """Every clip that is the same as this one, the most like it first."""
        found: dict[str, Match] = {}
        turned = [fingerprint]
        if self.kind.mirror_bits:
            mirrored = fingerprint ^ self.kind.dtype.type(self.kind.mirror_bits)
            turned.append(np.where(fingerprint == 0, fingerprint, mirrored))
        for query in turned:
            for match in self._aligned(query):
                found[match.key] = min(match, found.get(match.key, match))
        return sorted(found.values())

    def _aligned(self, query: np.ndarray) -> Iterator[Match]:
        own = own_change(query)
        clips, offsets = self._alignments(query, own)
        places = offsets[:, None] + np.arange(len(query))
        inside = (places >= self._starts[clips][:, None]) & (places < self._starts[clips + 1][:, None])
        places = np.where(inside, places, 0)
        items = self._items[places]
        inside &= (items != 0) & (query != 0)
        differing = (np.bitwise_count(items ^ query) * inside).sum(axis=1)
        change = np.minimum((self._change[places] * inside).sum(axis=1) / 4, (own * inside).sum(axis=1))
        difference = differing / np.maximum(change, 1)
        same = (change >= self.kind.min_change_bits) & (difference <= self.kind.max_difference)
        for i in np.flatnonzero(same):
            yield Match(difference=float(difference[i]), key=self.keys[clips[i]], overlap=int(inside[i].sum()))

    def _alignments(self, query: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clips, and where in all items the query begins if one of its bands lies over an equal one of theirs."""
        asking = np.flatnonzero((query != 0) & (own > 0))
        hits, begins = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for (band, places), wanted in zip(self._bands, _bands(query[asking], self.kind), strict=True):
            first, last = np.searchsorted(band, wanted), np.searchsorted(band, wanted, side="right")
            counts = np.where(last - first <= MAX_ENTRIES, last - first, 0)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            hits.append(places[np.repeat(first, counts) + within].astype(np.int64))
            begins.append(hits[-1] - np.repeat(asking, counts))
        clips = np.searchsorted(self._starts, np.concatenate(hits), side="right") - 1
        # A begin may lie before its clip's first item, inside another clip: clip and begin are one number here.
        pairs = clips * (span := len(self._items) + len(query)) + np.concatenate(begins) + len(query)
        alignments, votes = np.unique(pairs, return_counts=True)
        clips, begin = np.divmod(alignments[np.argsort(-votes, kind="stable")[:MAX_ALIGNMENTS]], span)
        return clips, begin - len(query)


def _bands(items: np.ndarray, kind: Kind) -> Iterator[np.ndarray]:
    narrow = np.dtype(f"u{kind.band_bits // 8}")
    for shift in range(0, kind.bits, kind.band_bits):
        yield (items >> kind.dtype.type(shift)).astype(narrow)
