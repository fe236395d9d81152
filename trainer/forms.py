"""A model in forms that need no code of ours: ONNX and ``torch.export``, held against the model itself.

Each takes the stored members by name, a batch of any size, and gives ``probabilities`` and ``scores``.
"""

import contextlib
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from trainer.errors import UserError
from trainer.models.emotion import EmotionModel
from trainer.models.folder import WEIGHTS
from trainer.models.inputs import AudioInput
from trainer.models.preprocess import stored_shape

Form = Literal["pretrained", "onnx", "torch-export"]

FILES: dict[Form, str] = {"pretrained": WEIGHTS, "onnx": "model.onnx", "torch-export": "model.pt2"}

TOLERANCE = 1e-4
"""By how much a probability or a score of a form may differ from the model's own."""
BATCHES = (1, 3)
"""Sizes of the batches that are compared."""

OUTPUTS = ("probabilities", "scores")
LABELS_FILE = "labels.json"  # beside the graph in the archive of torch.export
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Said = dict[str, Tensor]


def missing_packages() -> list[str]:
    """Return which of the packages that ONNX needs are not installed."""
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


def random_samples(model: EmotionModel, batch_size: int, *, seed: int) -> dict[str, Tensor]:
    """Return samples as a set might store them: blocks of colour, spectrograms about the mean that it was trained on.

    Returns
    -------
    dict
        By member: ``frames`` uint8 (B, 64, 128, 128, 3), ``mel_...`` float16 (B, 2, 128, T).
    """
    draw = torch.Generator().manual_seed(seed)
    samples = {}
    moments = model.preprocess.moments
    for name in model.members:
        shape = (batch_size, *stored_shape(name))
        if name == "frames":
            blocks_BTHWC = torch.randint(0, 256, (batch_size, 8, 8, 8, 3), generator=draw)
            blocks_BTHWC = blocks_BTHWC.repeat_interleave(8, 1).repeat_interleave(16, 2).repeat_interleave(16, 3)
            samples[name] = blocks_BTHWC.to(torch.uint8)
            continue
        mean, std = moments[name]
        noise = (torch.randn(shape, generator=draw) + torch.randn((*shape[:-1], 1), generator=draw)) / 2**0.5
        level_BMT = mean[0] + std[0] * noise[:, 0]
        phase_BMT = mean[1] + std[1] * noise[:, 1] if len(mean) == 2 else noise[:, 1]
        if any(spec.phase in ("angle", "cos-sin", "inst-freq") for spec in _audio(model)):
            phase_BMT = torch.pi * (2 * torch.rand(phase_BMT.shape, generator=draw) - 1)
        samples[name] = torch.stack([level_BMT, phase_BMT], 1).half()
    return samples


def _audio(model: EmotionModel) -> list[AudioInput]:
    return [spec for spec in model.preprocess.specs.values() if isinstance(spec, AudioInput)]


def traced(model: EmotionModel) -> ExportedProgram:
    """Return the graph of a model for batches of any size."""
    example = random_samples(model, 2, seed=0)  # of one sample the batch would be taken for fixed
    batch = Dim("batch")
    program = torch.export.export(model, (), example, dynamic_shapes={name: {0: batch} for name in example})
    program.example_inputs = None  # else they are saved too
    return program


def write_torch_export(program: ExportedProgram, model: EmotionModel, path: Path) -> None:
    """Write the archive that ``torch.export.load`` reads, the labels in it."""
    torch.export.save(program, path, extra_files={LABELS_FILE: json.dumps(model.labels)})


def write_onnx(program: ExportedProgram, model: EmotionModel, path: Path) -> None:
    """Write an ONNX file, weights and labels in it."""
    first, *others = model.members
    named = {first: {0: "batch"}} | {name: {0: Dim.DYNAMIC} for name in others}  # one name for one size
    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, output_names=list(OUTPUTS), dynamic_shapes=named, external_data=False
        )
    assert made is not None
    made.model.metadata_props["labels"] = json.dumps(model.labels)
    made.save(path, external_data=False)


def read_pretrained(folder: Path) -> Callable[[dict[str, Tensor]], Said]:
    """Open what ``save_pretrained`` wrote."""
    model = EmotionModel.from_pretrained(folder)
    return lambda samples: model(**samples)


def read_torch_export(path: Path) -> Callable[[dict[str, Tensor]], Said]:
    """Open what ``write_torch_export`` wrote."""
    module = torch.export.load(path).module()
    return lambda samples: module(**samples)


def read_onnx(path: Path) -> Callable[[dict[str, Tensor]], Said]:
    """Open what ``write_onnx`` wrote, on the CPU."""
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(samples: Mapping[str, Tensor]) -> Said:
        values: list[np.ndarray] = session.run(list(OUTPUTS), {name: one.numpy() for name, one in samples.items()})
        return {name: torch.from_numpy(value) for name, value in zip(OUTPUTS, values, strict=True)}

    return run


@torch.no_grad()
def largest_difference(model: EmotionModel, form: Callable[[dict[str, Tensor]], Said], *, name: str) -> float:
    """Compare a form with the model on random samples, in batches of ``BATCHES``.

    Returns
    -------
    float
        The largest difference of a probability or a score.

    Raises
    ------
    UserError
        If it is beyond ``TOLERANCE``, or not a number.
    """
    found = 0.0
    for seed, batch_size in enumerate(BATCHES):
        samples = random_samples(model, batch_size, seed=seed)
        said, own = form(samples), model(**samples)
        for output in OUTPUTS:
            difference = float((said[output] - own[output]).abs().max())
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{name} says otherwise than the network: its {output} differ by up to {difference:.3g}, more than "
                    f"{TOLERANCE:g}; nothing was written. Leave that form out of --formats, and tell us the versions"
                )
            found = max(found, difference)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's words on its own workings from the reader."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
