"""Where a run computes: processes, device, precision, and what must not be computed there."""

import inspect
import logging
import os
from typing import Any, Literal

import torch
from lightning.fabric import Fabric, seed_everything
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


def start_fabric(
    precision: Precision,
    seed: int,
    device: Device = "auto",
    devices: int | None = 1,
    *,
    unused_parameters: bool = False,
) -> Fabric:
    """Start Lightning Fabric, and with it the other processes, and seed everything.

    ``auto`` is CUDA where there is any, with bf16-mixed, else the CPU with 32-true.

    Parameters
    ----------
    devices
        How many processes are wanted, one a device. None is as many as ``torchrun`` or ``fabric run`` started, or one.
        What ``fabric run`` was told otherwise holds.
    unused_parameters
        Whether a step's loss may leave some parameters out, such as those of an absent modality; with several
        processes that must be known.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise UserError("--device cuda: torch finds no CUDA device here; give --device cpu")
    cuda = cuda and device != "cpu" and os.environ.get("LT_ACCELERATOR") != "cpu"
    if precision == "16-mixed" and not cuda:
        raise UserError("--precision 16-mixed is for CUDA; give --precision 32-true")
    started = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None
    wanted = devices or started or 1
    if started is not None and wanted != started:
        raise UserError(f"--devices {devices}, but {started} processes were started; leave the flag out")
    if cuda and started is None and wanted > torch.cuda.device_count():
        raise UserError(f"--devices {wanted}: torch finds {torch.cuda.device_count()} here; give no more")
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if started is not None else wanted
    settings: dict[str, Any] = {
        "accelerator": "cuda" if cuda else "cpu",
        "devices": here,
        "num_nodes": wanted // here,
        "precision": ("bf16-mixed" if cuda else "32-true") if precision == "auto" else precision,
    }
    if wanted > 1:
        # Buffers are batch norm's running averages, which are pooled over ranks before they are used. Newer
        # releases of torch call the switch otherwise.
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        switches: dict[str, Any] = {buffers: False, "find_unused_parameters": unused_parameters}
        settings["strategy"] = DDPStrategy(**switches)
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every process that starts
    fabric = Fabric(**{name: value for name, value in settings.items() if f"LT_{name.upper()}" not in os.environ})
    fabric.launch()
    seed_everything(seed, verbose=False)
    return fabric


def refuse_wrong_gradients(fabric: Fabric, model: nn.Module) -> None:
    """Refuse to train what oneDNN 3.13 (torch 2.15) computes wrong weight gradients for, silently and at times NaN.

    Its bf16 kernel `jit_bf16:avx512_core_bf16` errs where a 3-D convolution is deeper than its input has frames, and
    those are more than one, as in every video pathway. 2-D convolutions, evaluation and CUDA do not go through it.
    """
    on_cpu_in_bf16 = fabric.device.type == "cpu" and "bf16" in fabric._precision.precision
    if on_cpu_in_bf16 and any(isinstance(module, nn.Conv3d) for module in model.modules()):
        raise UserError(
            f"--precision {fabric._precision.precision} on a CPU: torch computes wrong gradients of 3-D convolutions "
            "there; give --precision 32-true, or --modality audio, or use a GPU"
        )


def describe(fabric: Fabric) -> str:
    """Name the devices and the precision."""
    name = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
    times = f"{fabric.world_size} x " if fabric.world_size > 1 else ""
    return f"{times}{name}, {fabric._precision.precision}"


def default_workers(fabric: Fabric) -> int:
    """Return reader processes of a rank: up to 4 beside a GPU, if there are cores; beside a busy CPU none."""
    cores_a_rank = (os.cpu_count() or 1) // fabric.world_size
    return min(4, max(0, cores_a_rank - 1)) if fabric.device.type == "cuda" else 0
