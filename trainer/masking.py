"""What masked pretraining hides: tubes of video and blocks of mel, drawn once a sample, in seconds and hertz.

Pathways repeat each other: the 8 frames lie among the 64, and the sound at 8 kHz is 0 to 4 kHz of that at 32 kHz. So
places are hidden, not numbers of an array: a coarse grid over time and picture, and one over time and pitch, from which
every pathway reads whether the middle of its frame, band and column is hidden. (A window of the transform, up to
0.26 s long, and a mel filter reach over the border of a block, at every rate.)

Sizes and shares are ours. Tubes of 16 pixels are those of Tong et al., "VideoMAE", NeurIPS 2022, where a tube lasts as
long as its clip, some two seconds; of ours, 30 s, it lasts a quarter, longer than most shots. Blocks are larger than
those of Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022 (16 bands of 0.16 s): the presets that average
their input first would see through smaller ones. Both hide at random without structure, 90% and 80%, from transformers
that read the rest alone. A convolution reads what is hidden too, and networks of them were best at 60% of a picture
(Tian et al., "SparK", ICLR 2023; Woo et al., "ConvNeXt V2", CVPR 2023): hence 60% of the sound, and 75% of the video,
in which most things are seen more than once.

What is hidden becomes 0, the training mean, and no learnt token: nothing new is left for fine-tuning to unlearn, and
(0, 0) is the cosine and sine of no angle.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.models.inputs import CLIP_S, AudioInput, VideoInput, hz_to_mel

TUBES_A_SIDE = 8  # of a frame: 16 of 128 pixels each
TUBE_S = 7.5
BLOCK_S = 1.0
BLOCKS_HIGH = 16  # from 0 to TOP_HZ, equally high in mel: 8 of the 128 bands at 32 kHz
TOP_HZ = 16_000


class Hidden(NamedTuple):
    """Which places of some samples are hidden."""

    video_BTHW: np.ndarray
    """bool (B, 4, 8, 8): quarters of the clip, rows, columns."""
    audio_BMT: np.ndarray
    """bool (B, 16, 30): pitch from low to high, seconds."""


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Return the generator of one sample in one epoch, the same whoever asks and in whatever order."""
    digest = hashlib.sha256(f"{seed} {epoch} {key}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def draw(keys: Sequence[str], *, seed: int, epoch: int, video_share: float, audio_share: float) -> Hidden:
    """Draw what is hidden of each sample: equally many tubes of every quarter, and so many blocks of all.

    Parameters
    ----------
    keys
        Of the samples.
    video_share, audio_share
        Hidden parts of the whole, 0 to 1, to the nearest tube and block.
    """
    quarters, seconds = round(CLIP_S / TUBE_S), round(CLIP_S / BLOCK_S)
    video, audio = [], []
    for key in keys:
        rng = sample_rng(seed, epoch, key)
        tubes = [_choose(rng, TUBES_A_SIDE**2, num_tubes(video_share)) for _ in range(quarters)]
        video.append(np.reshape(tubes, (quarters, TUBES_A_SIDE, TUBES_A_SIDE)))
        audio.append(_choose(rng, BLOCKS_HIGH * seconds, num_blocks(audio_share)).reshape(BLOCKS_HIGH, seconds))
    return Hidden(np.stack(video), np.stack(audio))


def _choose(rng: np.random.Generator, num: int, num_hidden: int) -> np.ndarray:
    chosen = np.zeros(num, bool)
    chosen[rng.permutation(num)[:num_hidden]] = True
    return chosen


def num_tubes(share: float) -> int:
    """Tubes hidden of every quarter of a clip."""
    return round(share * TUBES_A_SIDE**2)


def num_blocks(share: float) -> int:
    """Blocks hidden of a clip's sound."""
    return round(share * BLOCKS_HIGH * round(CLIP_S / BLOCK_S))


def over_inputs(
    hidden: Hidden, specs: Mapping[str, VideoInput | AudioInput], device: torch.device
) -> dict[str, Tensor]:
    """Return what is hidden of each pathway's input: bool (B, 1, T, H, W) or (B, 1, M, T) by role."""
    masks = {}
    for role, spec in specs.items():
        if isinstance(spec, VideoInput):
            grid, places = hidden.video_BTHW, _video_places(spec)
        else:
            grid, places = hidden.audio_BMT, _audio_places(spec)
        mask = torch.from_numpy(grid).to(device)
        for axis, place in enumerate(places, 1):
            mask = mask.index_select(axis, torch.from_numpy(place).to(device))
        masks[role] = mask.unsqueeze(1)
    return masks


def _video_places(spec: VideoInput) -> tuple[np.ndarray, ...]:
    """Tube of every frame, row and column; frame i is shown at i * 30 / n seconds."""
    start_s = np.arange(spec.num_frames) * CLIP_S / spec.num_frames
    side = np.arange(spec.size_px) * TUBES_A_SIDE // spec.size_px
    return (start_s // TUBE_S).astype(int), side, side


def _audio_places(spec: AudioInput) -> tuple[np.ndarray, ...]:
    """Block of every band and column, by their middles; the last column stands at the clip's end."""
    high = np.array(spec.centres_mel) * BLOCKS_HIGH / hz_to_mel(TOP_HZ)
    long = np.minimum(np.array(spec.times_s) / BLOCK_S, CLIP_S / BLOCK_S - 1)
    return high.astype(int), long.astype(int)


def hide(inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace what is hidden by 0, the training mean."""
    return {role: x.masked_fill(masks[role], 0.0) for role, x in inputs.items()}
