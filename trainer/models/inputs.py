"""What a pathway reads: the tensors of one 30-second clip, without the batch axis.

Shape legend of this package: B batch, C channels, T video frames, H rows, W columns, M mel bands; T of a mel is its
time columns; N stands for the axes after the channels, (T, H, W) of a video or (M, T) of a mel.
"""

import math
from dataclasses import dataclass
from typing import Literal

Modality = Literal["video", "audio"]
Phase = Literal["projected", "angle", "cos-sin", "inst-freq", "none"]

CLIP_S = 30
HOP_SAMPLES = 512  # "time shift" in the paper, whatever the sample rate
NUM_MELS = 128
SIZE_PX = 128

CHANNEL_NAMES: dict[Phase, tuple[str, ...]] = {
    "projected": ("log-mel", "phase"),
    "angle": ("log-mel", "phase"),
    "cos-sin": ("log-mel", "cosine", "sine"),
    "inst-freq": ("log-mel", "inst-freq"),
    "none": ("log-mel",),
}
"""Channels of a spectrogram by what stands for the phase; ``trainer.phase`` makes them."""


@dataclass(frozen=True)
class VideoInput:
    """RGB frames spread evenly over the clip, standardised per channel: float ``video_BCTHW``."""

    num_frames: int
    """Frames a clip."""
    size_px: int = SIZE_PX
    """Height and width of a frame."""

    @property
    def modality(self) -> Modality:
        """Name of the modality."""
        return "video"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, T, H, W)."""
        return (3, self.num_frames, self.size_px, self.size_px)

    def pooling(self, pool: int) -> tuple[int, ...]:
        """Window (T, H, W) that shrinks a frame ``pool`` times; time keeps its frames."""
        return (1, pool, pool)


@dataclass(frozen=True)
class AudioInput:
    """Log-mel spectrogram (channel 0) and phase (the others), standardised: float ``mel_BCMT``."""

    sample_rate_hz: int
    """Sample rate of the sound the spectrogram was made of."""
    num_frames: int
    """Time columns of the spectrogram."""
    phase: Phase = "projected"
    """What the channels after the log-mel are."""

    @classmethod
    def of_clip(cls, sample_rate_hz: int, phase: Phase = "projected") -> "AudioInput":
        """Return the input made of a 30-second clip: a centred transform gives one column a hop and one more."""
        return cls(sample_rate_hz, 1 + CLIP_S * sample_rate_hz // HOP_SAMPLES, phase)

    @property
    def channels(self) -> int:
        """2; 3 for cosine and sine, 1 for the log-mel alone."""
        return len(CHANNEL_NAMES[self.phase])

    @property
    def modality(self) -> Modality:
        """Name of the modality."""
        return "audio"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, M, T)."""
        return (self.channels, NUM_MELS, self.num_frames)

    @property
    def times_s(self) -> list[float]:
        """Where in the clip the middle of each time column lies."""
        return [column * HOP_SAMPLES / self.sample_rate_hz for column in range(self.num_frames)]

    @property
    def top_mel(self) -> float:
        """Upper end of the highest band, half the sample rate, in mels."""
        return hz_to_mel(self.sample_rate_hz / 2)

    @property
    def centres_mel(self) -> list[float]:
        """Centre of each band in mels: the same number is the same pitch at every sample rate."""
        return [self.top_mel * (band + 1) / (NUM_MELS + 1) for band in range(NUM_MELS)]

    def pooling(self, pool: int) -> tuple[int, ...]:
        """Window (M, T) that shrinks a spectrogram ``pool`` times along both axes."""
        return (pool, pool)


def hz_to_mel(frequency_hz: float) -> float:
    """Return a frequency on Slaney's mel scale, linear to 1 kHz and logarithmic above, which the stored bands divide.

    As in his Auditory Toolbox (1998) and ``librosa.hz_to_mel``.
    """
    if frequency_hz < 1000:
        return frequency_hz * 3 / 200
    return 15 + 27 * math.log(frequency_hz / 1000) / math.log(6.4)
