"""A small picture of a clip, for people."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

NUM_TILES = 4
HEIGHT_PX = 72
QUALITY = 75  # of JPEG: about 6 KB


def thumbnail(frames_THWC: np.ndarray, *, aspect: float = 16 / 9) -> bytes:
    """JPEG of four frames side by side, spread over the clip.

    Parameters
    ----------
    frames_THWC
        uint8 (n, 128, 128, 3), RGB; at least one.
    aspect
        Width over height of the video, which the stored frames have lost; taken between 1:2 and 3:1.
    """
    width = round(HEIGHT_PX * min(max(aspect, 0.5), 3.0))
    sheet = Image.new("RGB", (NUM_TILES * width, HEIGHT_PX))
    for tile in range(NUM_TILES):
        frame = frames_THWC[(2 * tile + 1) * len(frames_THWC) // (2 * NUM_TILES)]
        sheet.paste(Image.fromarray(frame).resize((width, HEIGHT_PX), Image.Resampling.BILINEAR), (tile * width, 0))
    target = io.BytesIO()
    sheet.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()
