"""The card of an exported model, ``README.md``: for people, and for hubs (YAML header)."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainer.forms import BATCHES, FILES, LABELS_FILE, TOLERANCE, Form
from trainer.models.emotion import EmotionModel
from trainer.models.inputs import CLIP_S, HOP_SAMPLES, NUM_MELS, AudioInput
from trainer.models.preprocess import STORED, stored_shape
from trainer.page.html import last_part
from trainer.shards import N_FFT

LIBRARY = "music-video-emotion"
MARK = f"library_name: {LIBRARY}"
"""Line of the header by which a card is known as ours."""

METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "roc_auc": "roc_auc"}
"""Of ``metrics.json``, by the names of the Hugging Face hub."""

PHASES = {
    "projected": "mel filters times the angle of the transform",
    "angle": "angle of mel filters times the transform, radians",
}


def preprocessing(model: EmotionModel, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of the members that a model reads: shapes, and constants with their units."""
    members: dict[str, Any] = {}
    for name in model.members:
        held = STORED[name]
        if isinstance(held, AudioInput):
            members[name] = {
                "dtype": "float16",
                "axes": ["channel", "mel", "time"],
                "channels": ["log-mel, dB", f"phase: {PHASES[recipe.get('phase', 'projected')]}"],
                "sample_rate_hz": held.sample_rate_hz,
                "n_fft_samples": N_FFT,
                "hop_samples": HOP_SAMPLES,
                "mel_bands": NUM_MELS,
            }
        else:
            members[name] = {"dtype": "uint8", "axes": ["frame", "row", "column", "RGB"]}
        members[name]["shape"] = list(stored_shape(name))
    return {"clip_s": CLIP_S, "members": members, "recipe": dict(recipe)}


def card(
    model: EmotionModel,
    *,
    name: str,
    licence: str,
    forms: Mapping[Form, Mapping[str, Any]],
    scores: Mapping[str, Any] | None,
    unscored: str,
) -> str:
    """Return the card.

    Parameters
    ----------
    name
        Of the model, for people.
    licence
        Of the weights, as the hub calls it.
    forms
        What was written, by form: ``bytes`` and ``difference``.
    scores
        ``scores_told`` of this very checkpoint, if there are any.
    unscored
        Why there is none.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown; what others named goes through ``plain``
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": _plain, "number": _number, "megabytes": _megabytes, "tojson": _json}
    set_name = None if scores is None else last_part(scores["shards"])
    return environment.get_template("card.md.j2").render(
        name=name,
        licence=licence,
        library=LIBRARY,
        metrics=METRICS.values(),
        index=None if scores is None or set_name is None else _index(name, set_name, scores),
        labels=model.labels,
        about=model.about,
        clip_s=CLIP_S,
        alone=model.why_not_alone,
        forms=forms,
        files=FILES,
        batches=BATCHES,
        tolerance=f"{TOLERANCE:g}",
        labels_file=LABELS_FILE,
        scores=scores,
        set_name=set_name,
        unscored=unscored,
    )


def scores_told(found: Mapping[str, Any]) -> dict[str, Any]:
    """Pick out of ``metrics.json`` what the card tells.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        If something is missing or of another kind: the file is damaged, or of an earlier release.
    """
    low, high = found["accuracy_interval"]
    return {
        **{name: str(found[name]) for name in ("shards", "split")},
        **{name: int(found[name]) for name in ("n", "leaked_groups", "source_groups")},
        **{name: _score(found[name]) for name in (*METRICS, "majority", "calibration_error")},
        "accuracy_interval": [float(low), float(high)],
        "per_class": {
            label: {"n": int(one["n"])} | {name: _score(one[name]) for name in ("precision", "recall", "f1")}
            for label, one in found["per_class"].items()
        },
    }


def _score(value: float | None) -> float | None:
    return None if value is None else float(value)


def _index(name: str, set_name: str, scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scores as the hub reads them; of the set's address its last part alone."""
    metrics = [
        {"type": kind, "name": key, "value": scores[key]} for key, kind in METRICS.items() if scores[key] is not None
    ]
    data = {"name": set_name, "type": set_name, "split": scores["split"]}
    result = {"task": {"type": "video-classification"}, "dataset": data, "metrics": metrics}
    return [{"name": name, "results": [result]}]


def _plain(text: str) -> str:
    """Keep a name from being read as HTML, or as the end of a table's cell or of a line."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;").replace("`", "&#96;")


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _json(value: Any) -> str:
    """Return JSON, which is YAML too, in one line."""
    return json.dumps(value, ensure_ascii=False)
