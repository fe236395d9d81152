"""The folder of a model that is given away: ``model.safetensors`` and ``config.json``, read with distrust.

``config.json`` is written last and holds the hash of the tensors: what is half there is not taken for a model.
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = "music-video-emotion"
FORMAT_VERSION = 1

CONFIG, WEIGHTS = "config.json", "model.safetensors"

MAX_CONFIG_BYTES = 1_000_000
MAX_CLASSES = 1000
MAX_BLOCKS = 12  # of a stack; the paper's have five
MAX_WIDTH = 4096  # channels; the paper's widest has 512
MAX_KERNEL = 31  # the paper's longest is 13

_DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError)


class FolderError(ValueError):
    """A folder that no model can be opened from; the message is one line that names it."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What ``config.json`` says of a model."""

    labels: list[str]
    network: dict[str, Any]
    """As ``trainer.models.presets.config_from_dict`` reads it."""
    normalization: dict[str, dict[str, list[float]]]
    """As ``trainer.models.preprocess.Preprocess`` takes it."""
    sigmoids: dict[str, dict[str, Any]]
    """``slope`` and ``offsets`` by what is read of a clip, as ``trainer.models.emotion.EmotionModel`` takes them."""
    why_not_alone: str | None
    about: dict[str, Any]
    """What is told of it and never computed with."""

    def __post_init__(self) -> None:
        """Refuse what others may have written to have something huge built, or nonsense computed."""
        if not 2 <= len(self.labels) <= MAX_CLASSES or not all(isinstance(label, str) for label in self.labels):
            raise ValueError(f"its labels are not 2 to {MAX_CLASSES} names")
        if not all(map(math.isfinite, (n for one in self.sigmoids.values() for n in (one["slope"], *one["offsets"])))):
            raise ValueError("its sigmoids are not finite")
        if not isinstance(self.about, dict) or not isinstance(self.why_not_alone, str | None):
            raise ValueError("its texts are no texts")
        _whole(self.network["pool"], "pool", MAX_WIDTH)
        _whole(self.network["mmtm_ratio"], "mmtm_ratio", MAX_WIDTH)
        for stack in (self.network[name] for name in ("slow", "fast", "blocks") if name in self.network):
            _whole(len(stack), "number of blocks", MAX_BLOCKS)
            for block in stack:
                _whole(block["features"], "features", MAX_WIDTH)
                _whole(block["out_channels"], "out_channels", MAX_WIDTH)
                for side in block["kernels"]:
                    _whole(side, "kernel", MAX_KERNEL)


def _whole(value: Any, name: str, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"its {name} is {str(value)[:40]}, not a whole number from 1 to {most}")


def is_model_folder(folder: Path) -> bool:
    """Tell whether ``config.json`` says that the folder is of this format, of whatever version."""
    try:
        return bool(_read_json(folder / CONFIG)["format"] == FORMAT)
    except _DAMAGE:
        return False


def write_folder(folder: Path, contents: Contents, tensors: Mapping[str, Tensor]) -> None:
    """Write both files, ``config.json`` last and under its name only when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    said = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": _sha256(folder / WEIGHTS), **asdict(contents)}
    temporary = folder / f".{CONFIG}"
    temporary.write_text(json.dumps(said, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copymode(temporary, folder / WEIGHTS)  # safetensors lets nobody else read
    temporary.replace(folder / CONFIG)


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[tuple[Contents, dict[str, Tensor]]]:
    """Give both files' contents; whatever is found wrong with them, in the block too, is told in one line."""
    try:
        if not (folder / CONFIG).is_file():
            raise FolderError(f"{folder} holds no model: there is no {CONFIG}; make one: python -m trainer.export")
        raw = _read_json(folder / CONFIG)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise FolderError(f"{folder}/{CONFIG} is of something else; give a folder that trainer.export wrote")
        if raw["format_version"] != FORMAT_VERSION:
            raise FolderError(
                f"{folder}/{CONFIG} is of format version {str(raw['format_version'])[:20]}, this software reads "
                f"{FORMAT_VERSION}"
            )
        contents = Contents(**{known.name: raw[known.name] for known in fields(Contents)})
        if _sha256(folder / WEIGHTS) != raw["sha256"]:
            raise ValueError(f"{WEIGHTS} is not the one that {CONFIG} was written with")
        yield contents, load_file(folder / WEIGHTS)
    except FolderError:
        raise
    except PermissionError as error:
        raise FolderError(f"{error.filename or folder} cannot be read ({error.strerror})") from None
    except (*_DAMAGE, RecursionError) as error:
        words = " ".join(str(error).split())[:300]
        words = f"it has no {words}" if isinstance(error, KeyError) else words or type(error).__name__
        raise FolderError(f"{folder} is damaged or altered ({words}); export it again") from None


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_CONFIG_BYTES} bytes")
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{CONFIG} holds {name}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
