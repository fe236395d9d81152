"""What both encoders are: parallel pathways of dense residual blocks that talk to each other after every block."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.blocks import BlockConfig, Convolution, DenseResidualBlock, halved, he_init_
from trainer.models.inputs import NUM_MELS, AudioInput, Phase, VideoInput
from trainer.models.mmtm import ConcatMMTM, MmtmName, SumMMTM

ModalityChoice = Literal["both", "audio", "video"]

_CHOICES: dict[str, object] = {"mmtm": MmtmName, "convolution": Convolution, "modality": ModalityChoice, "phase": Phase}

Maps = dict[str, Tensor]
"""Feature maps, inputs or latents by role; (B, C, T, H, W) for video, (B, C, M, T) for audio."""


def may_read(built: ModalityChoice, *, alone: bool) -> list[ModalityChoice]:
    """Return what may be read of a clip: all that is built, and sound and picture ``alone`` where that is both."""
    return [built, "audio", "video"] if built == "both" and alone else [built]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What the two networks' configurations share."""

    mmtm: MmtmName = "sum"
    """What audio and video exchange after a block: the authors' "sum", the official "concat", or "none"."""
    mmtm_ratio: int = 8
    """How many times narrower an MMTM's squeeze is than its streams."""
    convolution: Convolution = "full"
    """Which convolution of the paper's Fig. 2 the blocks are made of."""
    inner_norm: bool = True
    """Batch norm inside a block too, not only after it."""
    auxiliary_outputs: bool = True
    """Decoders predict the input at every intermediate size too (deep supervision)."""
    phase: Phase = "projected"
    """What stands beside the log-mel: a stored phase, what is derived from one, or none."""
    modality: ModalityChoice = "both"
    """Which pathways are built; with one modality there is no MMTM."""
    pool: int = 1
    """The input is averaged over this many pixels, mel bands and time columns first; 1 leaves it as it is."""

    @property
    def stacks(self) -> tuple[tuple[BlockConfig, ...], ...]:
        """The network's stacks of blocks, whose first members are fused, then the second, and so on."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Refuse what cannot be built, naming the flag and the mend."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"--{name} {getattr(self, name)}: choose one of {', '.join(get_args(choices))}")
        if self.pool < 1 or NUM_MELS % self.pool:
            raise ValueError(f"--pool {self.pool}: give a divisor of {NUM_MELS}, such as 1, 2, 4 or 8")
        widths = {block.out_channels for stack in self.stacks for block in stack}
        if self.mmtm != "none" and (self.mmtm_ratio < 1 or any(width % self.mmtm_ratio for width in widths)):
            raise ValueError(
                f"--mmtm-ratio {self.mmtm_ratio} does not divide the blocks' widths {sorted(widths)}: "
                "give a divisor of all, or --mmtm none"
            )


class Pathway(NamedTuple):
    """What one pathway reads and the blocks it is made of."""

    input: VideoInput | AudioInput
    blocks: tuple[BlockConfig, ...]


class Stage(nn.Module):
    """One block of every pathway, then one MMTM a pair of pathways."""

    def __init__(
        self, blocks: dict[str, DenseResidualBlock], mmtms: dict[tuple[str, str], SumMMTM | ConcatMMTM]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)
        self.pairs = tuple(mmtms)
        self.mmtms = nn.ModuleList(mmtms.values())

    def forward(self, maps: Maps, *, fused: bool) -> Maps:
        """Halve every map; then, if ``fused``, let the pairs exchange."""
        maps = {role: self.blocks[role](maps_BCN) for role, maps_BCN in maps.items()}
        if fused:
            for pair, mmtm in zip(self.pairs, self.mmtms, strict=True):
                if present := {role: maps[role] for role in pair if role in maps}:
                    maps |= mmtm(present)
        return maps


class Encoder(nn.Module):
    """Inputs by role to latent maps by role.

    Attributes
    ----------
    config
        What it was built from.
    inputs
        What each pathway reads, by role; the roles' order is the order of everything by role.
    channels
        Channels of each latent map, by role.

    Parameters
    ----------
    config
        The network's configuration.
    pathways
        All pathways of the network by role; those of an absent modality are not built.
    pairs
        Roles that exchange through MMTMs. Their blocks must agree in width.
    """

    def __init__(self, config: EncoderConfig, pathways: dict[str, Pathway], pairs: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        self.config = config
        built = {role: path for role, path in pathways.items() if config.modality in ("both", path.input.modality)}
        self.inputs = {role: path.input for role, path in built.items()}
        self.channels = {role: path.blocks[-1].out_channels for role, path in built.items()}
        fused_pairs = pairs if config.modality == "both" and config.mmtm != "none" else ()
        widths = {role: self.inputs[role].shape[0] for role in built}
        self.stages = nn.ModuleList()
        for depth in range(len(config.stacks[0])):
            specs = {role: path.blocks[depth] for role, path in built.items()}
            blocks = {
                role: DenseResidualBlock(
                    spec,
                    in_channels=widths[role],
                    num_axes=self.num_axes(role),
                    convolution=config.convolution,
                    inner_norm=config.inner_norm,
                )
                for role, spec in specs.items()
            }
            widths = {role: spec.out_channels for role, spec in specs.items()}
            mmtm_type = SumMMTM if config.mmtm == "sum" else ConcatMMTM
            mmtms = {
                pair: mmtm_type(
                    {role: self.num_axes(role) for role in pair}, channels=widths[pair[0]], ratio=config.mmtm_ratio
                )
                for pair in fused_pairs
            }
            self.stages.append(Stage(blocks, mmtms))
        self.apply(he_init_)

    def num_axes(self, role: str) -> int:
        """Return 3 for a video pathway, (T, H, W), and 2 for an audio one, (M, T)."""
        return len(self.inputs[role].shape) - 1

    def size(self, role: str, level: int) -> tuple[int, ...]:
        """Return the size, without channels, of a pathway's maps after ``level`` blocks; 0 is the reduced input."""
        spec = self.inputs[role]
        windows = spec.pooling(self.config.pool)
        reduced = tuple(-(-side // window) for side, window in zip(spec.shape[1:], windows, strict=True))
        return halved(reduced, level)

    def decoder_levels(self, role: str) -> tuple[int, ...]:
        """Return the levels (see ``size``) that a decoder climbs through, from its first output to the input's size."""
        return tuple(reversed(range(len(self.stages))))

    def reduce(self, inputs: Maps) -> Maps:
        """Average the inputs over ``config.pool`` pixels, mel bands and time columns, rounding sizes up."""
        for role, input_BCN in inputs.items():
            assert input_BCN.shape[1:] == self.inputs[role].shape, (
                f"{role} is {tuple(input_BCN.shape)}, but the pathway reads (B, *{self.inputs[role].shape}): "
                "sizes are fixed by the 30-second clip, and decoders are built to return them"
            )
        if self.config.pool == 1:
            return inputs
        return {role: average(x, self.inputs[role].pooling(self.config.pool)) for role, x in inputs.items()}

    def forward(self, inputs: Maps, *, fused: bool = True) -> Maps:
        """Encode a batch.

        Parameters
        ----------
        inputs
            By role, float ``video_BCTHW`` or ``mel_BCMT`` of ``self.inputs[role].shape``, standardised. Roles may be
            left out, for the whole batch: an absent pathway adds nothing to its MMTMs (rows of zeros instead would
            enter the batch-norm statistics).
        fused
            False bypasses the MMTMs, so that no modality's latents know of another.

        Returns
        -------
        Maps
            By role, in the order of ``self.inputs``: float (B, ``self.channels[role]``, *``self.size(role, depth)``).
        """
        assert len(inputs) > 0, "nothing to encode: give at least one role's input"
        maps = self.reduce({role: inputs[role] for role in self.inputs if role in inputs})
        for stage in self.stages:
            maps = stage(maps, fused=fused)
        return maps


def average(maps_BCN: Tensor, window: tuple[int, ...]) -> Tensor:
    """Average over adjacent windows, one side an axis; a shorter last window averages what it holds."""
    pool = F.avg_pool3d if len(window) == 3 else F.avg_pool2d
    pooled: Tensor = pool(maps_BCN, window, ceil_mode=True)
    return pooled
