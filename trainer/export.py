"""Make a folder of a fine-tuned run that others can use, without the code that trains.

Usage::

    python -m trainer.export --run runs/first --out exported
    python -m trainer.export --run runs/first --out exported --formats pretrained --license cc-by-4.0

It gets ``model.safetensors`` and ``config.json``, which ``EmotionModel.from_pretrained`` opens without unpickling
anything; ``model.onnx``; ``model.pt2`` (``torch.export``); and ``README.md``, the model's card, with a runnable example
of each. Every form is opened again and compared with the network on random samples before the folder appears, whole.
The checkpoint that was best on the validation split is taken.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from trainer.errors import UserError, one_line
from trainer.files import now, require_folder, require_own, together
from trainer.forms import (
    FILES,
    ONNX_PACKAGES,
    Form,
    largest_difference,
    missing_packages,
    read_onnx,
    read_pretrained,
    read_torch_export,
    traced,
    write_onnx,
    write_torch_export,
)
from trainer.modalities import why_not_alone
from trainer.models.emotion import EmotionModel, Sigmoid
from trainer.page.card import LIBRARY, MARK, card, preprocessing, scores_told
from trainer.runs import read_groups, versions
from trainer.runtime import entry, parse, require, say
from trainer.trained import Trained, open_trained

PROG = "python -m trainer.export"
FORMS: tuple[Form, ...] = get_args(Form)
WRITTEN = ("README.md", "config.json", *FILES.values())


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make a folder of a fine-tuned run that others can use."""

    run: str
    """Run folder that trainer.finetune wrote."""
    out: str
    """New folder, or that of an earlier export, which is replaced."""
    formats: tuple[Form, ...] = FORMS
    """pretrained: for this software; onnx: for other software (needs the extra export); torch-export: for torch."""
    license: str = "other"
    """What you give the weights under, by the Hugging Face hub's name; other states nothing."""
    name: str | None = None
    """What the card calls it; by default network and preset."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        require(bool(self.formats), f"--formats names none: give some of {', '.join(FORMS)}")
        for flag, text in (("license", self.license), ("name", self.name or "a")):
            require(text.isprintable() and bool(text.strip()), f"--{flag} {text!r}: give one line of words")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG)
    run, out = Path(cfg.run), Path(cfg.out)
    formats = [form for form in FORMS if form in cfg.formats]
    if "onnx" in formats and (missing := missing_packages()):
        raise UserError(
            f"--formats onnx needs {', '.join(ONNX_PACKAGES)}, and there is no {', '.join(missing)}: pip install "
            "'music-video-emotion[export]', or give --formats pretrained torch-export"
        )
    require_folder(out)
    require_own(out, WRITTEN, mark=is_export, by="an earlier trainer.export")
    trained = open_trained(run)
    scores, unscored = scores_of(trained)
    model = model_of(trained)
    say(f"run: {run}, {trained.config.name}, {trained.checkpoint.name}, labels {', '.join(model.labels)}")

    readers: dict[Form, Callable[[Path], Any]] = {
        "pretrained": lambda path: read_pretrained(path.parent),
        "onnx": read_onnx,
        "torch-export": read_torch_export,
    }
    with written_whole(out) as made:
        if "pretrained" in formats:
            model.save_pretrained(made)
        if formats != ["pretrained"]:
            program = traced(model)
        if "torch-export" in formats:
            write_torch_export(program, model, made / FILES["torch-export"])
        if "onnx" in formats:
            write_onnx(program, model, made / FILES["onnx"])
        told: dict[Form, dict[str, Any]] = {}
        for form in formats:
            path = made / FILES[form]
            difference = largest_difference(model, readers[form](path), name=path.name)
            told[form] = {"bytes": path.stat().st_size, "difference": difference}
            say(
                f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, differs from the network by at most {difference:.2g}"
            )
        name = cfg.name or f"Music video emotion, {trained.config.name}"
        words = card(model, name=name, licence=cfg.license, forms=told, scores=scores, unscored=unscored)
        (made / "README.md").write_text(words, encoding="utf-8")
    say(f"done: {out}; its README.md tells how it is used")


def model_of(trained: Trained) -> EmotionModel:
    """Return a run's network with all that goes before and after it, and what is told of it."""
    config, sigmoids = trained.config, trained.sigmoids
    model = EmotionModel(
        trained.classifier,
        labels=trained.labels,
        normalization=config.normalization,
        sigmoids={read: Sigmoid(slope=one.slope, offsets=one.offsets) for read, one in sigmoids.items()},
        why_not_alone=why_not_alone(config),
    )
    model.about = {
        "made_by": " ".join([LIBRARY, versions().get(LIBRARY, "")]).strip(),
        "exported": now(),
        "network": config.name,
        "run": trained.run.resolve().name,
        "step": trained.state["step"],
        "validation": trained.state.get("validation"),
        "pretrained": f"step {config.init['step']}" if config.init else None,
        "data": {
            "fingerprint": config.data,
            "recipe_hash": config.recipe_hash,
            "source_groups": len(read_groups(trained.run)[0]),
            "validation_samples": sigmoids[config.network["modality"]].num_samples,
        },
        "preprocessing": preprocessing(model, config.recipe),
        "versions": versions(*ONNX_PACKAGES),
    }
    return model


def scores_of(trained: Trained) -> tuple[dict[str, Any] | None, str]:
    """Return what evaluate found of this very checkpoint, or why there is nothing."""
    path = trained.run / "metrics.json"
    if not path.exists():
        return None, "no scores lay in the run it was made of"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["checkpoint"] != trained.checkpoint.name:
            return None, "the scores in the run it was made of are of another checkpoint"
        scores = scores_told(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"there is no {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
        raise UserError(f"{path} cannot be read ({words}); evaluate the run again, or remove it") from None
    return scores, ""


def is_export(folder: Path) -> bool:
    """Tell whether a card of ours stands in a folder."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8").partition("\n---\n")[0]
    except (OSError, UnicodeDecodeError):
        return False
    return MARK in head.splitlines()


@contextlib.contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Give a place to write to, which becomes the folder when all is there."""
    fresh = not out.exists()
    try:
        with together(out, WRITTEN, last="README.md") as made:
            yield made
    except OSError as error:
        raise UserError(f"the model cannot be written to {out}: {one_line(error)}") from None
    finally:
        if fresh and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


if __name__ == "__main__":
    main()
