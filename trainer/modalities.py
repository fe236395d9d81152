"""Sound alone, pictures alone: what is built for a set that has no more, and what may be left out of a network."""

from trainer.models import encoder
from trainer.models.encoder import ModalityChoice
from trainer.models.preprocess import Specs
from trainer.runs import RunConfig
from trainer.shards import ShardSet


def built_for(data: ShardSet, asked: ModalityChoice | None) -> tuple[ModalityChoice, str | None]:
    """Choose which pathways are built: those asked for, else those that the set has arrays for.

    Returns
    -------
    (ModalityChoice, str or None)
        The second is what should be said of it, where the set lacks a modality.
    """
    if asked is not None:
        return asked, None
    held = data.modality
    said = f"modality: {held}, as {data.address} holds no other; the other pathways and MMTM are not built"
    return held, None if held == "both" else said


def why_not_alone(config: RunConfig) -> str | None:
    """Say why a run must not be scored on sound or on picture alone; None where it may be.

    A network takes ``Classifier.mean_embedding`` for an absent modality only if batches lost one in training; of one
    that saw both at every step such scores would tell nothing about the modality.
    """
    if config.network["modality"] != "both":
        return f"the network reads {config.network['modality']} alone"
    if not config.train.get("modality_dropout"):
        return (
            "the network never had to do without one of the two: such scores would tell nothing; fine-tune it with "
            "--modality-dropout 0.2, which --recipe strong has, or train --modality audio"
        )
    return None


def may_read(config: RunConfig) -> list[ModalityChoice]:
    """Return what a run may be asked about: all that its network reads, and sound and picture alone where it may."""
    return encoder.may_read(config.network["modality"], alone=why_not_alone(config) is None)


def pathways_of(specs: Specs, read: ModalityChoice) -> Specs:
    """Return those of ``encoder.inputs`` that are there if no more than this is read."""
    return {role: spec for role, spec in specs.items() if read in ("both", spec.modality)}
