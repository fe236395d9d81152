"""The page of a run: ``report.html``, from its own files.

Usage::

    python -m trainer.report runs/pretrained                        # curves, channels, pictures, probes
    python -m trainer.report runs/first                             # the same, and its scores where it was scored
    python -m trainer.report runs/cross                             # a cross-validation: --folds of trainer.finetune
    python -m trainer.report runs/first --scores scores/second      # where trainer.evaluate was given --out

Every other command writes the page at its end; this draws it anew. Open it in any browser, from the disk or from any
server: it is one file, fetches nothing and runs no script.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from trainer.errors import UserError, one_line
from trainer.files import write_text
from trainer.metrics import Predictions
from trainer.page import sections
from trainer.page.charts import Chart
from trainer.page.curves import (
    Record,
    error_charts,
    fold_charts,
    kinds_of,
    names_of,
    probe_charts,
    read_log,
    training_charts,
)
from trainer.page.html import render
from trainer.paper import PAST, TEST_SAMPLES
from trainer.predictions import read_predictions
from trainer.runs import RunConfig, read_config
from trainer.runtime import entry, parse, say

ScoredPage = Callable[[Path, dict[str, Any], Predictions], str]

PROG = "python -m trainer.report"
AVERAGED = 50  # last steps that the table of channels is the mean of
MAX_PICTURES = 40
MAX_PICTURE_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Draw the page of a run anew."""

    run: tyro.conf.Positional[str]
    """Run folder that trainer.pretrain or trainer.finetune wrote, also that of a cross-validation."""
    scores: str | None = None
    """Where trainer.evaluate left its results, and where the page goes then; by default the run's folder."""


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG)
    run, folder = Path(cfg.run), Path(cfg.scores or cfg.run)
    if cfg.scores and not (folder / "metrics.json").is_file():
        raise UserError(f"--scores {folder}: no metrics.json there; score the run first: python -m trainer.evaluate")
    say(f"done: {write_page(run, folder)}")


def write_page(run: Path, folder: Path) -> Path:
    """Draw a run's page: that of its scores, if they lie in the folder that it goes to."""
    path = folder / "report.html"
    if (run / "folds.json").is_file():
        page = folds_page
    elif read_config(run).kind == "finetune" and (folder / "metrics.json").is_file():
        page = evaluation_page
    else:
        page = None
    text = training_page(run) if page is None else scored_page(run, folder, page)
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {one_line(error)}") from None
    return path


def scored_page(run: Path, folder: Path, page: ScoredPage) -> str:
    """Text of the page of a run, or of a cross-validation, whose scores lie in a folder."""
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{run} has no scores yet: other folds are to be trained before")
    try:
        scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        said = read_predictions(folder / "predictions.csv", scores["labels"])
        return page(run, scores, said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}/metrics.json cannot be shown ({one_line(error)}); score the run again") from None


def evaluation_page(run: Path, scores: dict[str, Any], said: Predictions) -> str:
    """Text of the page of a scored run.

    Parameters
    ----------
    scores
        What ``metrics.json`` holds.
    said
        What ``predictions.csv`` holds.
    """
    config = read_config(run)
    return render(
        "evaluation.html.j2",
        run=str(run),
        config=config,
        preset=config.preset,
        mmtm="without" if config.network.get("mmtm") == "none" else "with",
        scores=scores,
        drawn=scores["cluster_bootstrap"],
        rows=sections.score_rows(scores),
        paper=sections.paper_rows(config),
        past=PAST,
        test_samples=TEST_SAMPLES,
        confusion=sections.confusion_cells(scores["confusion"]),
        worst=sections.worst_confusions(said, scores["labels"]),
        rocs=sections.roc_charts(said, scores),
        reliability=sections.reliability_chart(scores),
        training=training_of(read_log(run)),
        tables=tables_of(config) | {"evaluation_versions": sections.settings(scores["versions"])},
    )


