"""How a network is fine-tuned: each part a flag, and a recipe nothing but the values that flags have by default."""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from trainer.flags import TrainingFlags
from trainer.models.encoder import ModalityChoice
from trainer.runtime import require

Recipe = Literal["paper", "strong"]

RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "strong": {
        "lr": 3e-4,
        "probe_epochs": 2,
        "layer_decay": 0.75,
        "weight_decay": 0.05,
        "warmup": 0.1,
        "cosine": True,
        "label_smoothing": 0.1,
        "ema": 0.999,
        "mixup": 0.2,
        "specaugment": 2,
        "augment_video": True,
        "modality_dropout": 0.2,
        "balanced": True,
    },
}

NEEDS: dict[str, tuple[ModalityChoice, ...]] = {
    "augment_video": ("both", "video"),
    "specaugment": ("both", "audio"),
    "modality_dropout": ("both",),
}
"""Which networks a part can do something for."""


@dataclass(frozen=True, kw_only=True)
class RecipeFlags(TrainingFlags):
    """The parts of a fine-tuning recipe; the values here are the paper's."""

    recipe: Recipe = "paper"
    """paper: cross-entropy and Adam alone; strong: other defaults for the flags below (add --help to see them)."""
    probe_epochs: int = 0
    """The first of --epochs: they train the head alone, on an encoder that stands still."""
    probe_lr: float = 1e-3
    """Learning rate of the head while the encoder stands still."""
    freeze: bool = False
    """Train the head alone to the end: a linear probe."""
    layer_decay: float = 1.0
    """Learning rate of an encoder stage, as a share of that of the stage above it."""
    weight_decay: float = 0.0
    """AdamW's, of weights but not of biases and batch norm; at 0 it is Adam."""
    warmup: float = 0.0
    """Share of the steps, after probing, over which the learning rate climbs to --lr."""
    cosine: bool = False
    """Let the learning rate fall to nothing along half a cosine."""
    label_smoothing: float = 0.0
    """Share of a target's probability that is spread over all classes."""
    ema: float = 0.0
    """What a step keeps of the running average of the weights, which is then validated and kept as best; 0: none."""
    mixup: float = 0.0
    """Mix pairs of samples, by a share drawn from a beta distribution with this parameter; 0: none."""
    specaugment: int = 0
    """Hide so many stretches of time, and as many of frequency, in all audio pathways."""
    augment_video: bool = False
    """Crop, flip and slightly recolour a clip, alike in all its frames and both video pathways."""
    modality_dropout: float = 0.0
    """Share of the batches that lose their sound or their picture; without it a network must be given both."""
    balanced: bool = False
    """Repeat samples of smaller classes until an epoch has as many of each as of the largest."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        super().__post_init__()
        for name in ("warmup", "label_smoothing", "ema", "modality_dropout"):
            require(0 <= getattr(self, name) < 1, f"{_flag(name)} {getattr(self, name)}: give 0 or more, less than 1")
        for name in ("weight_decay", "mixup", "specaugment"):
            require(getattr(self, name) >= 0, f"{_flag(name)} {getattr(self, name)}: give 0 or more")
        require(0 < self.layer_decay <= 1, f"--layer-decay {self.layer_decay}: give more than 0, at most 1")
        require(self.probe_lr > 0, f"--probe-lr {self.probe_lr}: give more than 0")
        require(self.probe_epochs >= 0, f"--probe-epochs {self.probe_epochs}: give 0 or more")
        require(
            self.freeze or self.max_steps is not None or self.probe_epochs < self.epochs,
            f"--probe-epochs {self.probe_epochs} leaves none of --epochs {self.epochs} for the encoder: "
            "give fewer, or --freeze to train the head alone",
        )


_Flags = TypeVar("_Flags", bound=RecipeFlags)


def fitted(flags: _Flags, modality: ModalityChoice) -> tuple[_Flags, list[str]]:
    """Set aside what can do nothing for a network of this modality, and name it."""
    idle = [name for name, served in NEEDS.items() if modality not in served and getattr(flags, name)]
    return replace(flags, **{name: type(getattr(flags, name))() for name in idle}), [_flag(name) for name in idle]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
