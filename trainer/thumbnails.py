"""Small pictures of many clips on one JPEG: a sheet that a page cuts them out of."""

import io
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

MAX_THUMBNAILS = 2000
LARGE_UP_TO = 500
"""Clips that get large pictures; with more they are small, so that a sheet stays about as large."""
LARGE_PX, SMALL_PX = (128, 72), (64, 36)  # width, height: frames are stored square, most videos are 16:9
QUALITY = 72


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Pictures in rows, as many a row as columns."""

    jpeg: bytes
    columns: int
    width_px: int
    """Of one picture."""
    height_px: int


@dataclass(kw_only=True)
class Thumbnails:
    """The middle frames of some clips, taken as they come by, in whatever order."""

    size_px: tuple[int, int]
    pictures: dict[int, Image.Image] = field(default_factory=dict)
    """By place on the sheet."""

    @classmethod
    def room_for(cls, count: int) -> "Thumbnails":
        """Return an empty collection for so many."""
        return cls(size_px=LARGE_PX if count <= LARGE_UP_TO else SMALL_PX)

    def take(self, place: int, frames_THWC: np.ndarray) -> None:
        """Keep a clip's middle frame.

        Parameters
        ----------
        frames_THWC
            uint8, RGB.
        """
        frame = Image.fromarray(np.ascontiguousarray(frames_THWC[len(frames_THWC) // 2]))
        self.pictures[place] = frame.resize(self.size_px, Image.Resampling.LANCZOS)

    def sheet(self) -> Sheet | None:
        """Put them on one sheet; None where there are none."""
        if not self.pictures:
            return None
        count, (width_px, height_px) = max(self.pictures) + 1, self.size_px
        columns = math.ceil(math.sqrt(count * height_px / width_px))
        canvas = Image.new("RGB", (columns * width_px, math.ceil(count / columns) * height_px))
        for place, picture in self.pictures.items():
            canvas.paste(picture, (place % columns * width_px, place // columns * height_px))
        written = io.BytesIO()
        canvas.save(written, "JPEG", quality=QUALITY, optimize=True)
        return Sheet(jpeg=written.getvalue(), columns=columns, width_px=width_px, height_px=height_px)
