"""From a video to its curve: windows read one after the other, judged in small batches, and forgotten."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.calibration import Sigmoids
from trainer.curve import Curve, Said
from trainer.files import now
from trainer.inputs import Inputs
from trainer.modalities import pathways_of, why_not_alone
from trainer.models.encoder import ModalityChoice
from trainer.runs import versions
from trainer.stills import Still, Stills
from trainer.trained import Trained
from trainer.videos import WINDOW_S, Video, read_batches


def num_windows(duration_s: float, every_s: float) -> int:
    """About how many windows a video has, for a progress bar."""
    return max(1, int((duration_s - WINDOW_S) // every_s) + 2)


def watch(
    trained: Trained,
    model: nn.Module,
    video: Video,
    *,
    every_s: float,
    batch_size: int,
    device: torch.device,
    seen: Callable[[int], None] = lambda windows: None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[Curve, list[Still]]:
    """Judge a video's windows.

    Memory does not grow with the video's length, but for the numbers of the curve.

    Parameters
    ----------
    model
        The run's classifier where it computes: on the device, in its precision.
    seen
        Is told of every batch how many windows it had.
    warn
        Is told what went wrong with the video, where there are windows all the same.

    Raises
    ------
    UserError
        If no window of it can be read.
    """
    reason = why_not_alone(trained.config)
    alone: list[ModalityChoice] = ["audio", "video"] if video.modality == "both" and reason is None else []
    sigmoids = {read: trained.sigmoids[read] for read in (video.modality, *alone)}
    judges = {read: _judge(trained, model, read, device=device) for read in sigmoids}
    stills, starts_s, end_s, problems = Stills(), list[float](), 0.0, list[str]()
    rows: dict[ModalityChoice, list[np.ndarray]] = {read: [] for read in judges}
    for batch in read_batches(video, problems, recipe=trained.config.recipe, every_s=every_s, batch_size=batch_size):
        arrays = {name: torch.from_numpy(np.stack([w.arrays[name] for w in batch])) for name in batch[0].arrays}
        for read, judge in judges.items():
            rows[read].append(judge(arrays))
        for window in batch:
            frames_THWC = window.arrays.get("frames")
            stills.offer(frames_THWC, start_s=window.start_s, valid_s=window.valid_s, length_s=WINDOW_S)
        starts_s += [window.start_s for window in batch]
        end_s = max(window.start_s + window.valid_s for window in batch)
        seen(len(batch))
    for problem in problems:
        warn(problem)
    said = {read: _said(sigmoids[read], np.concatenate(parts)) for read, parts in rows.items()}
    curve = Curve(
        labels=trained.labels,
        title=video.title,
        duration_s=end_s,
        every_s=every_s,
        window_s=float(WINDOW_S),
        starts_s=starts_s,
        said=said[video.modality],
        alone={read: said[read] for read in alone},
        why_not_alone=reason if video.modality == "both" else f"the video has {video.modality} alone",
        about=about(trained, video, sigmoids) | {"problems": problems},
    )
    return curve, stills.kept


def about(trained: Trained, video: Video, sigmoids: Mapping[ModalityChoice, Sigmoids]) -> dict[str, Any]:
    """What a curve says of where it comes from: no path of the machine."""
    return {
        "source": video.link or video.path.name,
        "read": video.modality,
        "run": trained.run.name,
        "checkpoint": trained.checkpoint.name,
        "network": trained.config.name,
        "sigmoids": {read: one.as_dict() for read, one in sigmoids.items()},
        "predicted": now(),
        "versions": versions(),
    }


def _judge(
    trained: Trained, model: nn.Module, read: ModalityChoice, *, device: torch.device
) -> Callable[[dict[str, torch.Tensor]], np.ndarray]:
    """Return what turns stored arrays into probabilities, of no more than is to be read of them."""
    specs = pathways_of(trained.classifier.encoder.inputs, read)
    to_inputs = Inputs(specs, trained.config.normalization, device)

    def probabilities(arrays: dict[str, torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            logits_BK: torch.Tensor = model(to_inputs(arrays))
            return np.asarray(logits_BK.double().softmax(1).cpu())

    return probabilities


def _said(sigmoids: Sigmoids, probabilities: np.ndarray) -> Said:
    return Said(scores=sigmoids(probabilities), probabilities=probabilities)
