"""Which sound belongs to which picture: a loss, and how the clips of several processes take part in it.

Within a batch each sound must find its own picture among all pictures, and the other way round. The larger the batch,
the harder that is; so the embeddings of all ranks are compared, with their gradients.
"""

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor


class Embeddings(NamedTuple):
    """Two embeddings a clip, float (B, D) of length 1, and what decides which clips are compared."""

    audio_BD: Tensor
    video_BD: Tensor
    group_B: Tensor
    """int64, the source group."""
    real_B: Tensor
    """bool; False for rows that only fill up a batch, or the ranks."""


def contrast(own: Embeddings, everyone: Embeddings, scale: Tensor, *, first: int = 0) -> dict[str, Tensor]:
    """Symmetric InfoNCE between sound and picture: each must find the other of its own clip among those of all.

    van den Oord et al., "Representation learning with contrastive predictive coding", 2018; symmetric, with a learnt
    temperature, as Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021.
    Clips of one source group (the same video, song or picture) are no negatives of each other.

    Parameters
    ----------
    own
        What this process embedded.
    everyone
        What all processes did; ``own`` where there is one.
    scale
        Inverse temperature.
    first
        Where in ``everyone`` its own begin.

    Returns
    -------
    dict
        ``contrast``, the loss, in nats, 0 of no clips; ``contrast/found``, the share of clips of which sound found
        picture first, and picture sound, of all that it was compared with.
    """
    rows = torch.arange(len(own.group_B), device=own.group_B.device)
    same = own.group_B[:, None] == everyone.group_B[None]
    excluded = (same | ~everyone.real_B[None]).scatter(1, rows[:, None] + first, False)
    losses, found = [], []
    for mine, others in ((own.audio_BD, everyone.video_BD), (own.video_BD, everyone.audio_BD)):
        logits = (scale * mine @ others.T).masked_fill(excluded, -torch.inf)[own.real_B]
        partner = (rows + first)[own.real_B]
        losses.append(F.cross_entropy(logits, partner, reduction="sum") / max(1, len(logits)))
        found.append((logits.argmax(1) == partner).float().sum() / max(1, len(logits)))
    return {"contrast": torch.stack(losses).mean(), "contrast/found": torch.stack(found).mean().detach()}


def padded(own: Embeddings, length: int) -> Embeddings:
    """Fill a short batch up with rows that are not real: ranks exchange tensors of one shape."""
    missing = length - len(own.group_B)
    return Embeddings(*(torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) for x in own))


def of_all_ranks(own: Embeddings, fabric: Fabric, *, batch_size: int) -> tuple[Embeddings, Embeddings, int]:
    """Return the own embeddings, those of all ranks, and where among these the own begin; gradients flow back.

    Every rank's loss thus pulls at every rank's embeddings; averaged over the ranks, as data parallelism does it, the
    gradient is that of one large batch.
    """
    if fabric.world_size == 1:
        return own, own, 0
    own = padded(own, batch_size)
    everyone = Embeddings(
        *(_gathered(x, fabric, with_gradients=True) for x in own[:2]),
        *(_gathered(x, fabric, with_gradients=False) for x in own[2:]),
    )
    return own, everyone, fabric.global_rank * batch_size


def _gathered(rows: Tensor, fabric: Fabric, *, with_gradients: bool) -> Tensor:
    with warnings.catch_warnings():  # Lightning gathers by what torch advises against
        warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.all_gather", FutureWarning)
        by_rank = fabric.all_gather(rows, sync_grads=with_gradients)
    assert isinstance(by_rank, Tensor)
    return by_rank.flatten(0, 1)
