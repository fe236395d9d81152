"""The autoencoder of the unsupervised stage: an encoder and one decoder a pathway (paper, Figs. 7 and 8)."""

from torch import Tensor, nn

from trainer.models.decoders import Decoder
from trainer.models.encoder import Encoder, Maps, average


class Autoencoder(nn.Module):
    """Reconstructs every pathway's (reduced) input from the latent maps; decoders do not exchange.

    Attributes
    ----------
    encoder
        The encoder it was given.
    decoders
        One a pathway, by role.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        depth = len(encoder.stages)
        self.decoders = nn.ModuleDict(
            {
                role: Decoder(
                    encoder.channels[role],
                    [encoder.size(role, level) for level in (depth, *encoder.decoder_levels(role))],
                    spec.shape[0],
                    auxiliary=encoder.config.auxiliary_outputs,
                )
                for role, spec in encoder.inputs.items()
            }
        )

    def forward(self, inputs: Maps) -> dict[str, list[Tensor]]:
        """Return each pathway's outputs, from the coarsest auxiliary to the full size; ``inputs`` as the encoder's."""
        return {role: self.decoders[role](latent_BCN) for role, latent_BCN in self.encoder(inputs).items()}

    def targets(self, inputs: Maps) -> dict[str, list[Tensor]]:
        """Return what ``forward`` should: the reduced inputs, averaged over the positions each output stands for.

        Windows of 2, 4, 8, ... from the first position on are the ones the encoder's poolings saw, at odd sizes too.
        """
        return {role: self._averaged(role, input_BCN) for role, input_BCN in self.encoder.reduce(inputs).items()}

    def shares(self, masks: Maps) -> dict[str, list[Tensor]]:
        """Return how much of what each output's position stands for is masked, 0 to 1: (B, 1, N), as ``targets``.

        Parameters
        ----------
        masks
            By role, bool (B, 1, N) over the inputs' positions.
        """
        pool = self.encoder.config.pool
        windows = {role: self.encoder.inputs[role].pooling(pool) for role in masks}
        return {role: self._averaged(role, average(mask.float(), windows[role])) for role, mask in masks.items()}

    def _averaged(self, role: str, reduced_BCN: Tensor) -> list[Tensor]:
        return [average(reduced_BCN, self._window(role, level)) for level in self._levels(role)]

    def _levels(self, role: str) -> tuple[int, ...]:
        levels = self.encoder.decoder_levels(role)
        return levels if self.encoder.config.auxiliary_outputs else levels[-1:]

    def _window(self, role: str, level: int) -> tuple[int, ...]:
        return tuple(min(2**level, side) for side in self.encoder.size(role, 0))
