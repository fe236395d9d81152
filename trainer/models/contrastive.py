"""The autoencoder of masked pretraining, which also tells which sound belongs to which picture.

As in Gong et al., "Contrastive Audio-Visual Masked Autoencoder", ICLR 2023: one pass in which audio and video exchange
reconstructs, another in which they do not gives the embeddings that are compared. With their MMTMs each modality would
already contain the other, and the comparison would be won without learning anything.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.autoencoder import Autoencoder
from trainer.models.blocks import global_average
from trainer.models.encoder import Encoder, Maps

EMBEDDING_WIDTH = 128
FIRST_TEMPERATURE = 0.07
LEAST_TEMPERATURE = 0.01


class ContrastiveAutoencoder(Autoencoder):
    """An autoencoder with a linear projection a modality, and a temperature that is learnt.

    Both as in Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021.

    Attributes
    ----------
    projections
        By modality, from the averages of its pathways' latents, side by side, to the common space.
    log_scale
        Logarithm of the inverse temperature; starts at 0.07, counts as no less than 0.01.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.roles = {
            modality: [role for role, spec in encoder.inputs.items() if spec.modality == modality]
            for modality in ("audio", "video")
        }
        assert all(self.roles.values()), "nothing to compare: the network has one modality"
        self.projections = nn.ModuleDict(
            {
                modality: nn.Linear(sum(encoder.channels[role] for role in roles), EMBEDDING_WIDTH, bias=False)
                for modality, roles in self.roles.items()
            }
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(FIRST_TEMPERATURE)))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature."""
        return self.log_scale.clamp(max=-math.log(LEAST_TEMPERATURE)).exp()

    def compare(self, inputs: Maps) -> dict[str, Tensor]:
        """Return float32 embeddings (B, 128) of length 1 by modality; neither knows of the other."""
        latents = self.encoder(inputs, fused=False)
        averages = {
            modality: torch.cat([global_average(latents[role].float()) for role in roles], 1)
            for modality, roles in self.roles.items()
        }
        return {name: F.normalize(self.projections[name](x).float(), dim=1) for name, x in averages.items()}

    def forward(  # type: ignore[override]  # in one call, as data parallelism wants it
        self, inputs: Maps, *, contrast: bool = False
    ) -> dict[str, list[Tensor]] | tuple[dict[str, list[Tensor]], dict[str, Tensor], Tensor]:
        """Return the autoencoder's outputs; with ``contrast`` also the embeddings and the inverse temperature."""
        outputs = super().forward(inputs)
        return (outputs, self.compare(inputs), self.scale) if contrast else outputs
