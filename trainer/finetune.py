"""Fine-tune a pretrained network on labels, or train it on them from scratch (paper, Tables 1 and 2).

Usage::

    python -m trainer.finetune --shards shards/mved                    # from the newest pretrained run that fits
    python -m trainer.finetune --shards shards/mved --out runs/first --init runs/pretrained --max-steps 2000
    python -m trainer.finetune --shards shards/mved --init scratch
    python -m trainer.finetune --out runs/first --resume               # after a kill: the same losses as without it

The paper's plain recipe: cross-entropy, Adam, no augmentation. The checkpoint that is best on the validation split is
kept beside the last one; `python -m trainer.evaluate` takes it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from trainer import checkpoint
from trainer.batchnorm import reestimate_batchnorm
from trainer.inputs import Inputs, members_read
from trainer.loader import Loader, Order, Place
from trainer.metrics import predict, score
from trainer.models.classifier import Classifier
from trainer.models.encoder import ModalityChoice
from trainer.models.presets import Network, Preset, build_encoder, network_config
from trainer.objectives import classification
from trainer.opening import default_run, initialise, open_run
from trainer.record import RunLog, to_floats
from trainer.runs import RunConfig, stored_flags
from trainer.runtime import (
    Precision,
    check_finite,
    default_workers,
    describe,
    entry,
    gradient_norm,
    parse,
    refuse_wrong_gradients,
    require,
    say,
    start_fabric,
    stop_on_signal,
    warn,
)
from trainer.shards import Shard, ShardSet, fingerprint, groups_of, labels_of, num_samples, select
from trainer.splits import draw_validation

PROG = "python -m trainer.finetune"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fine-tune a pretrained network on labels, or train it on them from scratch."""

    shards: str
    """Labelled data set: a folder, a glob of its tars, or an fsspec address such as s3://bucket/mved."""
    out: str | None = None
    """Run folder; by default a new one below --runs, named by network, preset and time."""
    network: Network = "slow-fast"
    """Which of the paper's networks."""
    preset: Preset = "paper"
    """paper: exact, for a GPU; small: at most 1 GMAC a clip, for experiments on a CPU; tiny: for tests."""
    modality: ModalityChoice = "both"
    """Which pathways are built."""
    init: str = "auto"
    """A pretrained RUN to start from; scratch; or auto, the newest one in --runs that fits, else scratch."""
    epochs: int = 20
    """Passes over the data."""
    max_steps: int | None = None
    """Steps to take, whatever --epochs says."""
    batch_size: int = 8
    """Clips a step."""
    lr: float = 1e-4
    """Adam's learning rate."""
    eval_every: int | None = None
    """Steps between validations; by default one at the end of every epoch. There is one at the end in any case."""
    val_fraction: float = 0.1
    """Share of the training split set aside, by source group, where the set has no val split."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint; its own flags are the defaults then."""
    runs: str = "runs"
    """Where runs lie, and where auto looks for a pretrained one."""
    checkpoint_every: int = 200
    """Steps between checkpoints; a kill loses at most so many."""
    bn_batches: int = 32
    """Training batches from which batch norm's statistics are re-estimated before each validation."""
    shuffle_buffer: int = 64
    """Samples that a reader holds to draw from, 4.3 MB each."""
    workers: int | None = None
    """Reader processes; by default up to 4 beside a GPU, else 0."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""
    seed: int = 0
    """Of the weights, of the order of samples, and of a validation split that must be drawn."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        for name in ("epochs", "batch_size", "checkpoint_every", "shuffle_buffer"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 or more")
        require(self.max_steps is None or self.max_steps >= 1, f"--max-steps {self.max_steps}: give 1 or more")
        require(self.eval_every is None or self.eval_every >= 1, f"--eval-every {self.eval_every}: give 1 or more")
        require(self.lr > 0, f"--lr {self.lr}: give more than 0")
        require(0 < self.val_fraction <= 0.5, f"--val-fraction {self.val_fraction}: give more than 0, at most 0.5")
        require(self.bn_batches >= 0, f"--bn-batches {self.bn_batches}: give 0 or more")
        require(self.workers is None or self.workers >= 0, f"--workers {self.workers}: give 0 or more")
        require(not self.resume or self.out is not None, "--resume needs --out RUN, the run to go on with")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG, stored=stored_flags)
    cfg = replace(cfg, workers=default_workers() if cfg.workers is None else cfg.workers)
    run = Path(cfg.out) if cfg.out else default_run(cfg.runs, "finetune", cfg.network, cfg.preset)

    # --- data and network
    data = ShardSet.open(cfg.shards)
    labels = data.class_names
    train_shards, val_shards, val_words = split_off(data, cfg)
    network = network_config(cfg.network, cfg.preset, modality=cfg.modality)
    fabric = start_fabric(cfg.precision, cfg.seed)
    classifier = Classifier(build_encoder(network), len(labels))
    refuse_wrong_gradients(fabric, classifier)
    data.require(members_read(classifier.encoder.inputs))
    to_inputs = Inputs(classifier.encoder.inputs, data.manifest.normalization, fabric.device)

    # --- run folder, weights, place in the data
    config = RunConfig(
        kind="finetune",
        network=asdict(network),
        preset=cfg.preset,
        recipe=data.manifest.recipe,
        recipe_hash=data.manifest.recipe_hash,
        labels=labels,
        normalization=data.manifest.normalization,
        data=fingerprint([*train_shards, *val_shards]),
        train=asdict(cfg),
        init=None,
    )
    config, why = open_run(
        run, config, init=cfg.init, root=Path(cfg.runs), groups=groups_of(train_shards), resume=cfg.resume
    )
    step, start, best = 0, Place(0, 0), None
    last = checkpoint.latest(run) if cfg.resume else None
    if last is not None:
        state = checkpoint.read_state(last)
        step, start, best = state["step"], Place(state["epoch"], state["batch"]), state["best"]
        checkpoint.load_weights(last, classifier)
        say(f"resume: {run} at step {step}")
    elif config.init is not None:
        say(f"init: {initialise(config.init, classifier.encoder, prefix='encoder.')} ({why})")
    else:
        say(f"init: scratch ({why})")
        if cfg.init == "auto":
            warn("training starts from scratch, not pretrained; --init RUN names a run, --init scratch means it")
    model, optimizer = fabric.setup(classifier, torch.optim.Adam(classifier.parameters(), lr=cfg.lr))
    if last is not None:
        checkpoint.load_optimizer(last, optimizer)

    order = Order(
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        shuffle_buffer=cfg.shuffle_buffer,
        workers=cfg.workers or 0,
        rank=fabric.global_rank,
        num_ranks=fabric.world_size,
    )
    members = to_inputs.members
    loader = Loader(data, train_shards, members=members, order=order, keep_workers=True)
    statistics = Loader(data, train_shards, members=members, order=order)
    validation = Loader(data, val_shards, members=members, order=replace(order, shuffle=False, rank=0, num_ranks=1))
    num_steps = cfg.max_steps or sum(loader.num_batches(epoch) for epoch in range(cfg.epochs))
    say(f"data: {num_samples(train_shards)} training samples of {cfg.shards}, {loader.num_batches(0)} batches an epoch")
    say(f"validation: {val_words}")
    say(f"run: {run}, {config.name}, steps {step} to {num_steps}, {describe(fabric)}")
    if step >= num_steps:
        say("nothing left to do; give more --epochs or --max-steps")
        return

    # --- the loop
    model.train()
    with stop_on_signal() as stop, RunLog(run, step=step, num_steps=num_steps) as log:
        for place, batch in loader.stream(start, num_batches=num_steps - step):
            logits = model(to_inputs(batch))
            truth = batch["label"].to(fabric.device)
            loss = classification(logits, truth)
            optimizer.zero_grad()
            fabric.backward(loss)
            accuracy = (logits.argmax(1) == truth).float().mean()
            values = to_floats({"loss": loss, "grad_norm": gradient_norm(model), "accuracy": accuracy})
            check_finite(values["loss"], values["grad_norm"], batch["keys"])
            optimizer.step()
            step += 1
            epoch_ended = place.batch == 0
            epoch = place.epoch - epoch_ended
            log.write("train", step, epoch=epoch, **values)

            done = step == num_steps
            validate = done or (step % cfg.eval_every == 0 if cfg.eval_every else epoch_ended)
            if validate:
                reestimate_batchnorm(model, map(to_inputs, islice(statistics.batches(), cfg.bn_batches)))
                said = predict(model, validation.batches(), to_inputs)
                scores = score(said.truth, said.probabilities, labels)
                now = {"step": step, "accuracy": said.accuracy, "loss": said.loss}
                log.write("val", step, loss=said.loss, accuracy=said.accuracy, macro_f1=scores["macro_f1"])
                say(f"step {step}: validation accuracy {said.accuracy:.3f}, loss {said.loss:.4f}")
                if best is None or (now["accuracy"], -now["loss"]) > (best["accuracy"], -best["loss"]):
                    best = now
                    state = {"batchnorm_reestimated": True, "validation": now}
                    checkpoint.save(run, classifier, step=step, state=state, series="best")
            if done or stop.signal or step % cfg.checkpoint_every == 0:
                state = {"epoch": place.epoch, "batch": place.batch, "best": best, "batchnorm_reestimated": validate}
                checkpoint.save(run, classifier, step=step, state=state, optimizer=optimizer)
            if stop.signal and not done:
                stop.leave(f"stopped at step {step}; go on with: {PROG} --out {run} --resume")
    assert best is not None
    say(f"done: {run}, step {step}; best validation accuracy {best['accuracy']:.3f} at step {best['step']}")
    say(f"next: python -m trainer.evaluate --run {run} --shards {cfg.shards} --split test")


def split_off(data: ShardSet, cfg: Config) -> tuple[list[Shard], list[Shard], str]:
    """Return training and validation shards, and where the latter come from."""
    train = data.split("train")
    if "val" in data.split_names:
        val = data.split("val")
        return train, val, f"{num_samples(val)} samples of the set's own split val"
    drawn = draw_validation(labels_of(train), groups_of(train), fraction=cfg.val_fraction, seed=cfg.seed)
    val = select(train, drawn.__contains__)
    rest = select(train, lambda group: group not in drawn)
    words = f"{num_samples(val)} samples of {len(drawn)} source groups drawn from train, as the set has no split val"
    return rest, val, words


if __name__ == "__main__":
    main()
