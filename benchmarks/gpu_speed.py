"""What ``benchmarks.gpu`` measures: steps of training, and waiting for data.

Of the project's dependencies it needs torch, torchvision and what ``benchmarks.gpu_bundle`` packs.
"""

from __future__ import annotations

import functools
import gc
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

from benchmarks.gpu_roofline import Width, heavy_operations, roofline_s, synchronize, timed
from trainer.errors import UserError
from trainer.inputs import Inputs, moments_read
from trainer.loader import Loader
from trainer.models.autoencoder import Autoencoder
from trainer.models.classifier import Classifier
from trainer.models.presets import Preset, build_encoder, network_config
from trainer.objectives import classification, reconstruction
from trainer.order import Order
from trainer.prepare import channels_last
from trainer.readers import Batch
from trainer.shards import ShardSet, num_samples

Mode = Literal["fp32", "bf16", "bf16+compile"]
"""The last with channels last too."""
CLASSES = 6
PEER_SHAPE = (3, 16, 112, 112)  # what R(2+1)D-18 reads: channels, frames, height, width
GIB = 2**30
SHUFFLE_BUFFER = 32


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: enough on a GPU, little on a CPU."""

    preset: Preset
    batch_size: int
    warmup: int
    """Steps after the first, which compiles, and before any is timed."""
    steps: int
    """At most so many are timed."""
    seconds: float
    """Fewer, where they take longer than this together."""
    workers: tuple[int, ...]
    """Reader processes, one row each."""
    samples_a_reader: int
    """The set is read as often as that takes."""
    backend: Literal["inductor", "aot_eager"]
    """Of torch.compile. The latter traces and generates no code: on a CPU that takes minutes a network."""


def size_for(device: torch.device, batch_size: int | None) -> Size:
    """Return what suits a device.

    Raises
    ------
    UserError
        If the batch has no clip.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: give at least 1")
    if device.type == "cuda":
        batch_size = batch_size or 16
        cores = len(os.sched_getaffinity(0))
        workers = tuple(dict.fromkeys(min(count, cores) for count in (2, 4, 8, 16)))
        return Size(
            preset="paper",
            batch_size=batch_size,
            warmup=5,
            steps=50,
            seconds=6.0,
            workers=workers,
            samples_a_reader=max(256, 4 * batch_size),
            backend="inductor",
        )
    batch_size = batch_size or 2
    return Size(
        preset="tiny",
        batch_size=batch_size,
        warmup=0,
        steps=3,
        seconds=2.0,
        workers=(0,),
        samples_a_reader=4 * batch_size,
        backend="aot_eager",
    )


# --- networks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """A network to be trained, what it reads, and its loss."""

    module: nn.Module
    inputs: dict[str, tuple[int, ...]]
    """Shape of one sample by role."""
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]


def work_of(network: str, model: str, preset: Preset) -> Work:
    """Build a network: ``slow-fast`` or ``music-video`` as ``autoencoder`` or ``classifier``, or ``r2plus1d-18``."""
    if network == "r2plus1d-18":
        return Work(
            module=r2plus1d_18(num_classes=CLASSES),
            inputs={"video": PEER_SHAPE},
            loss=lambda module, inputs: _cross_entropy(module(inputs["video"])),
        )
    encoder = build_encoder(network_config(network, preset))  # type: ignore[arg-type]
    if model == "autoencoder":
        return pretraining(Autoencoder(encoder))
    return Work(
        module=Classifier(encoder, CLASSES),
        inputs={role: spec.shape for role, spec in encoder.inputs.items()},
        loss=lambda module, inputs: _cross_entropy(module(inputs)),
    )


def pretraining(autoencoder: Autoencoder) -> Work:
    """Have an autoencoder trained as ``trainer.pretrain`` does by default."""
    return Work(
        module=autoencoder,
        inputs={role: spec.shape for role, spec in autoencoder.encoder.inputs.items()},
        loss=lambda module, inputs: reconstruction(module(inputs), autoencoder.targets(inputs), aux_weight=1.0),
    )


def _cross_entropy(logits: Tensor) -> Tensor:
    return classification(logits, torch.arange(len(logits), device=logits.device) % CLASSES)


def operations_of(network: str, model: str, size: Size) -> list[tuple[int, int]]:
    """Convolutions and products of one step, counted without computing them."""
    with torch.device("meta"):
        work = work_of(network, model, size.preset)
        inputs = {role: torch.empty(size.batch_size, *shape) for role, shape in work.inputs.items()}
    return heavy_operations(lambda: work.loss(work.module, inputs))


