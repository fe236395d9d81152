"""Training samples made to vary, as a pure function of (seed, step, keys): a resumed run draws the same again.

Which modality a batch loses is one of (seed, step, place in the step): all ranks must go through the same layers, for
several GPUs' batch norm waits in each for the others.

What is drawn for a clip is drawn once for all pathways that read it: pictures are changed before the slow pathway's 8
frames are taken from the 64, and masks of sound are drawn in seconds and mels, not in columns and bands.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from trainer.inputs import Inputs
from trainer.models.encoder import Maps
from trainer.models.inputs import CLIP_S, SIZE_PX, AudioInput, VideoInput
from trainer.readers import Batch
from trainer.recipes import RecipeFlags

Specs = Mapping[str, VideoInput | AudioInput]

# Mild: how bright and how colourful a picture is tells of its emotion.
PICTURE = v2.Compose(
    [
        v2.RandomResizedCrop(SIZE_PX, scale=(0.6, 1.0), ratio=(3 / 4, 4 / 3), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
    ]
)

MAX_MASK_S = CLIP_S / 10  # longest mask of time
MAX_MASK_SHARE = 0.2  # of the mel scale up to the highest band of any pathway: widest mask of frequency


def augmented(
    batch: Batch, to_inputs: Inputs, flags: RecipeFlags, *, step: int, num_classes: int
) -> tuple[Maps, Tensor]:
    """Turn a training batch into the network's inputs and its targets, varied as the flags say.

    Returns
    -------
    (Maps, Tensor)
        Inputs by role, those of a dropped modality left out; targets as ``trainer.objectives.classification`` reads
        them: class indices (B,), or with mixup probabilities (B, ``num_classes``).
    """
    keys, targets = batch["keys"], batch["label"].to(to_inputs.device)
    places = [f"{place} {key}" for place, key in enumerate(keys)]  # a balanced batch may hold a clip twice
    if flags.augment_video:
        frames_BTHWC = batch["frames"].to(to_inputs.device)
        batch = batch | {"frames": vary_frames(frames_BTHWC, [draws(flags.seed, step, [place], 1) for place in places])}
    inputs = to_inputs(batch)
    if flags.specaugment:
        rngs = [draws(flags.seed, step, [place], 2) for place in places]
        inputs = mask_sound(inputs, to_inputs.specs, rngs, num_masks=flags.specaugment)
    rng = draws(flags.seed, step, keys, 3)
    if flags.mixup:
        inputs, targets = mixed(inputs, targets, alpha=flags.mixup, num_classes=num_classes, rng=rng)
    rng = draws(flags.seed, step, [f"{batch['place']}"], 4)  # no keys: every rank has others
    if rng.random() < flags.modality_dropout:
        inputs = without(inputs, to_inputs.specs, rng.choice(["audio", "video"]))
    return inputs, targets


def draws(seed: int, step: int, names: Sequence[str], purpose: int) -> np.random.Generator:
    """Return the random numbers of one purpose for what is named, at one step."""
    return np.random.default_rng([seed, step, zlib.crc32("\n".join(names).encode()), purpose])


def vary_frames(frames_BTHWC: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Crop, flip and recolour stored frames, alike in all frames of a clip.

    Parameters
    ----------
    frames_BTHWC
        uint8.
    rngs
        One a clip.

    Returns
    -------
    Tensor
        uint8, of the same shape.
    """
    clips = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator, on the CPU
        for frames_THWC, rng in zip(frames_BTHWC, rngs, strict=True):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            clips.append(PICTURE(frames_THWC.movedim(-1, 1)).movedim(1, -1))
    return torch.stack(clips)


def mask_sound(inputs: Maps, specs: Specs, rngs: Sequence[np.random.Generator], *, num_masks: int) -> Maps:
    """Put the training mean in some stretches of time and of frequency (Park et al., "SpecAugment", 2019).

    Log-mel and phase are masked alike, and all audio pathways over the same seconds and mels; of a mask above 4 kHz the
    8 kHz pathway sees nothing.

    Parameters
    ----------
    inputs
        By role, standardised: the mean is 0.
    rngs
        One a clip.
    num_masks
        Of time, and as many of frequency; none is wider than ``MAX_MASK_S`` and ``MAX_MASK_SHARE``.
    """
    audio = {role: spec for role, spec in specs.items() if role in inputs and isinstance(spec, AudioInput)}
    top_mel = max(spec.top_mel for spec in audio.values())
    masks = [_draw_masks(rng, num_masks=num_masks, top_mel=top_mel) for rng in rngs]
    masked = dict(inputs)
    for role, spec in audio.items():
        times_T, mels_M = np.array(spec.times_s), np.array(spec.centres_mel)
        hidden_BMT = np.stack(
            [_inside(mels_M, bands)[:, None] | _inside(times_T, spans)[None, :] for spans, bands in masks]
        )
        mask_B1MT = torch.from_numpy(hidden_BMT).to(inputs[role].device).unsqueeze(1)
        masked[role] = inputs[role].masked_fill(mask_B1MT, 0.0)
    return masked


def _draw_masks(rng: np.random.Generator, *, num_masks: int, top_mel: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw (start, end) of masks of time, in seconds, and of frequency, in mels: each float64 (num_masks, 2)."""
    drawn = []
    for whole, widest in ((CLIP_S, MAX_MASK_S), (top_mel, MAX_MASK_SHARE * top_mel)):
        width = rng.uniform(0, widest, size=num_masks)
        start = rng.uniform(0, whole - width)
        drawn.append(np.stack([start, start + width], axis=1))
    return drawn[0], drawn[1]


def _inside(places: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Tell which places lie in any of the masks."""
    inside: np.ndarray = np.any((masks[:, :1] <= places) & (places < masks[:, 1:]), axis=0)
    return inside


def mixed(
    inputs: Maps, labels: Tensor, *, alpha: float, num_classes: int, rng: np.random.Generator
) -> tuple[Maps, Tensor]:
    """Mix each sample with another of its batch (Zhang et al., "mixup", 2018): sound, picture and target alike.

    Parameters
    ----------
    labels
        Class indices (B,).
    alpha
        Of the beta distribution that the batch's one share is drawn from.

    Returns
    -------
    (Maps, Tensor)
        Inputs, and the targets' probabilities (B, ``num_classes``).
    """
    share = rng.beta(alpha, alpha)
    partner = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
    targets = F.one_hot(labels, num_classes).float()
    return (
        {role: share * x + (1 - share) * x[partner] for role, x in inputs.items()},
        share * targets + (1 - share) * targets[partner],
    )


def without(inputs: Maps, specs: Specs, modality: str) -> Maps:
    """Leave the roles of a modality out, for the whole batch."""
    return {role: x for role, x in inputs.items() if specs[role].modality != modality}
