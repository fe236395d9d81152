"""The classifier of the supervised stage: latent maps, averaged and concatenated, and one dense layer."""

import torch
from torch import Tensor, nn

from trainer.models.blocks import global_average
from trainer.models.encoder import Encoder, Maps


class Classifier(nn.Module):
    """Global average of every pathway, side by side in the order of ``encoder.inputs``, to one logit a class.

    That order is slow video, fast video, slow audio, fast audio; video, audio in the music-video network. The paper
    does not tell its own. Softmax is the loss's business, and sigmoid the emotion curve's. The dense layer starts as
    in Keras: Glorot-uniform weights, zero biases.

    Attributes
    ----------
    encoder
        The encoder it was given.
    head
        The dense layer.
    mean_embedding
        (D,) what ``embed`` puts in place of an absent pathway's average: the training set's mean, zeros until
        ``trainer.batchnorm.reestimate`` fills it in.
    """

    mean_embedding: Tensor

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"--num-classes {num_classes}: give at least 2")
        self.encoder = encoder
        width = sum(encoder.channels.values())
        self.register_buffer("mean_embedding", torch.zeros(width))
        self.head = nn.Linear(width, num_classes)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def embed(self, inputs: Maps, *, fused: bool = True) -> Tensor:
        """Return the embedding (B, D) under the head; ``inputs`` and ``fused`` as the encoder's.

        Averages are taken after the last MMTM. D is the sum of ``encoder.channels``.
        """
        latents = self.encoder(inputs, fused=fused)
        batch_size = next(iter(latents.values())).shape[0]
        means = torch.split(self.mean_embedding, list(self.encoder.channels.values()))
        return torch.cat(
            [
                global_average(latents[role]) if role in latents else mean.expand(batch_size, -1)
                for role, mean in zip(self.encoder.channels, means, strict=True)
            ],
            dim=1,
        )

    def hold_encoder(self, still: bool) -> None:
        """Keep the encoder as it is, batch norm's statistics included, while the head is trained; or let it move."""
        self.encoder.requires_grad_(not still)
        self.encoder.train(not still)

    def forward(self, inputs: Maps) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.embed(inputs))
        return logits
