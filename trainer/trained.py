"""A fine-tuned run, opened for use: the network at its best checkpoint, with all that its outputs mean."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.calibration import Sigmoids
from trainer.checkpoint import latest, load_weights, read_state, require_latest
from trainer.errors import UserError
from trainer.modalities import may_read
from trainer.models.classifier import Classifier
from trainer.models.encoder import ModalityChoice
from trainer.models.presets import build_encoder, config_from_dict
from trainer.runs import RunConfig, read_config, require_same


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network, on the CPU and in evaluation mode, and what was known of it when it was saved."""

    run: Path
    config: RunConfig
    checkpoint: Path
    state: dict[str, Any]
    """The checkpoint's ``state.json``."""
    classifier: Classifier

    @property
    def labels(self) -> list[str]:
        """Class names by class index."""
        assert self.config.labels is not None, "a finetune run has labels"
        return self.config.labels

    @property
    def sigmoids(self) -> dict[ModalityChoice, Sigmoids]:
        """What turns its probabilities into a score of each emotion for itself, by what was read of a clip.

        Raises
        ------
        UserError
            If the run has none, which is fitted whenever it validates.
        """
        try:
            return {read: Sigmoids.of(self.state["sigmoids"][read]) for read in may_read(self.config)}
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{self.checkpoint} holds no sigmoids, which are fitted on validation samples: let the run validate "
                f"once (python -m trainer.finetune --out {self.run} --resume), or fine-tune anew"
            ) from None


def open_trained(run: Path) -> Trained:
    """Open a fine-tuned run at the checkpoint that was best on its validation split, else at its last one.

    Raises
    ------
    UserError
        If the folder is no finetune run, or has no whole checkpoint.
    """
    config = read_config(run)
    require_same(run, config, kind="finetune")
    found = latest(run, "best") or require_latest(run)
    classifier = Classifier(build_encoder(config_from_dict(config.network)), len(config.labels or ()))
    load_weights(found, classifier)
    return Trained(run=run, config=config, checkpoint=found, state=read_state(found), classifier=classifier.eval())


def newest_trained(root: Path) -> Path:
    """Return the newest fine-tuned run in a folder that has validated.

    Raises
    ------
    UserError
        If there is none.
    """
    found = []
    for run in (path.parent for path in root.glob("*/config.json")):
        with suppress(UserError):
            config = read_config(run)
            if config.kind == "finetune" and latest(run, "best"):
                found.append((config.created, run))
    if not found:
        raise UserError(f"no fine-tuned run in {root}; name one by --run, or make one: python -m trainer.finetune")
    return max(found)[1]
