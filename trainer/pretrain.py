"""Pretrain a network without labels: reconstruct sound and picture (paper, Figs. 7 and 8), or what is hidden of them.

Usage::

    python -m trainer.pretrain --shards shards/unlabeled
    python -m trainer.pretrain --shards shards/unlabeled --out runs/first --preset small --max-steps 500
    python -m trainer.pretrain --shards shards/unlabeled --objective masked --probe shards/mved
    python -m trainer.pretrain --out runs/first --resume        # after a kill: the same losses as without it

A labelled set serves too: its labels are not looked at, and of its splits only `train` is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from trainer import checkpoint
from trainer.batchnorm import reestimate_batchnorm
from trainer.contrast import Embeddings, contrast, of_all_ranks
from trainer.devices import default_workers, describe, refuse_wrong_gradients, start_fabric
from trainer.errors import UserError
from trainer.flags import TrainingFlags
from trainer.inputs import Inputs, members_read, moments_read
from trainer.loader import Loader, Place
from trainer.losses import Losses
from trainer.masking import draw, hide, num_blocks, num_tubes, over_inputs
from trainer.modalities import built_for
from trainer.models.autoencoder import Autoencoder
from trainer.models.contrastive import ContrastiveAutoencoder
from trainer.models.encoder import Maps
from trainer.models.presets import build_encoder, network_config
from trainer.objectives import OutputsByRole, channel_errors, read_weights, reconstruction, require_roles
from trainer.opening import default_run, initialise, open_run
from trainer.order import Order
from trainer.phase import choose_phase
from trainer.pictures import draw_clips, save_clips
from trainer.prepare import prepare
from trainer.probe import better, in_words, load, open_probe, overlap, run_probe
from trainer.ranks import Ranks
from trainer.readers import Batch
from trainer.record import RunLog
from trainer.report import write_page
from trainer.runs import RunConfig, stored_flags
from trainer.runtime import entry, leave, parse, require, say, warn
from trainer.shards import ShardSet, fingerprint, groups_of, num_samples, select
from trainer.signals import stop_on_signal
from trainer.splits import hash_groups
from trainer.steps import measure, optimise

PROG = "python -m trainer.pretrain"

Objective = Literal["reconstruction", "masked"]

CONTRASTIVE_WEIGHT = 0.01  # Gong et al., "Contrastive Audio-Visual Masked Autoencoder", ICLR 2023
PICTURED = Order(batch_size=2, shuffle=False)  # the set's first two clips, the same whatever the seed


@dataclass(frozen=True, kw_only=True)
class Config(TrainingFlags):
    """Pretrain a network without labels by reconstructing sound and picture."""

    init: str = "scratch"
    """scratch; a pretrained RUN to start from; or auto, the newest one in --runs that fits."""
    aux_weight: float = 1.0
    """What an auxiliary output's error counts beside the full-size one's (the music-video network has such outputs)."""
    output_weights: tuple[str, ...] = ()
    """What the outputs of a pathway count, such as video_slow=1 audio_fast=0.5; 1 where nothing is said."""
    objective: Objective = "reconstruction"
    """reconstruction, the paper's; masked: of what is hidden from the network, and which sound is of which picture."""
    mask_video: float = 0.75
    """masked: share of the video that is hidden."""
    mask_audio: float = 0.6
    """masked: share of the sound that is hidden."""
    contrastive_weight: float | None = None
    """masked: what finding sound by picture, and picture by sound, counts; by default 0.01 where both are built."""
    eval_every: int | None = None
    """Steps between validations; by default one at the end of every epoch. There is one at the end in any case."""
    val_fraction: float = 0.02
    """Share of the source groups set aside to validate on; where that is less than one group, none is."""
    probe: str | None = None
    """Labelled data set that judges the encoder as it is; the checkpoint it finds best is kept, and --init takes it."""
    probe_every: int = 1000
    """Steps between probes; there is one before the first step and one at the end in any case."""
    pictures_every: int = 500
    """Steps between pictures of two clips; they are drawn at the end too. 0 draws none."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        super().__post_init__()
        require(self.aux_weight >= 0, f"--aux-weight {self.aux_weight}: give 0 or more")
        object.__setattr__(self, "output_weights", tuple(self.output_weights))  # a list where a stored run told them
        read_weights(self.output_weights)
        shares = {"video": self.mask_video, "audio": self.mask_audio}
        for modality, share in shares.items():
            require(0 <= share < 1, f"--mask-{modality} {share}: give 0 or more, less than 1")
        weight = self.contrastive_weight
        require(weight is None or weight >= 0, f"--contrastive-weight {weight}: give 0 or more")
        require(self.eval_every is None or self.eval_every >= 1, f"--eval-every {self.eval_every}: give 1 or more")
        require(0 <= self.val_fraction <= 0.5, f"--val-fraction {self.val_fraction}: give 0 to 0.5")
        require(self.probe_every >= 1, f"--probe-every {self.probe_every}: give 1 or more")
        require(self.pictures_every >= 0, f"--pictures-every {self.pictures_every}: give 0 or more")

    @property
    def contrast_counts(self) -> float:
        """What contrast counts in the loss; 0 where there is none."""
        if self.objective != "masked" or self.modality != "both":
            return 0.0
        return CONTRASTIVE_WEIGHT if self.contrastive_weight is None else self.contrastive_weight


def check_objective(cfg: Config) -> None:
    """Refuse what cannot work of an objective, now that the modality is known."""
    hidden = {"video": num_tubes(cfg.mask_video), "audio": num_blocks(cfg.mask_audio)}
    if cfg.objective == "masked" and not any(hidden[name] for name in hidden if cfg.modality in ("both", name)):
        raise UserError("--objective masked with nothing hidden: give a larger --mask-video or --mask-audio")
    if cfg.contrast_counts and cfg.batch_size * (cfg.devices or 1) == 1:
        warn(
            "--batch-size 1 leaves the contrast nothing to tell a clip from; give 2 or more, or --contrastive-weight 0"
        )
    if cfg.contrastive_weight and (cfg.objective != "masked" or cfg.modality != "both"):
        raise UserError(
            f"--contrastive-weight {cfg.contrastive_weight} is for --objective masked --modality both; "
            "give these, or leave it out"
        )
    needed = {
        "mask_video": ("--objective masked", cfg.objective == "masked"),
        "mask_audio": ("--objective masked", cfg.objective == "masked"),
        "probe_every": ("--probe DIR", cfg.probe is not None),
    }
    for name, (flag, given) in needed.items():
        if not given and getattr(cfg, name) != getattr(Config, name):
            told = f"--{name.replace('_', '-')} {getattr(cfg, name)}"
            raise UserError(f"{told} is for {flag}; give that, or leave it out")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG, stored=stored_flags)
    fabric = start_fabric(cfg.precision, cfg.seed, cfg.device, cfg.devices)
    ranks = Ranks.of(fabric)
    workers = default_workers(fabric) if cfg.workers is None else cfg.workers
    cfg = replace(cfg, workers=workers, devices=ranks.count)
    run = Path(cfg.out) if cfg.out else ranks.lead(lambda: default_run(cfg.runs, "pretrain", cfg.network, cfg.preset))

    # --- data and network
    data = ShardSet.open(cfg.shards, damaged=cfg.damaged)
    split = "unlabeled" if "unlabeled" in data.split_names else "train"
    all_groups = set(groups_of(data.split(split)))
    held_out = hash_groups(all_groups, fraction=cfg.val_fraction)
    shards = select(data.split(split), lambda group: group not in held_out)
    val_shards = select(data.split(split), held_out.__contains__)
    modality, of_modality = built_for(data, cfg.modality)
    cfg = replace(cfg, modality=modality)
    check_objective(cfg)
    phase = choose_phase(cfg.phase, data.manifest.recipe, address=cfg.shards)
    network = network_config(cfg.network, cfg.preset, modality=modality, phase=phase)
    autoencoder = (ContrastiveAutoencoder if cfg.contrast_counts else Autoencoder)(build_encoder(network))
    refuse_wrong_gradients(fabric, autoencoder)
    data.require(members_read(autoencoder.encoder.inputs))
    normalization = moments_read(autoencoder.encoder.inputs, data.manifest.normalization, cfg.normalization)
    to_inputs = Inputs(autoencoder.encoder.inputs, normalization, fabric.device)
    output_weights = read_weights(cfg.output_weights)
    require_roles(output_weights, to_inputs.specs)
    if cfg.aux_weight != Config.aux_weight and not autoencoder.encoder.config.auxiliary_outputs:
        raise UserError(f"--aux-weight {cfg.aux_weight}: {cfg.network} has no auxiliary outputs; leave it out")
    probe = None
    if cfg.probe is not None:
        probe = open_probe(cfg.probe, recipe=data.manifest.recipe, members=to_inputs.members, seed=cfg.seed)

    # --- run folder, weights, place in the data
    config = RunConfig(
        kind="pretrain",
        network=asdict(network),
        preset=cfg.preset,
        recipe=data.manifest.recipe,
        recipe_hash=data.manifest.recipe_hash,
        labels=None,
        normalization=normalization,
        data=fingerprint([*shards, *val_shards]),
        train=asdict(cfg),
        init=None,
    )
    groups, chosen_by = groups_of(shards), [] if probe is None else groups_of(probe.test)
    config, why = ranks.lead(
        lambda: open_run(
            run, config, init=cfg.init, root=Path(cfg.runs), groups=groups, chosen_by=chosen_by, resume=cfg.resume
        )
    )
    step, start, best = 0, Place(0, 0), None
    losses = Losses(skip=cfg.damaged == "skip")
    last = ranks.lead(lambda: checkpoint.latest(run)) if cfg.resume else None
    if last is not None:
        state = checkpoint.read_state(last)
        step, start, best = state["step"], Place(state["epoch"], state["batch"]), state["best"]
        losses = Losses(skip=losses.skip, keys=state.get("damaged", []))
        checkpoint.load_weights(last, autoencoder)
        say(f"resume: {run} at step {step}")
    elif config.init is not None:
        say(f"init: {initialise(config.init, encoder=autoencoder.encoder, decoders=autoencoder.decoders)} ({why})")
    else:
        say(f"init: scratch ({why})")
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=cfg.lr)
    model, optimizer = fabric.setup(prepare(fabric, autoencoder, cfg), optimizer)
    resumable = {"optimizer": optimizer, "precision": fabric.strategy.precision}
    if last is not None:
        checkpoint.load_states(last, resumable)

    order = Order(
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        shuffle_buffer=cfg.shuffle_buffer,
        workers=cfg.workers or 0,
        rank=ranks.rank,
        num_ranks=ranks.count,
    )
    members = to_inputs.members
    loader = Loader(data, shards, members=members, order=order, ranks=ranks, losses=losses, keep_workers=True)
    statistics = Loader(data, shards, members=members, order=order, ranks=ranks, losses=losses, verify=False)
    in_order = replace(order, shuffle=False)
    validation = Loader(data, val_shards, members=members, order=in_order, ranks=ranks, losses=losses)
    probed = None if probe is None else load(probe, members=members, order=order, ranks=ranks)
    drawn = None
    with ranks.together():
        if cfg.pictures_every and ranks.leads:
            pictured = Loader(data, shards, members=members, order=PICTURED, losses=losses, verify=False)
            drawn = next(pictured.batches())
            drawn = drawn if drawn["keys"] else None
    num_steps = cfg.max_steps or sum(loader.num_steps(epoch, accumulate=cfg.accumulate) for epoch in range(cfg.epochs))
    if of_modality:
        say(of_modality)
    say(f"data: {num_samples(shards)} samples of {cfg.shards}, split {split}, {loader.num_batches(0)} batches an epoch")
    held = f"{num_samples(val_shards)} samples of {len(held_out)} source groups set aside"
    too_few = f"none, as --val-fraction {cfg.val_fraction} of {len(all_groups)} source groups is less than one"
    say(f"validation: {held if val_shards else too_few}")
    if probe is not None:
        say(f"probe: {probe.words}")
        if shared := overlap(probe, shards):
            warn(f"{shared} source groups that the probe scores are pretrained on: it flatters what it judges")
    say(f"run: {run}, {config.name}, {cfg.objective}, steps {step} to {num_steps}, {describe(fabric)}")
    if step >= num_steps:
        say("nothing left to do; give more --epochs or --max-steps")
        say(f"page: {ranks.lead(lambda: write_page(run, run))}")
        return

    # --- the loop
    def pose(batch: Batch) -> tuple[Maps, OutputsByRole, OutputsByRole | None]:
        """Return what the network reads, what it should return, and how much of that was hidden."""
        inputs = to_inputs(batch)
        targets = autoencoder.targets(inputs)
        if cfg.objective == "reconstruction":
            return inputs, targets, None
        hidden = draw(
            batch["keys"],
            seed=cfg.seed,
            epoch=batch["epoch"],
            video_share=cfg.mask_video,
            audio_share=cfg.mask_audio,
        )
        masks = over_inputs(hidden, to_inputs.specs, fabric.device)
        return hide(inputs, masks), targets, autoencoder.shares(masks)

    def loss_of(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, targets, shares = pose(batch)
        compared: dict[str, Tensor] = {}
        if cfg.contrast_counts:
            outputs, embedded, scale = model(inputs, contrast=True)
            group = batch["group"].to(fabric.device)
            real = torch.full_like(group, not batch.get("filler"), dtype=torch.bool)
            own = Embeddings(embedded["audio"], embedded["video"], group, real)
            own, everyone, first = of_all_ranks(own, fabric, batch_size=cfg.batch_size)
            compared = contrast(own, everyone, scale, first=first) | {"contrast/temperature": 1 / scale}
        else:
            outputs = model(inputs)
        loss = reconstruction(outputs, targets, aux_weight=cfg.aux_weight, output_weights=output_weights, shares=shares)
        measured = channel_errors(outputs, targets, to_inputs.channel_names, shares) | compared
        return (loss + cfg.contrast_counts * compared["contrast"] if compared else loss), measured

    def judge(loaders: tuple[Loader, Loader]) -> dict[str, float]:
        with fabric.autocast():
            judged = run_probe(loaders, autoencoder.encoder, to_inputs, ranks)
        log.write("probe", step, **judged)
        say(f"step {step}: probe {in_words(judged)}")
        return judged

    def refresh() -> bool:
        """Compute batch norm's statistics anew, and tell whether they are meant for the weights as they are."""
        with fabric.autocast():
            batches = map(to_inputs, statistics.shared(limit=cfg.bn_batches))
            return reestimate_batchnorm(autoencoder, batches, ranks) or cfg.freeze_batchnorm

    model.train()
    with stop_on_signal() as stop, RunLog(run, step=step, num_steps=num_steps, writes=ranks.leads) as log:
        if probed is not None and step == 0:  # what is known before anything was learned, to compare with
            refresh()
            judge(probed)
        for portion in loader.portions(start, num_steps=num_steps - step, accumulate=cfg.accumulate):
            values = optimise(fabric, model, optimizer, portion, loss_of, clip_norm=cfg.clip_norm, ranks=ranks)
            step += 1
            lost_so_far = losses.record if portion.ends_epoch else {}
            log.write("train", step, epoch=portion.epoch, **values, **lost_so_far)

            done = step == num_steps
            probing = probed is not None and (done or step % cfg.probe_every == 0)
            drawing = cfg.pictures_every > 0 and (done or step % cfg.pictures_every == 0)
            validate = done or (step % cfg.eval_every == 0 if cfg.eval_every else portion.ends_epoch)
            validate = validate and bool(val_shards)
            fitting = cfg.freeze_batchnorm
            if done or probing or drawing or validate:
                fitting = refresh()
            if validate and (scores := measure(model, validation.once(), loss_of, ranks)):
                log.write("val", step, **scores)
                say(f"step {step}: validation loss {scores['loss']:.4f}")
            if probed is not None and probing:
                judged = judge(probed)
                if better(judged, best):
                    best = {"step": step, **judged}
                    state = {"batchnorm_reestimated": fitting, "probe": best}
                    checkpoint.save(run, autoencoder, step=step, state=state, series="best", ranks=ranks)
            if drawn is not None and drawing:  # rank 0 alone
                titles = [f"{config.name}, step {step}: {key}" for key in drawn["keys"]]
                with fabric.autocast():
                    pictures = draw_clips(autoencoder, *pose(drawn), to_inputs, titles=titles)
                save_clips(pictures, run / "pictures", step=step)
                for i, picture in enumerate(pictures):
                    log.picture(f"clip/{i}", step, picture)
            stopping = ranks.first(stop.signal)
            if done or stopping or step % cfg.checkpoint_every == 0:
                state = portion.next._asdict() | losses.state | {"best": best, "batchnorm_reestimated": fitting}
                checkpoint.save(run, autoencoder, step=step, state=state, resumable=resumable, ranks=ranks)
            if stopping and not done:
                leave(stopping, f"stopped at step {step}; go on with: {PROG} --out {run} --resume")
    found = ""
    if portion.batches:  # else none of its samples could be read
        of_what = "what was hidden in the last step" if cfg.objective == "masked" else "the last step"
        say(f"squared error of {of_what}, in brackets that of predicting the mean:")
        for role, names in to_inputs.channel_names.items():
            shown = (
                f"{name} {values[f'mse/{role}/{name}']:.3f} ({values[f'mean/{role}/{name}']:.3f})" for name in names
            )
            say(f"  {role:<11} {', '.join(shown)}")
        found = f", loss {values['loss']:.4f}"
        if best is not None:
            found += f"; best by its probe at step {best['step']}: {in_words(best)}"
    say(f"done: {run}, step {step}{found}{losses.words}")
    say(f"page: {ranks.lead(lambda: write_page(run, run))}")


if __name__ == "__main__":
    main()
