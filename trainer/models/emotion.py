"""A trained network as it is given away: from the stored members of samples to what it says of each emotion.

It needs torch and safetensors alone, and none of the code that trains::

    from trainer.models.emotion import EmotionModel

    model = EmotionModel.from_pretrained("exported")
    said = model(frames=frames, mel_32k=mel_32k, mel_8k=mel_8k)

``python -m trainer.export`` makes such a folder of a run; ``trainer.models.folder`` writes and reads it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainer.models.classifier import Classifier
from trainer.models.encoder import may_read
from trainer.models.folder import Contents, open_folder, write_folder
from trainer.models.preprocess import STORED, Moments, Preprocess, stored_shape
from trainer.models.presets import build_encoder, config_from_dict

MIN_PROBABILITY = 1e-7  # nearer to 0 or 1 float32's softmax tells nothing


class _Unfilled(TorchFunctionMode):
    """Leaves out drawing first weights: for tensors without storage torch would import its compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **(kwargs or {}))


class Sigmoid(NamedTuple):
    """What makes scores of log-odds (``trainer.calibration.Sigmoids``)."""

    slope: float
    """What they are multiplied by."""
    offsets: Sequence[float]
    """What is added, a number a class."""


class EmotionModel(nn.Module):
    """Preprocessing, network, softmax and sigmoids in one module, in evaluation mode.

    Attributes
    ----------
    labels
        Class names by class index.
    members
        Names of the stored members that it reads; others may be given and are left aside.
    about
        What else its folder tells: where it comes from, how members are made, how well it does.

    Parameters
    ----------
    classifier
        The network.
    normalization
        As ``Preprocess`` takes it.
    sigmoids
        By what is read of a clip: all that the network reads, and ``audio`` and ``video`` where it may be asked about
        either alone.
    why_not_alone
        Why it must not be; None if it may be.

    Raises
    ------
    ValueError
        If a sigmoid is missing, or there are not as many labels and offsets as classes.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        labels: Sequence[str],
        normalization: Moments,
        sigmoids: Mapping[str, Sigmoid],
        why_not_alone: str | None,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        num_classes = classifier.head.out_features
        if len(labels) != num_classes:
            raise ValueError(f"{len(labels)} labels for {num_classes} classes")
        self.classifier = classifier
        self.preprocess = Preprocess(classifier.encoder.inputs, normalization)
        self.labels = list(labels)
        self.members = tuple(name for name in STORED if name in self.preprocess.members)  # in the order of ``forward``
        self.why_not_alone, self.about = why_not_alone, dict(about or {})
        self.slopes = dict[str, float]()
        for read in may_read(classifier.encoder.config.modality, alone=why_not_alone is None):
            if read not in sigmoids:
                raise ValueError(f"there is no sigmoid for {read}")
            slope, offsets = sigmoids[read]
            if len(offsets) != num_classes:
                raise ValueError(f"{len(offsets)} offsets for {num_classes} classes")
            self.slopes[read] = float(slope)
            self.register_buffer(f"offsets_{read}", torch.tensor(offsets, dtype=torch.float32), persistent=False)
        self.itself: Tensor
        self.register_buffer("itself", torch.eye(num_classes, dtype=torch.bool), persistent=False)
        self.eval()

    def forward(
        self,
        frames: Tensor | None = None,
        mel_32k: Tensor | None = None,
        mel_8k: Tensor | None = None,
        mel_22k: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Say what is to be heard and seen in a batch of 30-second clips.

        Parameters
        ----------
        frames
            uint8 (B, 64, 128, 128, 3): RGB, evenly over the clip.
        mel_32k, mel_8k, mel_22k
            float (B, 2, 128, 1876), (B, 2, 128, 469) and (B, 2, 128, 1292): log-mel in dB, and the phase that the set
            stores which it was trained on. Finite: what is compiled or exported does not look, and answers NaN by NaN.

        Returns
        -------
        dict
            float32 (B, classes): ``probabilities``, softmax, which add up to 1, and ``scores``, 0 to 1, of each emotion
            for itself.

        Raises
        ------
        ValueError
            If a member is missing, is not as stored, is not finite, or has another batch size than the others; or all
            of a modality are missing, and the network cannot do without.
        """
        given = {"frames": frames, "mel_32k": mel_32k, "mel_8k": mel_8k, "mel_22k": mel_22k}
        stored = {name: tensor for name, tensor in given.items() if tensor is not None and name in self.members}
        self._check(stored)
        logits_BK = self.classifier(self.preprocess(stored))
        # Of two classes' odds softmax knows the logits' difference alone, and log-odds of one against all others are
        # taken without leaving logarithms, in which float32 is exact enough.
        others_BKK = logits_BK.unsqueeze(1).masked_fill(self.itself, -torch.inf)
        limit = math.log((1 - MIN_PROBABILITY) / MIN_PROBABILITY)
        odds_BK = (logits_BK - others_BKK.logsumexp(-1)).clamp(-limit, limit)
        modalities = {STORED[name].modality for name in stored}
        read = "both" if len(modalities) == 2 else modalities.pop()
        return {
            "probabilities": logits_BK.softmax(-1),
            "scores": torch.sigmoid(self.slopes[read] * odds_BK + self.get_buffer(f"offsets_{read}")),
        }

    def _check(self, stored: dict[str, Tensor]) -> None:
        """Refuse what was not trained on, or not made as the members of a sample are."""
        eager = not torch.compiler.is_compiling()  # a graph can neither look at numbers nor at a size left open
        for name, tensor in stored.items():
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{name} is {type(tensor).__name__}, no tensor; give torch.from_numpy of an array")
            shape, kind = stored_shape(name), "uint8" if name == "frames" else "float16 or float32"
            fits = tensor.dtype == torch.uint8 if name == "frames" else tensor.is_floating_point()
            if tuple(tensor.shape[1:]) != shape or not fits:
                told = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
                raise ValueError(f"{name} is {told}; give {kind} (B, {', '.join(map(str, shape))})")
            if eager and name != "frames" and not tensor.isfinite().all():
                raise ValueError(f"{name} holds values that are not finite")
        if eager and len({len(tensor) for tensor in stored.values()}) > 1:
            told = ", ".join(f"{len(tensor)} of {name}" for name, tensor in stored.items())
            raise ValueError(f"other numbers of samples: {told}; give as many of each")
        missing = [name for name in self.members if name not in stored]
        absent = {STORED[name].modality for name in missing} - {STORED[name].modality for name in stored}
        if not stored or any(STORED[name].modality not in absent for name in missing):
            raise ValueError(f"{', '.join(missing)} missing: the network reads {', '.join(self.members)}")
        if absent and self.why_not_alone:
            raise ValueError(f"{', '.join(missing)} missing: {self.why_not_alone}")

    @property
    def sigmoids(self) -> dict[str, Sigmoid]:
        """What it was given."""
        return {
            read: Sigmoid(slope, self.get_buffer(f"offsets_{read}").tolist()) for read, slope in self.slopes.items()
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder, which is made if need be."""
        moments = {
            name: {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
            for name, (mean, std) in self.preprocess.moments.items()
        }
        contents = Contents(
            labels=self.labels,
            network=asdict(self.classifier.encoder.config),
            normalization=moments,
            sigmoids={read: one._asdict() for read, one in self.sigmoids.items()},
            why_not_alone=self.why_not_alone,
            about=self.about,
        )
        write_folder(Path(folder), contents, self.classifier.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "EmotionModel":
        """Open such a folder, on the CPU. Nothing is unpickled, and no name in it is looked up as code.

        The network is built without storage and takes that of the tensors in the file, so it is never larger.

        Raises
        ------
        FolderError
            If it is none, is damaged, or is of a later release: one line.
        """
        with open_folder(Path(folder)) as (contents, tensors):
            with torch.device("meta"), _Unfilled():
                classifier = Classifier(build_encoder(config_from_dict(contents.network)), len(contents.labels))
            expected = classifier.state_dict()
            if odd := [n for n, t in tensors.items() if n in expected and t.dtype != expected[n].dtype]:
                raise ValueError(f"{odd[0]} is {tensors[odd[0]].dtype}, not {expected[odd[0]].dtype}")
            # Copies: where the file's own bytes happen to lie some kernels round otherwise.
            own = {name: tensor.clone() for name, tensor in tensors.items()}
            classifier.load_state_dict(own, strict=True, assign=True)
            return cls(
                classifier,
                labels=contents.labels,
                normalization=contents.normalization,
                sigmoids={read: Sigmoid(one["slope"], one["offsets"]) for read, one in contents.sigmoids.items()},
                why_not_alone=contents.why_not_alone,
                about=contents.about,
            )
