"""What a pathway reads: the tensors of one 30-second clip, without the batch axis.

Shape legend of this package: B batch, C channels, T video frames, H rows, W columns, M mel bands; T of a mel is its
time columns; N stands for the axes after the channels, (T, H, W) of a video or (M, T) of a mel.
"""

from dataclasses import dataclass
from typing import Literal

Modality = Literal["video", "audio"]

CLIP_S = 30
HOP_SAMPLES = 512  # "time shift" in the paper, whatever the sample rate
NUM_MELS = 128
SIZE_PX = 128


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
    """Log-mel spectrogram (channel 0) and phase (channel 1), standardised per channel: float ``mel_BCMT``."""

    sample_rate_hz: int
    """Sample rate of the sound the spectrogram was made of."""
    num_frames: int
    """Time columns of the spectrogram."""
    channels: int = 2
    """2, or 1 for the log-mel alone."""

    @classmethod
    def of_clip(cls, sample_rate_hz: int, channels: int = 2) -> "AudioInput":
        """Return the input made of a 30-second clip: a centred transform gives one column a hop and one more."""
        return cls(sample_rate_hz, 1 + CLIP_S * sample_rate_hz // HOP_SAMPLES, channels)

    @property
    def modality(self) -> Modality:
        """Name of the modality."""
        return "audio"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, M, T)."""
        return (self.channels, NUM_MELS, self.num_frames)

    def pooling(self, pool: int) -> tuple[int, ...]:
        """Window (M, T) that shrinks a spectrogram ``pool`` times along both axes."""
        return (pool, pool)
