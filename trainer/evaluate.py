"""Score a fine-tuned run on one split of a set.

Usage::

    python -m trainer.evaluate --run runs/first --shards shards/mved --split test
    python -m trainer.evaluate --run runs/second --shards shards/mved --split test --against runs/first

Writes into the run's folder (or ``--out``): ``report.html``, all of it on one page; ``metrics.json``;
``predictions.csv``, a row a sample; pictures for papers and slides. The checkpoint that was best on the validation
split is taken. Its own normalisation is applied, never the evaluated set's. A run named by ``--against`` was scored
on the same samples before; its predictions are read, not made again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainer.bootstrap import cluster_intervals
from trainer.comparing import Compared, compare, in_words, read_aligned
from trainer.devices import Device, Precision, default_workers, describe, start_fabric
from trainer.errors import UserError, one_line
from trainer.files import now, require_folder, require_own, says, together
from trainer.inputs import Inputs
from trainer.leaks import chain, leaked, overlaps
from trainer.loader import Loader
from trainer.metrics import Predictions, mean_curve, predict, score
from trainer.modalities import may_read, pathways_of, why_not_alone
from trainer.models.encoder import ModalityChoice
from trainer.order import Order
from trainer.plots import plot_confusion, plot_mean_roc, plot_per_class, plot_reliability, plot_roc
from trainer.predictions import in_tar_order, write_predictions
from trainer.report import evaluation_page
from trainer.runs import require_same, versions
from trainer.runtime import entry, parse, require, say, warn
from trainer.shards import ShardSet, fingerprint, keys_of, labels_of, num_samples
from trainer.trained import open_trained
from trainer.views import MAX_VIEWS, views

PROG = "python -m trainer.evaluate"
RESULTS = (
    *("report.html", "metrics.json", "predictions.csv"),
    *("confusion.png", "roc.png", "roc-compared.png", "reliability.png", "per-class.png"),
)
SUMMARY = ("n", "accuracy", "accuracy_interval", "macro_f1", "macro_f1_rounded", "roc_auc", "roc_auc_reason")


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
    against: tuple[str, ...] = ()
    """Runs scored before on the same samples, to compare with: their folders, or those that --out named."""
    bootstrap: int = 2000
    """Resamples of whole source groups, for intervals."""
    seed: int = 0
    """Of the resamples."""
    test_crops: int = 1
    """Views of a clip's pictures whose probabilities are averaged: whole, mirrored, then crops of both; at most 12."""
    batch_size: int = 8
    """Clips at a time."""
    workers: int | None = None
    """Reader processes; by default up to 4 beside a GPU, else 0."""
    device: Device = "auto"
    """auto is CUDA where there is any, else the CPU."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        require(self.batch_size >= 1, f"--batch-size {self.batch_size}: give 1 or more")
        require(1 <= self.test_crops <= MAX_VIEWS, f"--test-crops {self.test_crops}: give 1 to {MAX_VIEWS}")
        require(self.bootstrap >= 100, f"--bootstrap {self.bootstrap}: give 100 or more")
        require(0 <= self.seed < 2**32, f"--seed {self.seed}: give 0 to {2**32 - 1}")
        require(self.workers is None or self.workers >= 0, f"--workers {self.workers}: give 0 or more")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG)
    run, out = Path(cfg.run), Path(cfg.out or cfg.run)
    trained = open_trained(run)
    config, state, classifier = trained.config, trained.state, trained.classifier
    require_folder(out)
    require_own(out, RESULTS, mark=is_scored, by="an earlier trainer.evaluate")

    # --- data
    data = ShardSet.open(cfg.shards)
    labels = data.class_names
    require_same(run, config, recipe=data.manifest.recipe, labels=labels)
    shards = data.split(cfg.split)
    others = read_aligned(cfg.against, labels, keys_of(shards), np.array(labels_of(shards)), besides=out)

    # --- network
    fabric = start_fabric(cfg.precision, seed=0, device=cfg.device)
    roles = classifier.encoder.inputs
    if cfg.test_crops > 1 and all(spec.modality != "video" for spec in roles.values()):
        raise UserError(f"--test-crops {cfg.test_crops}: {run} reads no pictures, and sound has one view; leave it out")
    model = fabric.setup(classifier)
    say(f"run: {run}, {config.name}, {trained.checkpoint.name}, {describe(fabric)}")
    say(f"data: {num_samples(shards)} samples of {cfg.shards}, split {cfg.split}")

    # --- what it says of each sample
    workers = default_workers(fabric) if cfg.workers is None else cfg.workers
    order = Order(batch_size=cfg.batch_size, shuffle=False, workers=workers)

    def said_of(read: ModalityChoice) -> Predictions:
        to_inputs = Inputs(pathways_of(roles, read), config.normalization, fabric.device)
        data.require(to_inputs.members)
        batches = Loader(data, shards, members=to_inputs.members, order=order).batches()
        seen = partial(views, num_views=cfg.test_crops)
        return in_tar_order(predict(model, batches, to_inputs, views=seen), shards)

    everything, *alone_of = may_read(config)
    said = said_of(everything)
    alone: dict[str, Any] = {}
    for modality in alone_of:
        part = said_of(modality)
        whole = score(part.truth, part.probabilities, labels)
        alone[modality] = {name: whole[name] for name in SUMMARY}

    # --- scores
    seen = chain(run)
    leaks = overlaps(seen, said.groups)
    warnings = flattered(leaks, cfg.split, len(set(said.groups)))
    if not state["batchnorm_reestimated"]:
        warnings.append(
            f"{trained.checkpoint} has batch-norm statistics that lag behind its weights; let the run validate once, "
            "with --bn-batches 1 or more and training samples that can be read"
        )
    for text in warnings:
        warn(text)
    scores = {
        **score(said.truth, said.probabilities, labels),
        "source_groups": len(set(said.groups)),
        "cluster_bootstrap": cluster_intervals(
            said.truth, said.probabilities, said.groups, resamples=cfg.bootstrap, seed=cfg.seed
        ),
        "mean_roc": mean_curve(said.truth, said.probabilities),
        "modalities": alone,
        "modalities_reason": why_not_alone(config),
        "leaked_groups": len(leaked(seen).intersection(said.groups)),
        "leaks": leaks,
        "without_leaked": without_leaked(said, leaked(seen), labels),
        "against": [
            one.about | compare(said, one.said, labels, resamples=cfg.bootstrap, seed=cfg.seed) for one in others
        ],
        "warnings": warnings,
        "run": str(run),
        "checkpoint": trained.checkpoint.name,
        "network": config.name,
        "shards": cfg.shards,
        "split": cfg.split,
        "test_crops": cfg.test_crops,
        "samples": fingerprint(shards),
        "device": describe(fabric),
        "evaluated": now(),
        "versions": versions(),
    }
    write_results(out, run, scores, said, others)

    low, high = scores["accuracy_interval"]
    area = "not defined" if scores["roc_auc"] is None else f"{scores['roc_auc']:.3f}"
    say(
        f"accuracy {scores['accuracy']:.3f} (95% {low:.3f} to {high:.3f}), macro-F1 {scores['macro_f1']:.3f} "
        f"(rounded {scores['macro_f1_rounded']:.3f}), ROC-AUC {area}, n {scores['n']}"
    )
    for one in scores["against"]:
        say(in_words(one))
    say(f"done: {out}/report.html, metrics.json, predictions.csv, pictures")


def flattered(leaks: Sequence[dict[str, Any]], split: str, num_groups: int) -> list[str]:
    """Say what makes the scores better than they would be on new videos, or hides whether it does."""
    said = []
    whole = f"of the {num_groups} source groups of split {split}"
    mend = "; build the set with splits by source group"
    for one in leaks:
        where = "" if one is leaks[0] else f" by the run it starts from, {one['run']}"
        if one["reason"]:
            said.append(f"whether split {split} was trained on{where} cannot be told: {one['reason']}")
        elif one["groups"]:
            said.append(
                f"{one['groups']} {whole} were trained on{where}: "
                f"scores are flattered{mend if split != 'train' else ''}"
            )
        if one["chosen_by"]:
            whose = "" if one is leaks[0] else f" of the run it starts from, {one['run']}"
            said.append(
                f"{one['chosen_by']} {whole} chose the checkpoint{whose} by their scores: "
                f"scores are flattered{mend if split == 'test' else ''}"
            )
    if leaks[0]["chosen_by"] is None:
        said.append(
            "which source groups chose the checkpoint by their scores is not known, as of runs of an earlier release: "
            "scores on them, as on split val, are flattered"
        )
    return said


def without_leaked(said: Predictions, seen: frozenset[str], labels: Sequence[str]) -> dict[str, Any] | None:
    """Score the samples whose source groups are not among those seen; None where those are all, or none."""
    rows = [row for row, group in enumerate(said.groups) if group not in seen]
    if not rows or len(rows) == len(said.groups):
        return None
    rest = said.at(rows)
    scores = score(rest.truth, rest.probabilities, labels)
    return {name: scores[name] for name in SUMMARY} | {"source_groups": len(set(rest.groups))}


def is_scored(folder: Path) -> bool:
    """Tell whether a folder is a run, or holds the scores of one."""
    return says(folder / "config.json", "run_version") or says(folder / "metrics.json", "accuracy", "confusion")


def write_results(out: Path, run: Path, scores: dict[str, Any], said: Predictions, others: Sequence[Compared]) -> None:
    """Write page, scores, predictions and pictures: all of them or none."""
    labels = scores["labels"]
    title = f"{scores['network']}, {scores['split']}, n = {scores['n']}"
    try:
        with together(out, RESULTS, last="metrics.json") as made:
            write_predictions(said, labels, made / "predictions.csv")
            plot_confusion(np.array(scores["confusion"]), labels, made / "confusion.png", title=title)
            areas = [scores["per_class"][label]["roc_auc"] for label in labels]
            plot_roc(said.truth, said.probabilities, labels, made / "roc.png", areas=areas, title=title)
            plot_reliability(scores["reliability"], made / "reliability.png", title=title)
            plot_per_class(scores["per_class"], made / "per-class.png", title=title)
            curves = {
                f"{name} {area:.3f}": curve
                for name, area, curve in [
                    (scores["run"], scores["roc_auc"], scores["mean_roc"]),
                    *((one["run"], one["scores"]["roc_auc"], one["mean_roc"]) for one in scores["against"]),
                ]
                if curve is not None
            }
            if others and curves:
                plot_mean_roc(curves, made / "roc-compared.png", title=title)
            (made / "report.html").write_text(evaluation_page(run, scores, said), encoding="utf-8")
            (made / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"the results cannot be written to {out}: {one_line(error)}") from None


if __name__ == "__main__":
    main()
