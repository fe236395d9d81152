"""What ``log.jsonl`` tells of training, thinned so that a page can hold it."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.page.charts import NUM_COLORS, Chart, Line, Point, draw

MAX_POINTS = 240
FEW = 40  # points of a line that are marked one by one
NO_SCORES = {"step", "epoch", "seconds", "kind"}
MAX_CHARTS = 24
NAMES = {"train": "training", "val": "validation"}

Record = Mapping[str, Any]


def read_log(run: Path) -> list[Record]:
    """Read the records of a run; a line that a kill cut short is left out."""
    path = run / "log.jsonl"
    if not path.is_file():
        return []
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("kind"), str):
            records.append(record)
    return records


def values_of(records: Sequence[Record], kind: str, name: str) -> list[Point]:
    """Values of one kind of record over steps."""
    return [
        Point(record["step"], float(record[name]))
        for record in records
        if record["kind"] == kind and _is_number(record.get(name))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def thinned(points: Sequence[Point]) -> list[Point]:
    """Means of neighbours, at most ``MAX_POINTS`` of them."""
    if len(points) <= MAX_POINTS:
        return list(points)
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [Point(round(sum(p.x for p in part) / len(part), 1), sum(p.y for p in part) / len(part)) for part in parts]


def names_of(records: Sequence[Record], kinds: Sequence[str]) -> list[str]:
    """Names of the numbers that records of these kinds hold, in the order in which they first come."""
    names = dict.fromkeys(
        name for record in records if record["kind"] in kinds for name in record if _is_number(record[name])
    )
    return [name for name in names if name not in NO_SCORES]


def kinds_of(records: Sequence[Record]) -> list[str]:
    """Kinds of record there are."""
    return list(dict.fromkeys(record["kind"] for record in records))


def training_charts(records: Sequence[Record]) -> list[Chart]:
    """Charts of what training and validation recorded, a chart a number; ``error_charts`` has those of channels."""
    names = [name for name in names_of(records, ("train", "val")) if not name.startswith(("mse/", "mean/"))]
    charts = []
    for name in names[:MAX_CHARTS]:
        lines = [_line(records, kind, name, NAMES[kind], color) for color, kind in enumerate(NAMES)]
        charts.append(_chart(title_of(name), lines))
    return charts


def error_charts(records: Sequence[Record]) -> list[Chart]:
    """Charts of each pathway's errors, a line a channel: over those of predicting the training mean, which is 1."""
    names = names_of(records, ("train",))
    charts = []
    for role in dict.fromkeys(name.split("/")[1] for name in names if name.startswith("mean/")):
        channels = [name.split("/", 2)[2] for name in names if name.startswith(f"mean/{role}/")]
        lines = []
        for color, channel in enumerate(channels):
            points = [
                Point(record["step"], record[f"mse/{role}/{channel}"] / record[f"mean/{role}/{channel}"])
                for record in records
                if record["kind"] == "train"
                and _is_number(record.get(f"mse/{role}/{channel}"))
                and record.get(f"mean/{role}/{channel}")
            ]
            lines.append(Line(name=channel, points=thinned(points), color=color, dots=len(points) <= FEW))
        charts.append(_chart(role.replace("_", " "), lines, y_label="error / that of the mean"))
    return charts


def fold_charts(folds: Sequence[Sequence[Record]]) -> list[Chart]:
    """Charts of what the runs of a cross-validation logged, a line a fold."""
    charts = []
    for kind, name in (("train", "loss"), ("val", "loss"), ("val", "accuracy")):
        lines = [_line(records, kind, name, f"fold {i}", i) for i, records in enumerate(folds)]
        charts.append(_chart(f"{title_of(name)}, {NAMES[kind]}", lines))
    return charts


def probe_charts(records: Sequence[Record]) -> list[Chart]:
    """Charts of what neither training nor validation is, such as probes, a chart a number."""
    return [
        _chart(f"{kind}: {title_of(name)}", [_line(records, kind, name, kind, 2)])
        for kind in kinds_of(records)
        if kind not in NAMES
        for name in names_of(records, (kind,))[:MAX_CHARTS]
    ]


def title_of(name: str) -> str:
    """Words for the name of a number."""
    return {"grad_norm": "gradient's norm", "macro_f1": "macro-F1", "lr": "learning rate"}.get(
        name, name.replace("_", " ")
    )


def _line(records: Sequence[Record], kind: str, name: str, words: str, color: int) -> Line:
    points = values_of(records, kind, name)
    dots = len(points) <= FEW and kind != "train"
    return Line(name=words, points=thinned(points), color=color % NUM_COLORS, dots=dots)


def _chart(title: str, lines: Sequence[Line], *, y_label: str = "") -> Chart:
    lines = [line for line in lines if line.points]
    return draw(title, lines, x_label="step", y_label=y_label, whole_steps=True)