def step_of(work: Work, device: torch.device, mode: Mode, *, backend: str) -> Callable[[dict[str, Tensor]], None]:
    """Return one step forward and backward."""
    module = work.module.to(device).train()
    runs: nn.Module = module
    if mode == "bf16+compile":
        channels_last(module)
        runs = torch.compile(module, backend=backend)  # type: ignore[assignment]

    def step(inputs: dict[str, Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=mode != "fp32"):
            loss = work.loss(runs, inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        module.zero_grad(set_to_none=True)

    return step


def training(
    network: str, model: str, mode: Mode, *, device: torch.device, size: Size, found: dict[str, Any]
) -> dict[str, Any]:
    """Measure one row: forward and backward, without the optimiser's step."""
    release(device)
    operations = operations_of(network, model, size)
    width: Width = "fp32" if mode == "fp32" else "bf16"
    work = work_of(network, model, size.preset)
    inputs = {role: torch.randn(size.batch_size, *shape, device=device) for role, shape in work.inputs.items()}
    step = functools.partial(step_of(work, device, mode, backend=size.backend), inputs)
    (first_s,) = timed(step, device, warmup=0, steps=1, seconds=math.inf)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = timed(step, device, warmup=size.warmup, steps=size.steps, seconds=size.seconds)
    step_s = statistics.median(taken)
    flops = sum(flops for flops, _ in operations)
    return {
        "batch_size": size.batch_size,
        "preset": "-" if network == "r2plus1d-18" else size.preset,
        "steps": len(taken),
        "step_s": round(step_s, 5),
        "first_step_s": round(first_s, 2),
        "samples_per_s": round(size.batch_size / step_s, 2),
        "gflops_per_sample": round(flops / size.batch_size / 1e9, 2),
        "tflops": round(flops / step_s / 1e12, 4),
        "share_of_roofline": round(roofline_s(operations, found, width) / step_s, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / GIB, 2) if device.type == "cuda" else None,
    }


def release(device: torch.device) -> None:
    """Forget what was compiled and held before."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# --- data ----------------------------------------------------------------------------------------------------------


def spread_out(shards: Path, folder: Path, samples: int) -> ShardSet:
    """Link a set's tars under further names until there are enough samples, and open that."""
    first = ShardSet.open(str(shards))
    split = first.split_names[0]
    tars = sorted(shards.glob(f"{split}-*.tar"))
    shutil.copy(shards / "dataset.json", folder)
    rounds = -(-samples // num_samples(first.split(split)))
    for number, tar in enumerate(tars * rounds):
        for suffix in (".tar", ".parquet"):
            target = folder / f"{split}-{number:06d}{suffix}"
            try:
                target.hardlink_to(tar.with_suffix(suffix))
            except OSError:  # a file system without links
                shutil.copy(tar.with_suffix(suffix), target)
    return ShardSet.open(str(folder))


def waiting(workers: int, *, shards: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """Measure the real loader: alone, and under pretraining slow-fast, compiled. All is read from the page cache.

    Short batches are read but not trained on: each would be compiled for anew.
    """
    release(device)
    autoencoder = Autoencoder(build_encoder(network_config("slow-fast", size.preset)))
    step = step_of(pretraining(autoencoder), device, "bf16+compile", backend=size.backend)
    specs = autoencoder.encoder.inputs
    with tempfile.TemporaryDirectory(dir=shards.parent) as folder:
        data = spread_out(shards, Path(folder), size.samples_a_reader * max(1, workers))
        to_inputs = Inputs(specs, moments_read(specs, data.manifest.normalization), device)
        order = Order(batch_size=size.batch_size, shuffle_buffer=SHUFFLE_BUFFER, workers=workers)
        chosen = data.split(data.split_names[0])
        loader = Loader(data, chosen, members=to_inputs.members, order=order, keep_workers=True)
        whole: Batch = {}
        for batch in loader.batches(0):  # readers start, and compare tars with their hashes
            whole = batch if len(batch["keys"]) == size.batch_size else whole
        for _ in range(1 + size.warmup):
            step(to_inputs(whole))

        start = time.perf_counter()
        read = sum(len(batch["keys"]) for batch in loader.batches(1))
        alone_s = time.perf_counter() - start

        batches, waited_s, trained = loader.batches(2), 0.0, 0
        next(batches)  # the readers begin the epoch
        start = asked = time.perf_counter()
        for batch in batches:
            waited_s += time.perf_counter() - asked
            if len(batch["keys"]) == size.batch_size:
                step(to_inputs(batch))
                synchronize(device)
                trained += size.batch_size
            asked = time.perf_counter()
        trained_s = asked - start
    return {
        "batch_size": size.batch_size,
        "samples": read,
        "loader_samples_per_s": round(read / alone_s, 1),
        "training_samples_per_s": round(trained / trained_s, 1),
        "waiting_share": round(waited_s / trained_s, 4),
    }
