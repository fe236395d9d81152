"""The emotion of a video over time, and the files that tell it: for programs, tables, players, and slides."""

import csv
import io
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

CURVE_VERSION = 1
NUM_SAID = 2  # emotions that a subtitle names: the strongest


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a network says of each window; rows are windows, columns labels."""

    scores: np.ndarray
    """Calibrated sigmoids, (N, classes): each emotion for itself."""
    probabilities: np.ndarray
    """Softmax, (N, classes): one emotion against the others."""

    def as_dict(self) -> dict[str, list[list[float]]]:
        """Return what ``curve.json`` holds."""
        return {name: np.asarray(values).round(6).tolist() for name, values in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What was found of one video."""

    labels: list[str]
    title: str
    duration_s: float
    """Up to where the video was read."""
    every_s: float
    window_s: float
    starts_s: list[float]
    """Where each window begins."""
    said: Said
    """Of sound and picture, as far as they were read."""
    alone: dict[str, Said]
    """Of ``audio`` and of ``video`` alone."""
    why_not_alone: str | None
    """Why that is empty."""
    about: dict[str, Any]
    """Where it comes from: run, checkpoint, versions, and what went wrong."""

    @property
    def times_s(self) -> list[float]:
        """Middle of each window."""
        return [start_s + min(self.window_s, self.duration_s - start_s) / 2 for start_s in self.starts_s]

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the whole video, (classes,): the mean over its windows."""
        return np.asarray(self.said.probabilities.mean(0))

    @property
    def verdict(self) -> str:
        """The likeliest emotion of the whole video."""
        return self.labels[int(self.probabilities.argmax())]

    def as_dict(self) -> dict[str, Any]:
        """Return what ``curve.json`` holds."""
        return {
            "curve_version": CURVE_VERSION,
            "title": self.title,
            "labels": self.labels,
            "duration_s": round(self.duration_s, 3),
            "every_s": self.every_s,
            "window_s": self.window_s,
            "starts_s": self.starts_s,
            "times_s": [round(time_s, 3) for time_s in self.times_s],
            **self.said.as_dict(),
            "verdict": {
                "label": self.verdict,
                "probabilities": dict(zip(self.labels, self.probabilities.round(6).tolist(), strict=True)),
            },
            "modalities": {name: said.as_dict() for name, said in self.alone.items()},
            "modalities_reason": self.why_not_alone,
            **self.about,
        }


def to_json(curve: Curve) -> str:
    """Return the text of ``curve.json``."""
    return json.dumps(curve.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(curve: Curve) -> str:
    """Return a row a window: where it lies, the scores, then probabilities, then what sound and picture say alone."""
    columns = {"start_s": curve.starts_s, "time_s": [round(time_s, 3) for time_s in curve.times_s]}
    for prefix, values in [
        ("", curve.said.scores),
        ("probability_", curve.said.probabilities),
        *((f"{name}_", said.scores) for name, said in curve.alone.items()),
    ]:
        columns |= {
            f"{prefix}{label}": column.round(6).tolist() for label, column in zip(curve.labels, values.T, strict=True)
        }
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def to_srt(curve: Curve) -> str:
    """Return subtitles: the strongest emotions of the window whose middle is nearest, for as long as it is."""
    times_s = curve.times_s
    between_s = [(a + b) / 2 for a, b in pairwise(times_s)]
    blocks = []
    for number, (begin_s, end_s, row) in enumerate(
        zip([0.0, *between_s], [*between_s, curve.duration_s], curve.said.scores, strict=True), start=1
    ):
        strongest = np.argsort(-row, kind="stable")[:NUM_SAID]
        words = "   ".join(f"{curve.labels[i]} {row[i]:.0%}" for i in strongest)
        blocks.append(f"{number}\n{_clock(begin_s)} --> {_clock(end_s)}\n{words}\n")
    return "\n".join(blocks)


def _clock(time_s: float) -> str:
    milliseconds = round(time_s * 1000)
    return (
        f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:"
        f"{milliseconds // 1000 % 60:02d},{milliseconds % 1000:03d}"
    )
