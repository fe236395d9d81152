"""Fine-tune a pretrained network on labels, or train it on them from scratch (paper, Tables 1 and 2).

Usage::

    python -m trainer.finetune --shards shards/mved                    # from the newest pretrained run that fits
    python -m trainer.finetune --shards shards/mved --out runs/first --init runs/pretrained --max-steps 2000
    python -m trainer.finetune --shards shards/mved --init scratch
    python -m trainer.finetune --shards shards/mved --recipe strong    # --recipe strong --help tells what that is
    python -m trainer.finetune --shards shards/mved --out runs/cross --folds 5
    python -m trainer.finetune --out runs/cross --resume --against runs/plain    # two cross-validations compared
    python -m trainer.finetune --out runs/first --resume               # after a kill: the same losses as without it

The default is the paper's plain recipe: cross-entropy, Adam, no augmentation. The checkpoint that is best on the
validation split is kept beside the last one; `python -m trainer.evaluate` takes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from lightning.fabric import Fabric, seed_everything
from torch import Tensor

from trainer import checkpoint
from trainer.augment import augmented
from trainer.batchnorm import reestimate
from trainer.calibration import fit_sigmoids
from trainer.comparing import in_words
from trainer.devices import default_workers, describe, refuse_wrong_gradients, start_fabric
from trainer.ema import averaged
from trainer.errors import UserError
from trainer.folds import Part, divide, keep_held_out, open_folds, require_comparable, summarise, whole
from trainer.inputs import Inputs, members_read, moments_read
from trainer.loader import Loader, Place
from trainer.losses import Losses
from trainer.metrics import Predictions, predict, score
from trainer.modalities import built_for, may_read, pathways_of
from trainer.models.classifier import Classifier
from trainer.models.encoder import Maps, ModalityChoice
from trainer.models.presets import build_encoder, network_config
from trainer.objectives import classification
from trainer.opening import default_run, initialise, open_run
from trainer.optim import parameter_groups, rate_factor, set_rates
from trainer.order import Order
from trainer.phase import choose_phase
from trainer.prepare import prepare
from trainer.ranks import Ranks
from trainer.readers import Batch
from trainer.recipes import RECIPES, RecipeFlags, fitted
from trainer.record import RunLog
from trainer.report import write_page
from trainer.runs import RunConfig, stored_flags
from trainer.runtime import entry, leave, parse, require, say, warn
from trainer.shards import ShardSet, fingerprint, groups_of, num_samples
from trainer.signals import stop_on_signal
from trainer.steps import optimise

PROG = "python -m trainer.finetune"


@dataclass(frozen=True, kw_only=True)
class Config(RecipeFlags):
    """Fine-tune a pretrained network on labels, or train it on them from scratch."""

    init: str = "auto"
    """A pretrained RUN to start from; scratch; or auto, the newest one in --runs that fits, else scratch."""
    epochs: int = 20
    """Passes over the data."""
    eval_every: int | None = None
    """Steps between validations; by default one at the end of every epoch. There is one at the end in any case."""
    val_fraction: float = 0.1
    """Share of the training split set aside, by source group, where the set has no val split."""
    folds: int | None = None
    """Cross-validate: divide train and val into so many parts by source group, and hold each out of one run."""
    fold: int | Literal["all"] = "all"
    """Which of the folds to train, from 0; several may be trained at a time, each by a command of its own."""
    against: tuple[str, ...] = ()
    """Other cross-validations of the same samples, to compare with: their folders. With --folds alone."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        super().__post_init__()
        require(self.eval_every is None or self.eval_every >= 1, f"--eval-every {self.eval_every}: give 1 or more")
        require(0 < self.val_fraction <= 0.5, f"--val-fraction {self.val_fraction}: give more than 0, at most 0.5")
        require(self.folds is None or self.folds >= 2, f"--folds {self.folds}: give 2 or more")
        if self.fold != "all":
            require(0 <= self.fold < (self.folds or 0), f"--fold {self.fold}: give --folds, and one from 0 on below it")
        if self.against:
            mend = "give --folds too; of one run, python -m trainer.evaluate has --against"
            require(self.folds is not None, f"--against {' '.join(self.against)}: {mend}")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG, stored=stored_flags, recipes=RECIPES)
    partly = bool(cfg.freeze or cfg.probe_epochs or cfg.modality_dropout)
    fabric = start_fabric(cfg.precision, cfg.seed, cfg.device, cfg.devices, unused_parameters=partly)
    ranks = Ranks.of(fabric)
    run = Path(cfg.out) if cfg.out else ranks.lead(lambda: default_run(cfg.runs, "finetune", cfg.network, cfg.preset))
    data = ShardSet.open(cfg.shards, damaged=cfg.damaged)
    labels = data.class_names
    if cfg.val_fraction != Config.val_fraction and (cfg.folds or "val" in data.split_names):
        why = "--folds hold out parts" if cfg.folds else f"{cfg.shards} has a split val"
        raise UserError(f"--val-fraction {cfg.val_fraction}: {why}; leave it out")
    modality, words = built_for(data, cfg.modality)
    workers = default_workers(fabric) if cfg.workers is None else cfg.workers
    cfg, idle = fitted(replace(cfg, modality=modality, workers=workers, devices=ranks.count), modality)
    notes = [words] if words else []
    if idle:
        notes.append(f"recipe: {cfg.recipe}, without {', '.join(idle)}, which modality {modality} has no use for")

    if cfg.folds is None:
        part = whole(run, data, fraction=cfg.val_fraction, seed=cfg.seed)
        train(cfg, data, part, fabric, ranks, notes=notes, again=f"--out {run}")
        if "test" in data.split_names:
            say(f"next: python -m trainer.evaluate --run {run} --shards {cfg.shards} --split test")
        return
    parts = divide(run, data, num_folds=cfg.folds, fold=cfg.fold, seed=cfg.seed)
    ranks.lead(lambda: require_comparable(run, data, cfg.against))
    ranks.lead(lambda: open_folds(run, data, asdict(cfg), resume=cfg.resume))
    again = f"--out {run}" if cfg.fold == "all" else f"--out {run} --fold {cfg.fold}"
    for part in parts:
        train(cfg, data, part, fabric, ranks, notes=notes, again=again)
    num_folds = cfg.folds
    scores = ranks.lead(lambda: summarise(run, labels, num_folds=num_folds, against=cfg.against))
    if scores is None:
        say(f"{run}: other folds are to be trained yet; the last one done writes metrics.json")
        return
    low, high = scores["accuracy_interval"]
    spread = scores["folds"]["accuracy"]
    say(
        f"held out: accuracy {scores['accuracy']:.3f} (95% {low:.3f} to {high:.3f}), "
        f"macro-F1 {scores['macro_f1']:.3f}, n {scores['n']}; "
        f"over folds {spread['mean']:.3f}, standard deviation {spread['sd']:.3f}"
    )
    for one in scores["against"]:
        say(in_words(one))
    say(f"done: {ranks.lead(lambda: write_page(run, run))}, metrics.json, predictions.csv")


