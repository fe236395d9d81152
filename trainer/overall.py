"""A whole video as one embedding, for ``trainer.nearest``: apart from it, since it needs the extra ``pipeline`` too."""

import numpy as np
import torch
from torch import nn

from trainer.embedder import Opened, embed
from trainer.errors import UserError
from trainer.inputs import Inputs
from trainer.modalities import pathways_of
from trainer.videos import EVERY_UNIT_S, Video, open_video, read_batches

__all__ = ["embed_video", "open_video"]


def embed_video(
    opened: Opened, model: nn.Module, video: Video, *, every_s: float, batch_size: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray | None, int, list[str]]:
    """Embed a whole video: the mean over its windows of 30 s, one every few seconds.

    Returns
    -------
    (embedding, probabilities, windows, problems)
        (D,), (classes,) or None, of how many windows they are the mean, and why of no more than these.

    Raises
    ------
    UserError
        If no window of it can be read, or windows cannot be so far apart.
    """
    if every_s % EVERY_UNIT_S:
        raise UserError(f"--every {every_s:g}: give a multiple of {EVERY_UNIT_S:g}, in seconds")
    specs = pathways_of(opened.embedder.encoder.inputs, video.modality)
    to_inputs = Inputs(specs, opened.config.normalization, device)
    found, problems = [], list[str]()
    for taken in read_batches(video, problems, recipe=opened.config.recipe, every_s=every_s, batch_size=batch_size):
        arrays = {
            name: torch.from_numpy(np.stack([window.arrays[name] for window in taken])) for name in to_inputs.members
        }
        found.append(embed(model, to_inputs(arrays)))
    embeddings_ND = np.concatenate([one.embeddings_BD for one in found])
    said = [one.probabilities_BK for one in found if one.probabilities_BK is not None]
    overall_K = np.concatenate(said).mean(0) if said else None
    return embeddings_ND.mean(0), overall_K, len(embeddings_ND), problems
