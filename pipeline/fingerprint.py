"""Is it the same song or video again? Chromaprint of the sound, perceptual hashes of the frames.

A fingerprint is a sequence of items: a uint32 every 0.124 s of sound, a uint64 every 0.47 s of picture; 0 where there
is nothing to tell. ``matching.py`` tells which of many clips are the same.
"""

from __future__ import annotations

import imagehash
import numpy as np
from PIL import Image

from pipeline import media
from pipeline.matching import FingerprintIndex as FingerprintIndex
from pipeline.schema import CLIP_S, NUM_FRAMES
from pipeline.slices import Kind

FLAT_LEVELS = 6.0  # standard deviation of 255 grey levels, below which a frame is flat and has no hash
BAR_LEVEL = 28  # of 255: rows and columns that are hardly ever brighter are black bars

SOUND = Kind(
    bits=32,
    band_bits=32,
    min_hits=1,
    max_difference=0.4,
    min_change_bits=300,
    sure_change_bits=500,
    item_s=1365 / 11_025,
    first_item_s=(4096 + 19 * 1365) / 11_025,  # 20 windows of 4096 samples
)
PICTURE = Kind(
    bits=64,
    band_bits=16,
    min_hits=2,
    max_difference=0.65,
    min_change_bits=200,
    sure_change_bits=500,
    item_s=CLIP_S / NUM_FRAMES,
    first_item_s=CLIP_S / NUM_FRAMES,
    mirror_bits=0x5555555555555555,
)

KINDS = {"sound_print": SOUND, "picture_print": PICTURE}
"""By their columns of the index."""


def audio_fingerprint(sound: np.ndarray, rate_hz: int) -> np.ndarray:
    """Chromaprint of a clip's sound (algorithm 2, as AcoustID stores it).

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
    return from_bytes(media.chromaprint(sound, rate_hz), SOUND)


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