def train(
    cfg: Config, data: ShardSet, part: Part, fabric: Fabric, ranks: Ranks, *, notes: Sequence[str], again: str
) -> None:
    """Train one run: the only one, or that of a fold.

    Parameters
    ----------
    notes
        What to say of the settings.
    again
        Flags that name the run to whoever wants to go on with it.
    """
    # --- network
    run, labels = part.run, data.class_names
    phase = choose_phase(cfg.phase, data.manifest.recipe, address=cfg.shards)
    network = network_config(cfg.network, cfg.preset, modality=cfg.modality, phase=phase)
    seed_everything(cfg.seed, verbose=False)  # each fold begins alike
    classifier = Classifier(build_encoder(network), len(labels))
    refuse_wrong_gradients(fabric, classifier)
    data.require(members_read(classifier.encoder.inputs))
    normalization = moments_read(classifier.encoder.inputs, part.normalization, cfg.normalization)
    to_inputs = Inputs(classifier.encoder.inputs, normalization, fabric.device)

    # --- run folder, weights, place in the data
    config = RunConfig(
        kind="finetune",
        network=asdict(network),
        preset=cfg.preset,
        recipe=data.manifest.recipe,
        recipe_hash=data.manifest.recipe_hash,
        labels=labels,
        normalization=normalization,
        data=fingerprint([*part.train, *part.val]),
        train=asdict(cfg),
        init=None,
    )
    trained, chosen_by = groups_of(part.train), groups_of(part.val)
    config, why = ranks.lead(
        lambda: open_run(
            run, config, init=cfg.init, root=Path(cfg.runs), groups=trained, chosen_by=chosen_by, resume=cfg.resume
        )
    )
    step, start, best = 0, Place(0, 0), None
    fitting = cfg.freeze_batchnorm  # whether batch norm's statistics are meant for the weights as they are
    lost: list[str] = []  # samples that cannot be read
    last = ranks.lead(lambda: checkpoint.latest(run)) if cfg.resume else None
    if last is not None:
        state = checkpoint.read_state(last)
        step, start, best = state["step"], Place(state["epoch"], state["batch"]), state["best"]
        lost, fitting = state.get("damaged", []), state["batchnorm_reestimated"]
        checkpoint.load_weights(last, classifier)
        say(f"resume: {run} at step {step}")
    elif config.init is not None:
        say(f"init: {initialise(config.init, encoder=classifier.encoder)} ({why})")
    else:
        say(f"init: scratch ({why})")
        if cfg.init == "auto":
            warn("training starts from scratch, not pretrained; --init RUN names a run, --init scratch means it")
    groups = parameter_groups(classifier, lr=cfg.lr, layer_decay=cfg.layer_decay, weight_decay=cfg.weight_decay)
    model, optimizer = fabric.setup(prepare(fabric, classifier, cfg), torch.optim.AdamW(groups))
    resumable = {"optimizer": optimizer, "precision": fabric.strategy.precision}
    ema = averaged(classifier, decay=cfg.ema) if cfg.ema else None
    if last is not None:
        checkpoint.load_states(last, resumable)
        if ema is not None:
            checkpoint.load_weights(last, ema, file="ema")
    judged = classifier if ema is None else cast(Classifier, ema.module)

    losses = Losses(skip=cfg.damaged == "skip", keys=lost)
    order = Order(
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        shuffle_buffer=cfg.shuffle_buffer,
        workers=cfg.workers or 0,
        rank=ranks.rank,
        num_ranks=ranks.count,
    )
    members = to_inputs.members
    balanced = replace(order, balanced=cfg.balanced)
    loader = Loader(data, part.train, members=members, order=balanced, ranks=ranks, losses=losses, keep_workers=True)
    statistics = Loader(data, part.train, members=members, order=order, ranks=ranks, losses=losses, verify=False)
    validation = Loader(
        data, part.val, members=members, order=replace(order, shuffle=False), ranks=ranks, losses=losses
    )

    def steps_of(num_epochs: int) -> int:
        return sum(loader.num_steps(epoch, accumulate=cfg.accumulate) for epoch in range(num_epochs))

    num_steps = cfg.max_steps or steps_of(cfg.epochs)
    num_probing = 0 if cfg.freeze else min(num_steps, steps_of(cfg.probe_epochs))
    for note in notes:
        say(note)
    say(f"data: {num_samples(part.train)} training samples of {cfg.shards}, {loader.num_batches(0)} batches an epoch")
    say(f"validation: {part.words}")
    if cfg.freeze or num_probing:
        if config.init is None:
            warn("the head is trained alone on an encoder that never was; --no-freeze --probe-epochs 0 skips that")
        say(f"probe: {'all' if cfg.freeze else f'the first {num_probing}'} steps train the head alone")
    say(f"run: {run}, {config.name}, steps {step} to {num_steps}, {describe(fabric)}")
    if step >= num_steps:
        say("nothing left to do; give more --epochs or --max-steps")
        say(f"page: {ranks.lead(lambda: write_page(run, run))}")
        return

    # --- the loop
    def loss_of(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, targets = augmented(batch, to_inputs, cfg, step=step, num_classes=len(labels))
        logits = model(inputs)
        loss = classification(logits, targets, label_smoothing=cfg.label_smoothing)
        return loss, {"accuracy": (logits.argmax(1) == batch["label"].to(fabric.device)).float().mean()}

    def training_inputs() -> Iterator[Maps]:
        return map(to_inputs, statistics.shared(limit=cfg.bn_batches))

    def said_of(read: ModalityChoice) -> Predictions:
        reading = Inputs(pathways_of(classifier.encoder.inputs, read), normalization, fabric.device)
        with fabric.autocast():
            told = ranks.gather(predict(judged, validation.shared(), reading))
        if not any(share.keys for share in told):
            raise UserError(
                f"no validation sample can be read: {part.words} are damaged; build their shards again, "
                f"then go on with: {PROG} {again} --resume"
            )
        return Predictions.of(told)

    everything, *alone = may_read(config)
    model.train()
    if last is None and (cfg.freeze or num_probing or cfg.modality_dropout):
        with fabric.autocast():
            fitting |= reestimate(classifier, training_inputs(), ranks)  # used before the first validation
    with stop_on_signal() as stop, RunLog(run, step=step, num_steps=num_steps, writes=ranks.leads) as log:
        for portion in loader.portions(start, num_steps=num_steps - step, accumulate=cfg.accumulate):
            still = cfg.freeze or step < num_probing
            classifier.hold_encoder(still)
            rate = cfg.probe_lr / cfg.lr if still else 1.0
            if step >= num_probing:
                planned = num_steps - num_probing
                rate *= rate_factor(step - num_probing, num_steps=planned, warmup=cfg.warmup, cosine=cfg.cosine)
            set_rates(optimizer, rate)
            values = optimise(fabric, model, optimizer, portion, loss_of, clip_norm=cfg.clip_norm, ranks=ranks)
            if ema is not None:
                ema.update_parameters(classifier)
            step += 1
            fitting = cfg.freeze_batchnorm or (still and fitting)
            lost_so_far = losses.record if portion.ends_epoch else {}
            log.write("train", step, epoch=portion.epoch, lr=cfg.lr * rate, **values, **lost_so_far)

            done = step == num_steps
            validate = done or (step % cfg.eval_every == 0 if cfg.eval_every else portion.ends_epoch)
            if validate:
                reestimated = fitting
                if not still:
                    with fabric.autocast():
                        reestimated |= reestimate(judged, training_inputs(), ranks)
                    classifier.mean_embedding.copy_(judged.mean_embedding)
                said = said_of(everything)
                scores = score(said.truth, said.probabilities, labels)
                now = {"step": step, "accuracy": said.accuracy, "loss": said.loss}
                log.write("val", step, loss=said.loss, accuracy=said.accuracy, macro_f1=scores["macro_f1"])
                say(f"step {step}: validation accuracy {said.accuracy:.3f}, loss {said.loss:.4f}")
                if best is None or (now["accuracy"], -now["loss"]) > (best["accuracy"], -best["loss"]):
                    best = now
                    by_read = {everything: said} | {read: said_of(read) for read in alone}
                    sigmoids = {
                        read: fit_sigmoids(told.truth, told.probabilities).as_dict() for read, told in by_read.items()
                    }
                    state = {"batchnorm_reestimated": reestimated, "validation": now, "sigmoids": sigmoids}
                    checkpoint.save(run, judged, step=step, state=state, series="best", ranks=ranks)
                if done and cfg.folds and ranks.leads:
                    keep_held_out(part, said, labels)
                fitting = reestimated if ema is None else fitting  # an average's are its own
            stopping = ranks.first(stop.signal)
            if done or stopping or step % cfg.checkpoint_every == 0:
                state = portion.next._asdict() | losses.state | {"best": best, "batchnorm_reestimated": fitting}
                beside = {} if ema is None else {"ema": ema}
                checkpoint.save(
                    run, classifier, step=step, state=state, resumable=resumable, beside=beside, ranks=ranks
                )
            if stopping and not done:
                leave(stopping, f"stopped at step {step}; go on with: {PROG} {again} --resume")
    assert best is not None
    found = f"best validation accuracy {best['accuracy']:.3f} at step {best['step']}"
    say(f"done: {run}, step {step}; {found}{losses.words}")
    say(f"page: {ranks.lead(lambda: write_page(run, run))}")


if __name__ == "__main__":
    main()
