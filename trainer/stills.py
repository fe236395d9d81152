"""Frames of a video for its pictures, picked while its windows go by."""

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np

MAX_STILLS = 48
"""Frames kept of a video, evenly over time, and never less than half as many: a strip of upright ones has 21."""
FIRST_STEP_S = 0.9  # between them, until they are too many: every second frame of a window


@dataclass(frozen=True, kw_only=True)
class Still:
    """What is on show at a moment."""

    time_s: float
    frame_HWC: np.ndarray
    """uint8 (128, 128, 3), RGB, whatever the video's shape."""


class Stills:
    """The first frame of every step of time, whose length doubles until they are at most ``MAX_STILLS``."""

    def __init__(self) -> None:
        self.kept: list[Still] = []
        self._step_s = FIRST_STEP_S

    def _step(self, time_s: float) -> int:
        return math.floor((time_s - FIRST_STEP_S / 2) / self._step_s)  # films begin black

    def offer(self, frames_THWC: np.ndarray | None, *, start_s: float, valid_s: float, length_s: float) -> None:
        """Take those frames of a window that are due; windows come in the order of time, and may overlap.

        Parameters
        ----------
        frames_THWC
            uint8 (T, H, W, 3), evenly over the window's ``length_s`` seconds; None where there is no picture.
        start_s
            Of the window, in the video.
        valid_s
            Seconds after which frames are no more than filling.
        """
        if frames_THWC is None:
            return
        for i, frame_HWC in enumerate(frames_THWC):
            since_s = i * length_s / len(frames_THWC)
            last = self._step(self.kept[-1].time_s) if self.kept else -1
            if since_s >= valid_s or self._step(start_s + since_s) <= last:
                continue
            self.kept.append(Still(time_s=start_s + since_s, frame_HWC=frame_HWC.copy()))
            while len(self.kept) > MAX_STILLS:
                self._step_s *= 2
                self.kept = [next(same) for _, same in groupby(self.kept, lambda still: self._step(still.time_s))]
