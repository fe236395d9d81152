"""What a device can do at most, measured, and the least time that allows a step of training (the roofline).

Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures".
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Width = Literal["fp32", "bf16"]
WIDTHS: dict[Width, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def timed(step: Callable[[], object], device: torch.device, *, warmup: int, steps: int, seconds: float) -> list[float]:
    """Seconds of single steps, each waited for to its end on the device, as training does to look at its loss."""
    for _ in range(warmup):
        step()
    synchronize(device)
    taken: list[float] = []
    while len(taken) < steps and sum(taken) < seconds:
        start = time.perf_counter()
        step()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return taken


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limits(device: torch.device, *, wide: bool) -> dict[str, float]:
    """Measure what a device can do: TFLOP/s of products and of convolutions, GB/s of a copy.

    fp32 is as torch ships it: on CUDA convolutions then run in TF32, products do not.

    Parameters
    ----------
    wide
        Whether it takes large arrays to keep the device busy, as on a GPU.
    """
    side = 8192 if wide else 1024
    channels, batch, size_px = (256, 32, 64) if wide else (64, 4, 32)
    best_s = functools.partial(_best_s, device)
    found = {}
    for width, dtype in WIDTHS.items():
        make = functools.partial(torch.randn, device=device, dtype=dtype)
        left, right = make(side, side), make(side, side)
        found[f"matmul_{width}_tflops"] = 2e-12 * side**3 / best_s(left.matmul, right)

        maps = make(batch, channels, size_px, size_px).to(memory_format=torch.channels_last)
        weight = make(channels, channels, 3, 3).to(memory_format=torch.channels_last)
        taken_s = best_s(functools.partial(F.conv2d, padding=1), maps, weight)
        found[f"conv2d_{width}_tflops"] = 2e-12 * maps.numel() * channels * 3**2 / taken_s

        maps = make(batch, channels // 2, 8, size_px, size_px).to(memory_format=torch.channels_last_3d)
        weight = make(channels // 2, channels // 2, 3, 3, 3).to(memory_format=torch.channels_last_3d)
        taken_s = best_s(functools.partial(F.conv3d, padding=1), maps, weight)
        found[f"conv3d_{width}_tflops"] = 2e-12 * maps.numel() * (channels // 2) * 3**3 / taken_s
    source = torch.zeros(2**30 if wide else 2**26, dtype=torch.uint8, device=device)
    found["copy_gbs"] = 2e-9 * source.numel() / best_s(torch.empty_like(source).copy_, source)
    return {name: round(value, 4) for name, value in found.items()}


def _best_s(device: torch.device, compute: Callable[..., object], *arrays: Tensor) -> float:
    return min(timed(functools.partial(compute, *arrays), device, warmup=3, steps=20, seconds=2.0))


class Heavy(TorchDispatchMode):
    """Notes floating-point operations and numbers read or written of every convolution and matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            flops = int(formula(*args, **(kwargs or {}), out_val=out))
            self.seen.append((flops, sum(tensor.numel() for tensor in tensors)))
        return out


def heavy_operations(loss: Callable[[], Tensor]) -> list[tuple[int, int]]:
    """Convolutions and products of a step forward and backward: (floating-point operations, numbers moved) each.

    On the meta device nothing is computed for it.
    """
    with Heavy() as heavy:
        loss().backward()  # type: ignore[no-untyped-call]
    return heavy.seen


def roofline_s(operations: list[tuple[int, int]], found: dict[str, float], width: Width) -> float:
    """Least seconds that the device allows for a step.

    Every convolution and product takes the longer of its arithmetic at the highest rate measured and its traffic at
    the bandwidth measured; everything else is free, as if fused into them.

    Parameters
    ----------
    found
        As ``limits`` returns it.
    """
    peak = 1e12 * max(value for name, value in found.items() if name.endswith(f"_{width}_tflops"))
    num_bytes, bandwidth = WIDTHS[width].itemsize, 1e9 * found["copy_gbs"]
    return sum(max(flops / peak, num_bytes * moved / bandwidth) for flops, moved in operations)