def folds_page(run: Path, scores: dict[str, Any], said: Predictions) -> str:
    """Text of the page of a cross-validation, from what its ``metrics.json`` and ``predictions.csv`` hold."""
    folds = [run / f"fold-{number}" for number in range(len(scores["folds"]["n"]))]
    config = read_config(folds[0])
    scores = {"against": [], "mean_roc": None, "warnings": []} | scores  # the former are not known to earlier releases
    return render(
        "folds.html.j2",
        run=str(run),
        config=config,
        scores=scores,
        drawn=scores["cluster_bootstrap"],
        rows=sections.score_rows(scores),
        folds=sections.fold_rows(scores["folds"]),
        confusion=sections.confusion_cells(scores["confusion"]),
        worst=sections.worst_confusions(said, scores["labels"]),
        rocs=sections.roc_charts(said, scores),
        reliability=sections.reliability_chart(scores),
        charts=fold_charts([read_log(fold) for fold in folds]),
        tables=tables_of(config),
    )


def training_page(run: Path) -> str:
    """Text of the page of a run that was not scored, such as one of pretraining."""
    config, records = read_config(run), read_log(run)
    return render(
        "training.html.j2",
        run=str(run),
        config=config,
        training=training_of(records),
        channels=channels_of(records),
        averaged=AVERAGED,
        pictures=pictures_of(run),
        tables=tables_of(config),
    )


class Training(NamedTuple):
    """What the page tells of training."""

    steps: int
    seconds: float | None
    """From record to record, validations included."""
    charts: list[Chart]
    errors: list[Chart]
    probes: list[Chart]
    last_probes: list[tuple[str, list[tuple[str, str]]]]
    last: list[tuple[str, float]]
    """Numbers of the last records, for the head of the page."""


def training_of(records: Sequence[Record]) -> Training:
    """Draw what a run logged."""
    last = {record["kind"]: record for record in records}
    seconds = [float(record["seconds"]) for record in records if record.get("seconds") is not None]
    facts = [
        (f"loss of the last step{'' if kind == 'train' else ', ' + kind}", last[kind].get("loss")) for kind in last
    ]
    probes = [kind for kind in kinds_of(records) if kind not in ("train", "val")]
    return Training(
        steps=max((record["step"] for record in records), default=0),
        seconds=sum(seconds) if seconds else None,
        charts=training_charts(records),
        errors=error_charts(records),
        probes=probe_charts(records),
        last_probes=[
            (kind, sections.settings({name: last[kind].get(name) for name in ("step", *names_of(records, (kind,)))}))
            for kind in probes
        ],
        last=[(name, value) for name, value in facts if isinstance(value, float)],
    )


class Channel(NamedTuple):
    """How well a channel is reconstructed."""

    role: str
    channel: str
    error: float
    mean: float
    """The error of predicting the training mean."""
    ratio: float | None


def channels_of(records: Sequence[Record]) -> list[Channel]:
    """Mean errors of each channel over the last steps."""
    recent = [record for record in records if record["kind"] == "train"][-AVERAGED:]
    rows = []
    for name in names_of(recent, ("train",)):
        if name.startswith("mean/"):
            _, role, channel = name.split("/", 2)
            errors, means = (
                [value for record in recent if (value := record.get(f"{of}/{role}/{channel}")) is not None]
                for of in ("mse", "mean")
            )
            if errors and means:
                error, mean = sum(errors) / len(errors), sum(means) / len(means)
                rows.append(Channel(role, channel, error, mean, error / mean if mean else None))
    return rows


def pictures_of(run: Path) -> list[tuple[str, str]]:
    """Names of the run's pictures, and the pictures themselves."""
    found = sorted((run / "pictures").glob("*.png"))[-MAX_PICTURES:]
    return [
        (path.stem, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())
        for path in found
        if path.stat().st_size <= MAX_PICTURE_BYTES
    ]


def tables_of(config: RunConfig) -> dict[str, list[tuple[str, str]]]:
    """Tables of settings."""
    named = {"train": config.train, "network": config.network, "recipe": config.recipe, "versions": config.versions}
    return {name: sections.settings(values) for name, values in named.items()}


if __name__ == "__main__":
    main()
