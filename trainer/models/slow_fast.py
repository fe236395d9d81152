"""The separable slow-fast network: two video and two audio pathways (paper, Figs. 5 and 6).

Slow pathways are wide with small kernels, fast ones narrow with large kernels. Published: 17,118,864 parameters with
MMTM and 16,930,880 without, six classes, batch-norm statistics counted.
"""

from dataclasses import dataclass, field
from typing import Literal

from trainer.models.blocks import BlockConfig, Convolution
from trainer.models.encoder import Encoder, EncoderConfig, Pathway
from trainer.models.inputs import AudioInput, VideoInput

SLOW_BLOCKS = (
    BlockConfig(features=16, kernels=(5, 5, 3, 3, 3), out_channels=32),
    BlockConfig(features=32, kernels=(5, 5, 3, 3, 3), out_channels=64),
    BlockConfig(features=64, kernels=(5, 5, 3, 3, 3), out_channels=128),
    BlockConfig(features=128, kernels=(3, 3, 3, 3, 3), out_channels=256),
    BlockConfig(features=256, kernels=(3, 3, 3, 3, 3), out_channels=512),
)
FAST_BLOCKS = (
    BlockConfig(features=4, kernels=(9, 9, 5, 5, 3), out_channels=8),
    BlockConfig(features=8, kernels=(7, 7, 5, 5, 3), out_channels=16),
    BlockConfig(features=16, kernels=(7, 7, 3, 3, 3), out_channels=32),
    BlockConfig(features=32, kernels=(5, 5, 3, 3, 3), out_channels=64),
    BlockConfig(features=64, kernels=(5, 5, 3, 3, 3), out_channels=128),
)


@dataclass(frozen=True, kw_only=True)
class SlowFastConfig(EncoderConfig):
    """Configuration of the separable slow-fast network; the defaults are the paper's."""

    network: Literal["slow-fast"] = field(default="slow-fast", init=False)
    """Names the network in a stored configuration."""
    convolution: Convolution = "separable"
    """Which convolution of the paper's Fig. 2 the blocks are made of."""
    inner_norm: bool = False
    """Batch norm inside a block too, not only after it."""
    auxiliary_outputs: bool = False
    """Decoders predict the input at every intermediate size too (deep supervision)."""
    slow: tuple[BlockConfig, ...] = SLOW_BLOCKS
    """Blocks of the slow video and slow audio pathways."""
    fast: tuple[BlockConfig, ...] = FAST_BLOCKS
    """Blocks of the fast video and fast audio pathways."""
    swap_video_branches: bool = False
    """Slow video reads 64 frames and fast video 8, as in the authors' public code; the paper says the opposite."""
    swap_audio_branches: bool = False
    """Slow audio reads 8 kHz and fast audio 32 kHz, as the authors' public code names them."""

    @property
    def stacks(self) -> tuple[tuple[BlockConfig, ...], ...]:
        """The slow stack and the fast one."""
        return (self.slow, self.fast)

    def __post_init__(self) -> None:
        """Refuse what cannot be built, naming the flag and the mend."""
        if len(self.slow) != len(self.fast) or not self.slow:
            raise ValueError(f"--slow has {len(self.slow)} blocks and --fast {len(self.fast)}: give both as many")
        super().__post_init__()


class SlowFastEncoder(Encoder):
    """Roles ``video_slow`` (8 frames), ``video_fast`` (64), ``audio_slow`` (32 kHz) and ``audio_fast`` (8 kHz).

    MMTMs join slow video with slow audio and fast video with fast audio: only those pairs are equally wide.
    """

    def __init__(self, config: SlowFastConfig) -> None:
        few_frames, many_frames = VideoInput(8), VideoInput(64)
        high_rate = AudioInput.of_clip(32_000, config.phase)
        low_rate = AudioInput.of_clip(8_000, config.phase)
        if config.swap_video_branches:
            few_frames, many_frames = many_frames, few_frames
        if config.swap_audio_branches:
            high_rate, low_rate = low_rate, high_rate
        pathways = {
            "video_slow": Pathway(few_frames, config.slow),
            "video_fast": Pathway(many_frames, config.fast),
            "audio_slow": Pathway(high_rate, config.slow),
            "audio_fast": Pathway(low_rate, config.fast),
        }
        super().__init__(config, pathways, pairs=(("video_slow", "audio_slow"), ("video_fast", "audio_fast")))
