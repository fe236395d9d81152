"""Frames as one JPEG: the smaller, lossy form in which a set may store them.

The 64 frames of a clip stand in a sheet of 8 by 8, row by row: frame i at row i // 8, column i % 8. Their sides are
whole blocks of JPEG, so no frame bleeds into another. Colour is stored at full resolution (4:4:4): on frames of 128
pixels it costs fewer bytes for the same error than halved colour at a higher quality (``benchmarks/frames.py``), and a
reader need not agree with us on how to enlarge it. Pillow is imported where it is needed alone.
"""

from __future__ import annotations

import io

import numpy as np

COLUMNS = 8  # frames side by side
FULL_COLOUR = 0  # Pillow's number of 4:4:4
QUALITY = 90  # by default: frames 41 dB from the lossless ones, in a ninth of the bytes
MAX_QUALITY = 95  # beyond it, says Pillow, files grow with hardly any gain
_START_OF_SCAN = b"\xff\xda"


def encode_sheet(frames_THWC: np.ndarray, *, quality: int) -> bytes:
    """JPEG of all frames; the same bytes for the same frames, quality and release of Pillow.

    Parameters
    ----------
    frames_THWC
        uint8 (a multiple of 8, height, width, 3), RGB; height and width multiples of 8.
    quality
        1 to 95, on libjpeg's scale.
    """
    from PIL import Image

    num_frames, height_px, width_px, channels = frames_THWC.shape
    grid = frames_THWC.reshape(num_frames // COLUMNS, COLUMNS, height_px, width_px, channels)
    sheet = grid.swapaxes(1, 2).reshape(num_frames // COLUMNS * height_px, COLUMNS * width_px, channels)
    target = io.BytesIO()
    Image.fromarray(sheet).save(target, "JPEG", quality=quality, subsampling=FULL_COLOUR)
    return target.getvalue()


def decode_sheet(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Frames of a sheet that may come from anywhere.

    Parameters
    ----------
    raw
        A file of JPEG; its size and colours are read from its head before any pixel is decoded.
    shape
        ``(frames, height, width, 3)``.

    Returns
    -------
    np.ndarray
        uint8 of that shape, RGB.

    Raises
    ------
    ValueError
        If it is anything but a whole JPEG of one scan, of the sheet's size, in colour.
    """
    from PIL.JpegImagePlugin import JpegImageFile  # not `Image.open`: no other format, nor several pictures in one file

    num_frames, height_px, width_px, channels = shape
    size = COLUMNS * width_px, num_frames // COLUMNS * height_px
    try:
        with JpegImageFile(io.BytesIO(raw)) as image:
            told = f"{image.width} x {image.height} {image.mode}"
            if (image.size, image.mode) != (size, "RGB"):
                raise ValueError(f"a JPEG of {told}, not of {size[0]} x {size[1]} RGB")
            if raw.count(_START_OF_SCAN) != 1:  # a file of 3 MB can hold so many that they take minutes
                raise ValueError("a JPEG of several scans; ours have one")
            sheet = np.asarray(image)
    except ValueError:
        raise
    except Exception as error:  # Pillow raises many for a damaged file
        raise ValueError(f"no whole JPEG: {error}") from error
    grid = sheet.reshape(num_frames // COLUMNS, height_px, COLUMNS, width_px, channels)
    return grid.swapaxes(1, 2).reshape(shape)
