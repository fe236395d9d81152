"""Score a fine-tuned run on one split of a set.

Usage::

    python -m trainer.evaluate --run runs/first --shards shards/mved --split test

Writes into the run's folder (or ``--out``): ``metrics.json``; ``predictions.csv``, a row a sample; ``confusion.png``
and ``roc.png``. The checkpoint that was best on the validation split is taken. Its own normalisation is applied, never
the evaluated set's.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.checkpoint import latest, load_weights, read_state, require_latest
from trainer.inputs import Inputs
from trainer.loader import Loader, Order
from trainer.metrics import Predictions, predict, score
from trainer.models.classifier import Classifier
from trainer.models.presets import build_encoder, config_from_dict
from trainer.plots import plot_confusion, plot_roc
from trainer.runs import group_hashes, read_config, require_same, trained_groups, versions
from trainer.runtime import Precision, default_workers, describe, entry, parse, require, say, start_fabric, warn
from trainer.shards import ShardSet, groups_of, num_samples

PROG = "python -m trainer.evaluate"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Score a fine-tuned run on one split of a set."""

    run: str
    """Run folder that trainer.finetune wrote."""
    shards: str
    """Labelled data set: a folder, a glob of its tars, or an fsspec address."""
    split: str = "test"
    """Which of the set's splits: test, val or train."""
    out: str | None = None
    """Where the results go; by default into the run's folder."""
    batch_size: int = 8
    """Clips at a time."""
    workers: int | None = None
    """Reader processes; by default up to 4 beside a GPU, else 0."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        require(self.batch_size >= 1, f"--batch-size {self.batch_size}: give 1 or more")
        require(self.workers is None or self.workers >= 0, f"--workers {self.workers}: give 0 or more")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG)
    run, out = Path(cfg.run), Path(cfg.out or cfg.run)
    config = read_config(run)
    require_same(run, config, kind="finetune")

    # --- data
    data = ShardSet.open(cfg.shards)
    labels = data.class_names
    require_same(run, config, recipe=data.manifest.recipe, labels=labels)
    shards = data.split(cfg.split)
    seen = trained_groups(run)
    groups = group_hashes(groups_of(shards))
    if leaked := len(seen.intersection(groups)):
        warn(
            f"{leaked} of the {len(groups)} source groups of split {cfg.split} were trained on: "
            "scores are flattered; build the set with splits by source group"
        )

    # --- network
    found = latest(run, "best") or require_latest(run)
    state = read_state(found)
    fabric = start_fabric(cfg.precision, seed=0)
    classifier = Classifier(build_encoder(config_from_dict(config.network)), len(labels))
    load_weights(found, classifier)
    if not state["batchnorm_reestimated"]:
        warn(f"{found} was saved mid-run, with batch-norm statistics that lag behind; let the run validate once first")
    to_inputs = Inputs(classifier.encoder.inputs, config.normalization, fabric.device)
    data.require(to_inputs.members)
    model = fabric.setup(classifier)
    say(f"run: {run}, {config.name}, {found.name}, {describe(fabric)}")
    say(f"data: {num_samples(shards)} samples of {cfg.shards}, split {cfg.split}")

    # --- scores
    workers = default_workers() if cfg.workers is None else cfg.workers
    order = Order(batch_size=cfg.batch_size, shuffle=False, workers=workers)
    said = predict(model, Loader(data, shards, members=to_inputs.members, order=order).batches(), to_inputs)
    scores = score(said.truth, said.probabilities, labels)
    scores |= {
        "run": str(run),
        "checkpoint": found.name,
        "network": config.name,
        "shards": cfg.shards,
        "split": cfg.split,
        "leaked_groups": leaked,
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(said, labels, out / "predictions.csv")
    title = f"{config.name}, {cfg.split}, n = {scores['n']}"
    plot_confusion(np.array(scores["confusion"]), labels, out / "confusion.png", title=title)
    areas = [scores["per_class"][label]["roc_auc"] for label in labels]
    plot_roc(said.truth, said.probabilities, labels, out / "roc.png", areas=areas, title=title)
    (out / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n")

    low, high = scores["accuracy_interval"]
    area = "not defined" if scores["roc_auc"] is None else f"{scores['roc_auc']:.3f}"
    say(
        f"accuracy {scores['accuracy']:.3f} (95% {low:.3f} to {high:.3f}), macro-F1 {scores['macro_f1']:.3f} "
        f"(rounded {scores['macro_f1_rounded']:.3f}), ROC-AUC {area}, n {scores['n']}"
    )
    say(f"done: {out}/metrics.json, predictions.csv, confusion.png, roc.png")


def write_predictions(said: Predictions, labels: Sequence[str], path: Path) -> None:
    """Write a row a sample: key, true class, likeliest class, probability of each class."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label", "predicted", *labels])
        for key, truth, row in zip(said.keys, said.truth, said.probabilities, strict=True):
            writer.writerow([key, labels[truth], labels[row.argmax()], *(f"{p:.6f}" for p in row)])


if __name__ == "__main__":
    main()
