"""The music-video network: one video and one audio pathway of conventional convolutions (paper, Figs. 3 and 4).

Published: 23,078,854 parameters with MMTM and 23,034,214 without, six classes, batch-norm statistics counted.
"""

from dataclasses import dataclass, field
from typing import Literal

from trainer.models.blocks import BlockConfig
from trainer.models.encoder import Encoder, EncoderConfig, Pathway
from trainer.models.inputs import AudioInput, VideoInput

MUSIC_VIDEO_BLOCKS = (
    BlockConfig(features=8, kernels=(13, 9, 5, 1, 5), out_channels=16),
    BlockConfig(features=16, kernels=(9, 7, 5, 1, 5), out_channels=32),
    BlockConfig(features=32, kernels=(9, 7, 3, 1, 3), out_channels=64),
    BlockConfig(features=64, kernels=(9, 5, 3, 1, 3), out_channels=128),
    BlockConfig(features=128, kernels=(7, 5, 3, 1, 3), out_channels=256),
)


@dataclass(frozen=True, kw_only=True)
class MusicVideoConfig(EncoderConfig):
    """Configuration of the music-video network; the defaults are the paper's."""

    network: Literal["music-video"] = field(default="music-video", init=False)
    """Names the network in a stored configuration."""
    blocks: tuple[BlockConfig, ...] = MUSIC_VIDEO_BLOCKS
    """Blocks of the video pathway (cubic kernels) and of the audio pathway (square ones)."""

    @property
    def stacks(self) -> tuple[tuple[BlockConfig, ...], ...]:
        """The one stack, which both pathways use."""
        return (self.blocks,)

    def __post_init__(self) -> None:
        """Refuse what cannot be built, naming the flag and the mend."""
        if len(self.blocks) < 2:
            raise ValueError(f"--blocks has {len(self.blocks)}: give at least two, the audio decoder climbs over one")
        super().__post_init__()


class MusicVideoEncoder(Encoder):
    """Roles ``video`` (64 frames) and ``audio`` (22.05 kHz), joined by one MMTM a block."""

    def __init__(self, config: MusicVideoConfig) -> None:
        pathways = {
            "video": Pathway(VideoInput(64), config.blocks),
            "audio": Pathway(AudioInput.of_clip(22_050, config.phase), config.blocks),
        }
        super().__init__(config, pathways, pairs=(("video", "audio"),))

    def decoder_levels(self, role: str) -> tuple[int, ...]:
        """Climb one stage a step; but audio's first step takes two, which leaves it the paper's three auxiliaries."""
        levels = super().decoder_levels(role)
        return levels[1:] if role == "audio" else levels
