"""Named sizes of both networks, and their cost.

Usage::

    python -m trainer.models.presets        # a table: network, preset, parameters, multiply-adds of one clip
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from trainer.models.autoencoder import Autoencoder
from trainer.models.blocks import BlockConfig
from trainer.models.classifier import Classifier
from trainer.models.counting import forward_macs, keras_count
from trainer.models.encoder import Encoder
from trainer.models.music_video import MusicVideoConfig, MusicVideoEncoder
from trainer.models.slow_fast import SlowFastConfig, SlowFastEncoder

Network = Literal["slow-fast", "music-video"]
Preset = Literal["paper", "small", "tiny"]
NetworkConfig = SlowFastConfig | MusicVideoConfig


def thinned(stack: tuple[BlockConfig, ...], *, channels: int, kernels: int) -> tuple[BlockConfig, ...]:
    """Return the stack with so many times fewer channels and shorter kernels; a kernel stays odd, and 3 if it was."""

    def shorter(side: int) -> int:
        return min(side, max(3, (side // kernels) | 1))

    return tuple(
        BlockConfig(
            features=max(1, block.features // channels),
            kernels=tuple(shorter(side) for side in block.kernels),  # type: ignore[arg-type]
            out_channels=max(1, block.out_channels // channels),
        )
        for block in stack
    )


def network_config(network: Network, preset: Preset = "paper", **overrides: Any) -> NetworkConfig:
    """Return a preset's configuration.

    Parameters
    ----------
    network
        ``slow-fast`` or ``music-video``.
    preset
        ``paper``, exact; ``small``, at most 1 GMAC a clip, for experiments on a CPU; ``tiny``, for tests.
    **overrides
        Fields of the configuration to set otherwise, such as ``mmtm="none"``.

    Raises
    ------
    ValueError
        If a name is unknown or a field's value cannot be built.
    """
    if network not in get_args(Network):
        raise ValueError(f"--network {network}: choose one of {', '.join(get_args(Network))}")
    if preset not in get_args(Preset):
        raise ValueError(f"--preset {preset}: choose one of {', '.join(get_args(Preset))}")
    config = _slow_fast(preset) if network == "slow-fast" else _music_video(preset)
    return replace(config, **overrides)


def _slow_fast(preset: Preset) -> SlowFastConfig:
    paper = SlowFastConfig()
    if preset == "paper":
        return paper
    if preset == "small":  # a fifth block would leave the slow video, 8 frames of 32 pixels, a single position
        return SlowFastConfig(slow=paper.slow[:4], fast=paper.fast[:4], pool=4)
    slow, fast = (thinned(stack[:3], channels=2, kernels=4) for stack in paper.stacks)
    return SlowFastConfig(slow=slow, fast=fast, mmtm_ratio=4, pool=8)


def _music_video(preset: Preset) -> MusicVideoConfig:
    paper = MusicVideoConfig()
    if preset == "paper":
        return paper
    if preset == "small":  # a cube of 13 alone would cost more than all blocks may
        return MusicVideoConfig(blocks=thinned(paper.blocks, channels=2, kernels=2), mmtm_ratio=4, pool=4)
    return MusicVideoConfig(blocks=thinned(paper.blocks, channels=4, kernels=4), mmtm_ratio=2, pool=8)


def config_from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """Return the configuration that ``dataclasses.asdict`` made ``values`` of, also after a journey through JSON."""
    fields = dict(values)
    for name in ("blocks", "slow", "fast"):
        if name in fields:
            fields[name] = tuple(BlockConfig(**{**block, "kernels": tuple(block["kernels"])}) for block in fields[name])
    network = fields.pop("network", None)
    if network == "slow-fast":
        return SlowFastConfig(**fields)
    if network == "music-video":
        return MusicVideoConfig(**fields)
    raise ValueError(f"--network {network}: choose one of {', '.join(get_args(Network))}")


def build_encoder(config: NetworkConfig) -> Encoder:
    """Return the network's encoder, freshly initialised on the default device."""
    return SlowFastEncoder(config) if isinstance(config, SlowFastConfig) else MusicVideoEncoder(config)


def main() -> None:
    """Print the table of all presets."""
    print(f"{'network':<12} {'preset':<6} {'pool':>4} {'classifier':>11} {'autoencoder':>11} {'GMAC forward':>12}")
    for network in get_args(Network):
        for preset in get_args(Preset):
            config = network_config(network, preset)
            with torch.device("meta"):
                encoder = build_encoder(config)
                classifier, autoencoder = keras_count(Classifier(encoder, 6)), keras_count(Autoencoder(encoder))
            gmacs = forward_macs(encoder) / 1e9
            print(f"{network:<12} {preset:<6} {config.pool:>4} {classifier:>11,} {autoencoder:>11,} {gmacs:>12.3f}")


if __name__ == "__main__":
    main()
