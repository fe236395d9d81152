"""A run of either kind, opened to embed: what a clip is under the head, and what a fine-tuned network says of it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trainer.calibration import Sigmoids
from trainer.checkpoint import latest, load_weights, read_state, require_latest
from trainer.modalities import why_not_alone
from trainer.models.blocks import global_average
from trainer.models.classifier import Classifier
from trainer.models.encoder import Encoder, Maps
from trainer.models.presets import build_encoder, config_from_dict
from trainer.runs import RunConfig, read_config
from trainer.trained import open_trained


class Embedder(nn.Module):
    """A classifier that also tells what lies under its head, or an encoder alone.

    Parameters
    ----------
    network
        Of an encoder the averages of all pathways' latents, side by side, are the embedding: what a classifier would
        put under its head, and what ``trainer.probe`` judges.
    """

    def __init__(self, network: Classifier | Encoder) -> None:
        super().__init__()
        self.network = network

    @property
    def encoder(self) -> Encoder:
        """What reads the inputs."""
        return self.network.encoder if isinstance(self.network, Classifier) else self.network

    def forward(self, inputs: Maps) -> tuple[Tensor, Tensor | None]:
        """Return embeddings (B, D), and logits (B, classes) where there is a head."""
        if isinstance(self.network, Classifier):
            embeddings_BD = self.network.embed(inputs)
            return embeddings_BD, self.network.head(embeddings_BD)
        return torch.cat([global_average(latent_BCN) for latent_BCN in self.network(inputs).values()], 1), None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run at its best checkpoint, else at its last one; on the CPU and in evaluation mode."""

    run: Path
    config: RunConfig
    checkpoint: Path
    state: dict[str, Any]
    """The checkpoint's ``state.json``."""
    embedder: Embedder
    labels: list[str] | None
    """Emotions it tells apart; None for a pretrained run."""
    sigmoids: Sigmoids | None
    """What makes scores of its probabilities, where all is read that the network reads."""

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return sum(self.embedder.encoder.channels.values())

    @property
    def alone(self) -> str | None:
        """Why it may not read sound or picture alone; None where it may."""
        if self.config.kind == "pretrain" and self.config.network["modality"] == "both":
            return "a pretrained network knows no stand-in for what is absent; fine-tune it with --modality-dropout"
        return why_not_alone(self.config)

    @property
    def weights(self) -> str:
        """Hash of the checkpoint's weights: embeddings of others cannot be compared with theirs."""
        with (self.checkpoint / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def open_embedder(run: Path) -> Opened:
    """Open a fine-tuned or a pretrained run.

    Raises
    ------
    UserError
        If the folder is no run, has no whole checkpoint, or was fine-tuned but has no sigmoids.
    """
    config = read_config(run)
    if config.kind == "finetune":
        trained = open_trained(run)
        return Opened(
            run=run,
            config=config,
            checkpoint=trained.checkpoint,
            state=trained.state,
            embedder=Embedder(trained.classifier).eval(),
            labels=trained.labels,
            sigmoids=trained.sigmoids[config.network["modality"]],
        )
    found = latest(run, "best") or require_latest(run)
    encoder = build_encoder(config_from_dict(config.network))
    load_weights(found, encoder, prefix="encoder.")
    return Opened(
        run=run,
        config=config,
        checkpoint=found,
        state=read_state(found),
        embedder=Embedder(encoder).eval(),
        labels=None,
        sigmoids=None,
    )


class Embedded(NamedTuple):
    """What was found of some clips."""

    embeddings_BD: np.ndarray
    """float32."""
    probabilities_BK: np.ndarray | None
    """Softmax, float64; None without a head."""


@torch.inference_mode()
def embed(model: nn.Module, inputs: Maps) -> Embedded:
    """Embed a batch.

    Parameters
    ----------
    model
        The embedder where it computes: on the device, in its precision.
    """
    embeddings_BD, logits_BK = model(inputs)
    said = None if logits_BK is None else logits_BK.double().softmax(1).cpu().numpy()
    return Embedded(embeddings_BD.float().cpu().numpy(), said)


def embed_batches(
    model: nn.Module, batches: Iterable[dict[str, Any]], to_inputs: Callable[[dict[str, Any]], dict[str, Tensor]]
) -> Iterator[tuple[dict[str, Any], Embedded]]:
    """Yield every batch (see ``trainer.readers``) with what was found of it."""
    for batch in batches:
        yield batch, embed(model, to_inputs(batch))
