"""Pretrain a network without labels: reconstruct sound and picture (paper, Figs. 7 and 8).

Usage::

    python -m trainer.pretrain --shards shards/unlabeled
    python -m trainer.pretrain --shards shards/unlabeled --out runs/first --preset small --max-steps 500
    python -m trainer.pretrain --out runs/first --resume        # after a kill: the same losses as without it

A labelled set serves too: its labels are not looked at, and of its splits only `train` is.
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
from trainer.models.autoencoder import Autoencoder
from trainer.models.encoder import ModalityChoice
from trainer.models.presets import Network, Preset, build_encoder, network_config
from trainer.objectives import channel_errors, reconstruction
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
)
from trainer.shards import ShardSet, fingerprint, groups_of, num_samples

PROG = "python -m trainer.pretrain"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pretrain a network without labels by reconstructing sound and picture."""

    shards: str
    """Data set: a folder, a glob of its tars, or an fsspec address such as s3://bucket/unlabeled."""
    out: str | None = None
    """Run folder; by default a new one below --runs, named by network, preset and time."""
    network: Network = "slow-fast"
    """Which of the paper's networks."""
    preset: Preset = "paper"
    """paper: exact, for a GPU; small: at most 1 GMAC a clip, for experiments on a CPU; tiny: for tests."""
    modality: ModalityChoice = "both"
    """Which pathways are built."""
    epochs: int = 10
    """Passes over the data."""
    max_steps: int | None = None
    """Steps to take, whatever --epochs says."""
    batch_size: int = 8
    """Clips a step."""
    lr: float = 1e-4
    """Adam's learning rate."""
    aux_weight: float = 1.0
    """What an auxiliary output's error counts beside the full-size one's (the music-video network has such outputs)."""
    init: str = "scratch"
    """scratch; a pretrained RUN to start from; or auto, the newest one in --runs that fits."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint; its own flags are the defaults then."""
    runs: str = "runs"
    """Where runs lie."""
    checkpoint_every: int = 200
    """Steps between checkpoints; a kill loses at most so many."""
    bn_batches: int = 32
    """Training batches from which batch norm's statistics are re-estimated in the end."""
    shuffle_buffer: int = 64
    """Samples that a reader holds to draw from, 4.3 MB each."""
    workers: int | None = None
    """Reader processes; by default up to 4 beside a GPU, else 0."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""
    seed: int = 0
    """Of the weights and of the order of samples."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        for name in ("epochs", "batch_size", "checkpoint_every", "shuffle_buffer"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 or more")
        require(self.max_steps is None or self.max_steps >= 1, f"--max-steps {self.max_steps}: give 1 or more")
        require(self.lr > 0, f"--lr {self.lr}: give more than 0")
        require(self.aux_weight >= 0, f"--aux-weight {self.aux_weight}: give 0 or more")
        require(self.bn_batches >= 0, f"--bn-batches {self.bn_batches}: give 0 or more")
        require(self.workers is None or self.workers >= 0, f"--workers {self.workers}: give 0 or more")
        require(not self.resume or self.out is not None, "--resume needs --out RUN, the run to go on with")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG, stored=stored_flags)
    cfg = replace(cfg, workers=default_workers() if cfg.workers is None else cfg.workers)
    run = Path(cfg.out) if cfg.out else default_run(cfg.runs, "pretrain", cfg.network, cfg.preset)

    # --- data and network
    data = ShardSet.open(cfg.shards)
    split = "unlabeled" if "unlabeled" in data.split_names else "train"
    shards = data.split(split)
    network = network_config(cfg.network, cfg.preset, modality=cfg.modality)
    fabric = start_fabric(cfg.precision, cfg.seed)
    autoencoder = Autoencoder(build_encoder(network))
    refuse_wrong_gradients(fabric, autoencoder)
    data.require(members_read(autoencoder.encoder.inputs))
    to_inputs = Inputs(autoencoder.encoder.inputs, data.manifest.normalization, fabric.device)

    # --- run folder, weights, place in the data
    config = RunConfig(
        kind="pretrain",
        network=asdict(network),
        preset=cfg.preset,
        recipe=data.manifest.recipe,
        recipe_hash=data.manifest.recipe_hash,
        labels=None,
        normalization=data.manifest.normalization,
        data=fingerprint(shards),
        train=asdict(cfg),
        init=None,
    )
    config, why = open_run(run, config, init=cfg.init, root=Path(cfg.runs), groups=groups_of(shards), resume=cfg.resume)
    step, start = 0, Place(0, 0)
    last = checkpoint.latest(run) if cfg.resume else None
    if last is not None:
        state = checkpoint.read_state(last)
        step, start = state["step"], Place(state["epoch"], state["batch"])
        checkpoint.load_weights(last, autoencoder)
        say(f"resume: {run} at step {step}")
    elif config.init is not None:
        say(f"init: {initialise(config.init, autoencoder)} ({why})")
    else:
        say(f"init: scratch ({why})")
    model, optimizer = fabric.setup(autoencoder, torch.optim.Adam(autoencoder.parameters(), lr=cfg.lr))
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
    loader = Loader(data, shards, members=to_inputs.members, order=order, keep_workers=True)
    statistics = Loader(data, shards, members=to_inputs.members, order=order)
    num_steps = cfg.max_steps or sum(loader.num_batches(epoch) for epoch in range(cfg.epochs))
    say(f"data: {num_samples(shards)} samples of {cfg.shards}, split {split}, {loader.num_batches(0)} batches an epoch")
    say(f"run: {run}, {config.name}, steps {step} to {num_steps}, {describe(fabric)}")
    if step >= num_steps:
        say("nothing left to do; give more --epochs or --max-steps")
        return

    # --- the loop
    model.train()
    with stop_on_signal() as stop, RunLog(run, step=step, num_steps=num_steps) as log:
        for place, batch in loader.stream(start, num_batches=num_steps - step):
            inputs = to_inputs(batch)
            targets = autoencoder.targets(inputs)
            outputs = model(inputs)
            loss = reconstruction(outputs, targets, aux_weight=cfg.aux_weight)
            optimizer.zero_grad()
            fabric.backward(loss)
            measured = {"loss": loss, "grad_norm": gradient_norm(model)}
            values = to_floats(measured | channel_errors(outputs, targets, to_inputs.channel_names))
            check_finite(values["loss"], values["grad_norm"], batch["keys"])
            optimizer.step()
            step += 1
            epoch = place.epoch - (place.batch == 0)  # place is where the next batch begins
            log.write("train", step, epoch=epoch, **values)

            done = step == num_steps
            if done:
                reestimate_batchnorm(model, map(to_inputs, islice(statistics.batches(), cfg.bn_batches)))
            if done or stop.signal or step % cfg.checkpoint_every == 0:
                state = {"epoch": place.epoch, "batch": place.batch, "batchnorm_reestimated": done}
                checkpoint.save(run, autoencoder, step=step, state=state, optimizer=optimizer)
            if stop.signal and not done:
                stop.leave(f"stopped at step {step}; go on with: {PROG} --out {run} --resume")
    say("squared error of the last step, in brackets that of predicting the mean:")
    for role, names in to_inputs.channel_names.items():
        shown = (f"{name} {values[f'mse/{role}/{name}']:.3f} ({values[f'mean/{role}/{name}']:.3f})" for name in names)
        say(f"  {role:<11} {', '.join(shown)}")
    say(f"done: {run}, step {step}, loss {values['loss']:.4f}")


if __name__ == "__main__":
    main()
