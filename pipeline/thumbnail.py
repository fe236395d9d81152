"""A small picture of a clip, for people."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

COLUMNS, ROWS = 2, 2  # of frames
HEIGHT_PX = 72  # of a frame
QUALITY = 75  # of JPEG: about 6 KB


def thumbnail(frames_THWC: np.ndarray, *, aspect: float = 16 / 9) -> bytes:
    """JPEG of four frames, two by two, spread over the clip.

    Parameters
    ----------
    frames_THWC
        uint8 (n, 128, 128, 3), RGB; at least one.
    aspect
        Width over height of the video, which the stored frames have lost; taken between 1:2 and 3:1.
    """
    width = round(HEIGHT_PX * min(max(aspect, 0.5), 3.0))
    sheet = Image.new("RGB", (COLUMNS * width, ROWS * HEIGHT_PX))
    num_tiles = COLUMNS * ROWS
    for tile in range(num_tiles):
        frame = Image.fromarray(frames_THWC[(2 * tile + 1) * len(frames_THWC) // (2 * num_tiles)])
        row, column = divmod(tile, COLUMNS)
        sheet.paste(frame.resize((width, HEIGHT_PX), Image.Resampling.BILINEAR), (column * width, row * HEIGHT_PX))
    target = io.BytesIO()
    sheet.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()
