"""The flags that ``pretrain`` and ``finetune`` share; each adds its own in a class that inherits these."""

from dataclasses import dataclass

from trainer.devices import Device, Precision
from trainer.models.encoder import ModalityChoice
from trainer.models.inputs import Phase
from trainer.models.presets import Network, Preset
from trainer.phase import Normalization
from trainer.runtime import require
from trainer.shards import Damaged


@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """What both kinds of training ask for."""

    shards: str
    """Data set: a folder, a glob of its tars, or an fsspec address such as s3://bucket/unlabeled."""
    out: str | None = None
    """Run folder; by default a new one below --runs, named by network, preset and time."""
    network: Network = "slow-fast"
    """Which of the paper's networks."""
    preset: Preset = "paper"
    """paper: exact, for a GPU; small: at most 1 GMAC a clip, for experiments on a CPU; tiny: for tests."""
    modality: ModalityChoice | None = None
    """Which pathways are built; by default those that the set holds arrays for."""
    phase: Phase | None = None
    """What stands beside the log-mel; by default what the set stores. cos-sin and inst-freq are derived of angle."""
    normalization: Normalization = "channel"
    """Inputs are standardised by each channel's own statistics, or by one of all channels of a member."""
    epochs: int = 10
    """Passes over the data."""
    max_steps: int | None = None
    """Steps to take, whatever --epochs says."""
    batch_size: int = 8
    """Clips a batch."""
    accumulate: int = 1
    """Batches a step: the gradient is the mean over the clips of all of them, for the memory of one."""
    lr: float = 1e-4
    """Adam's learning rate."""
    clip_norm: float | None = None
    """Shorten a gradient that is longer than this to this length; by default none is."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint; its own flags are the defaults then."""
    runs: str = "runs"
    """Where runs lie."""
    checkpoint_every: int = 200
    """Steps between checkpoints; a kill loses at most so many."""
    bn_batches: int = 32
    """Training batches from which batch norm's statistics are re-estimated before they are used."""
    freeze_batchnorm: bool = False
    """Normalise by the statistics that --init or a checkpoint brought, and leave them as they are."""
    shuffle_buffer: int = 64
    """Samples that a reader holds to draw from, 4.3 MB each."""
    damaged: Damaged = "stop"
    """What is done about a sample that cannot be read: end with its name, or leave it out, counted and told."""
    workers: int | None = None
    """Reader processes; by default up to 4 beside a GPU, else 0."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""
    devices: int | None = None
    """Processes, one a device; by default one, or as many as torchrun started."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere; 16-mixed is for GPUs without bf16."""
    compile: bool = False
    """Compile the network: slower to start, then faster."""
    channels_last: bool = False
    """Keep channels innermost, which convolutions are faster with on some devices."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    seed: int = 0
    """Of everything drawn: weights, order of samples, what is set aside."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every", "shuffle_buffer"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 or more")
        require(self.max_steps is None or self.max_steps >= 1, f"--max-steps {self.max_steps}: give 1 or more")
        require(self.lr > 0, f"--lr {self.lr}: give more than 0")
        require(self.clip_norm is None or self.clip_norm > 0, f"--clip-norm {self.clip_norm}: give more than 0")
        require(self.bn_batches >= 0, f"--bn-batches {self.bn_batches}: give 0 or more")
        require(self.workers is None or self.workers >= 0, f"--workers {self.workers}: give 0 or more")
        require(self.devices is None or self.devices >= 1, f"--devices {self.devices}: give 1 or more")
        require(
            not (self.compile and self.checkpoint_activations),
            "--compile and --checkpoint-activations do not go together; give one of them",
        )
        require(0 <= self.seed < 2**32, f"--seed {self.seed}: give 0 to {2**32 - 1}")
        require(not self.resume or self.out is not None, "--resume needs --out RUN, the run to go on with")
