"""What an autoencoder makes of a clip: input, what it saw of it, its reconstruction and the error, in one picture.

RUN/pictures/step-00000500-0.png
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor, nn

from trainer.inputs import Inputs
from trainer.models.encoder import Maps
from trainer.models.inputs import CLIP_S, VideoInput
from trainer.objectives import OutputsByRole

NUM_FRAMES = 8  # of a strip, spread over the clip
PHASE_S = (10.0, 15.0)  # shown of the phase: over 30 s a column is less than a pixel
HIDDEN = 0.5  # share of a position that must be hidden for it to be drawn so
GREY = 0.5
OUTLIERS = (0.005, 0.995)  # beyond these quantiles colours do not change
ERROR = {"cmap": "magma", "vmin": 0.0, "vmax": 2.0}  # standard deviations
DPI = 100
WIDTH_IN, FRAMES_IN, SPECTROGRAM_IN, TITLE_IN = 12.0, 1.5, 1.1, 0.5


class Panel(NamedTuple):
    """One row of a picture."""

    name: str
    image: Any
    frames: bool
    """Frames side by side, in place of a spectrogram."""
    options: dict[str, Any]
    """For ``imshow``."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A pathway's input of one clip, as it is stored: frames 0 to 255 (C, T, H, W) or level and phase (C, M, T)."""

    role: str
    channel_names: Sequence[str]
    target: np.ndarray
    output: np.ndarray
    """The network's reconstruction."""
    error: np.ndarray
    """Standard deviations between the two."""
    hidden: np.ndarray | None
    """bool, without the channel axis: what the network did not see; None where nothing was hidden."""


@torch.no_grad()
def draw_clips(
    model: nn.Module,
    inputs: Maps,
    targets: OutputsByRole,
    shares: OutputsByRole | None,
    to_inputs: Inputs,
    *,
    titles: Sequence[str],
) -> list[np.ndarray]:
    """Reconstruct a batch in evaluation mode, and draw of each clip every frame strip and every channel.

    Parameters
    ----------
    inputs, targets, shares
        What the autoencoder reads, what it should return, and how much of that was hidden; None if nothing was. The
        full size, the last, is drawn.

    Returns
    -------
    list of numpy.ndarray
        uint8 (height, width, 3), one a clip.
    """
    was_training = model.training
    model.eval()
    outputs = model(inputs)
    model.train(was_training)
    return [
        _draw(
            {role: (targets[role][-1][i].cpu(), outputs[role][-1][i].float().cpu()) for role in outputs},
            {} if shares is None else {role: (shares[role][-1][i, 0] >= HIDDEN).cpu().numpy() for role in outputs},
            to_inputs,
            title=title,
        )
        for i, title in enumerate(titles)
    ]


def save_clips(pictures: Sequence[np.ndarray], folder: Path, *, step: int) -> None:
    """Write a PNG a clip, each whole or not at all."""
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(pictures):
        path = folder / f"step-{step:08d}-{i}.png"
        temporary = path.with_name(f".{path.name}")
        imsave(temporary, picture, format="png")
        temporary.replace(path)


def _draw(
    values: Mapping[str, tuple[Tensor, Tensor]], hidden: Mapping[str, np.ndarray], to_inputs: Inputs, *, title: str
) -> np.ndarray:
    panels: list[Panel] = []
    for role, spec in to_inputs.specs.items():
        target, output = values[role]
        mean, std = (moment.cpu() for moment in to_inputs.moments[to_inputs.sources[role].member])
        shown = Shown(
            role=role,
            channel_names=to_inputs.channel_names[role],
            target=(target * std + mean).numpy(),
            output=(output * std + mean).numpy(),
            error=(output - target).abs().numpy(),
            hidden=hidden.get(role),
        )
        panels += _strips(shown) if isinstance(spec, VideoInput) else _spectrograms(shown)
    heights = [FRAMES_IN if panel.frames else SPECTROGRAM_IN for panel in panels]
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + TITLE_IN), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    rows = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        if panel.frames:
            axes.imshow(panel.image, **panel.options)
            axes.set_xticks([])
        else:
            axes.imshow(panel.image, aspect="auto", origin="lower", interpolation="nearest", **panel.options)
            axes.tick_params(labelsize=6)
        axes.set_ylabel(panel.name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_yticks([])
    rows[-1].set_xlabel("s", fontsize=8)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _strips(shown: Shown) -> list[Panel]:
    """Frames side by side."""
    every = max(1, shown.target.shape[1] // NUM_FRAMES)

    def strip(frames_THWC: np.ndarray) -> np.ndarray:
        return np.concatenate(list(frames_THWC[::every][:NUM_FRAMES]), axis=1)

    target, output = (np.moveaxis((x / 255).clip(0, 1), 0, -1) for x in (shown.target, shown.output))
    panels = [Panel(f"{shown.role}\ninput", strip(target), True, {})]
    if shown.hidden is not None:
        panels.append(Panel("seen", strip(np.where(shown.hidden[..., None], GREY, target)), True, {}))
    panels.append(Panel("reconstruction", strip(output), True, {}))
    panels.append(Panel("error", strip(shown.error.mean(0)), True, ERROR))
    return panels


def _spectrograms(shown: Shown) -> list[Panel]:
    """Each channel over time, bands from low to high: the level in dB, of the phase five seconds."""
    panels: list[Panel] = []
    for i, name in enumerate(shown.channel_names):
        start_s, end_s = (0.0, float(CLIP_S)) if i == 0 else PHASE_S
        columns = slice(*(round(second / CLIP_S * shown.target.shape[-1]) for second in (start_s, end_s)))
        target, output, error = (x[i][:, columns] for x in (shown.target, shown.output, shown.error))
        extent = {"extent": (start_s, end_s, 0, len(target))}
        low, high = np.quantile(target, OUTLIERS).tolist()
        scale = extent | {"cmap": "viridis" if i == 0 else "twilight", "vmin": low, "vmax": high}
        panels.append(Panel(f"{shown.role}\n{name}", target, False, scale))
        if shown.hidden is not None:
            panels.append(Panel("seen", np.ma.masked_array(target, shown.hidden[:, columns]), False, scale))
        panels.append(Panel("reconstruction", output, False, scale))
        panels.append(Panel("error", error, False, extent | ERROR))
    return panels
