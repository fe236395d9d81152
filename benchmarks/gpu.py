"""How fast the networks train on this device, how near to its limits, and whether data arrives in time.

    python -m benchmarks.gpu bundle DIR                                   # here: wheels and a shard to take along
    python -m benchmarks.gpu run --shards DIR/shards --results gpu.json   # there: until it says done
    python -m benchmarks.gpu table --results gpu.json

A machine with a GPU may be lent for minutes at a time and reach no network. So ``run`` measures row after row, writes
each down at once, and ends before ``--minutes`` are over (exit status 75); called again, it goes on, also where it was
killed. A row in whose midst the run ended twice is left out. ``bundle`` packs what an environment with torch and
torchvision lacks, and checks that it suffices.

Rows are forward and backward passes on random numbers, without the optimiser's step: each network as autoencoder and
as classifier, and torchvision's R(2+1)D-18 on 16 frames of 112 x 112; fp32 as torch ships it, bf16 autocast, and bf16
compiled with channels last. The share of the roofline is the least time that the limits measured in the same run allow
(``benchmarks.gpu_roofline``) over the time taken. Then slow-fast is pretrained from the shards with more and
more reader processes. On a CPU the tiny preset is measured for a few steps, and traced where a GPU would compile: the
same table, but no figures to quote. Its bf16 gradients are wrong there (docs/training.md).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import tyro

from benchmarks.environment import environment
from benchmarks.gpu_roofline import limits
from benchmarks.gpu_speed import Mode, Size, size_for, training, waiting
from trainer.errors import UserError, one_line

LIMITS = "limits"
NETWORKS = (
    "slow-fast/autoencoder",
    "slow-fast/classifier",
    "r2plus1d-18/classifier",
    "music-video/autoencoder",
    "music-video/classifier",
)
COMPILING_S = 240.0  # a row that compiles is begun only with so much time left
OTHER_S = 60.0
MAX_TRIES = 2
MORE_TO_DO = 75  # sysexits.h: try again


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Pack wheels and a shard for a machine that reaches no network."""

    folder: tyro.conf.Positional[Path]
    """Where to; it is made."""
    media: Path | None = None
    """Music videos for the shard; made where it is left out."""
    clips: int = 2
    """So many of them; reading uses the shard again and again."""
    there: tuple[str, ...] = ("torch", "torchvision")
    """What the machine has: no wheels of these are packed, nor of what they need."""
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    """Version of the machine's Python; checked is only a bundle for this one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Measure what is not measured yet, for some minutes."""

    results: Path
    """JSON file; what stands in it is not measured again."""
    shards: Path | None = None
    """Folder of a set with JPEG frames, such as the bundle's; without it the loader is left out."""
    minutes: float = 9.0
    """End before so many are over."""
    batch_size: int | None = None
    """Clips a step; by default 16 on a GPU, 2 on a CPU."""
    only: str = "*"
    """Rows of such names, beside the limits: "train/slow-fast/*", "*/fp32", "load/*"."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print the table of a results file."""

    results: Path
    """JSON file that run wrote."""


def rows(size: Size, *, with_data: bool, only: str = "*") -> list[str]:
    """Names of everything measured, in order."""
    modes: tuple[Mode, ...] = get_args(Mode)
    names = [f"train/{network}/{mode}" for mode in modes for network in NETWORKS]
    names += [f"load/{count}" for count in size.workers] if with_data else []
    return [LIMITS, *(name for name in names if fnmatchcase(name, only))]


def compiles(row: str) -> bool:
    """Whether a row compiles a network."""
    return row.startswith("load/") or row.endswith("+compile")


def run(config: Run) -> int:
    """Measure; ``MORE_TO_DO`` where time was too short."""
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = size_for(device, config.batch_size)
    told = begun(config.results, device, size)
    for row in rows(size, with_data=config.shards is not None, only=config.only):
        if row in told["rows"]:
            continue
        left_s = 60 * config.minutes - (time.perf_counter() - start)
        if left_s < (COMPILING_S if compiles(row) else OTHER_S):
            print(f"gpu: {left_s:.0f} s are left, too few for {row}; call it again", flush=True)
            return MORE_TO_DO
        told["tries"][row] = told["tries"].get(row, 0) + 1
        if told["tries"][row] > MAX_TRIES:
            told["rows"][row] = {"error": f"the run ended in its midst {MAX_TRIES} times"}
        else:
            write(config.results, told)
            told["rows"][row] = measured(row, told["rows"].get(LIMITS), config.shards, device, size)
        write(config.results, told)
        print(f"gpu: {row}: {json.dumps(told['rows'][row])}", flush=True)
    print(table(told))
    print("gpu: done")
    return 0


def begun(results: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """What was measured before, which must be of this device; or an empty record."""
    told: dict[str, Any] = {
        "environment": environment() | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "batch_size": size.batch_size,
        "rows": {},
        "tries": {},
    }
    told["device"] = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else told["environment"]["processor"] or "CPU"
    )
    if not results.exists():
        return told
    before: dict[str, Any] = json.loads(results.read_text())
    for name in ("device", "batch_size"):
        if before[name] != told[name]:
            words = f"its {name.replace('_', ' ')} is {before[name]}, here it is {told[name]}"
            raise UserError(f"--results {results}: {words}; name another file")
    return before


def measured(
    row: str, found: dict[str, Any] | None, shards: Path | None, device: torch.device, size: Size
) -> dict[str, Any]:
    """Measure one row; what fails is an answer too."""
    if found is None:
        return limits(device, wide=device.type == "cuda")
    kind, *words = row.split("/")
    try:
        if kind == "load":
            assert shards is not None
            return waiting(int(words[0]), shards=shards, device=device, size=size)
        network, model, mode = words
        return training(network, model, mode, device=device, size=size, found=found)  # type: ignore[arg-type]
    except torch.AcceleratorError:  # nothing can be computed in this process any more: ``tries`` counts it
        raise
    except Exception as error:  # out of memory, a compiler's fault: the other rows go on
        return {"error": f"{type(error).__name__}: {one_line(error)[:200]}"}


def write(path: Path, told: dict[str, Any]) -> None:
    """Write everything measured so far, whole."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(told, indent=1) + "\n")
    temporary.replace(path)


def table(told: dict[str, Any]) -> str:
    """Tables of what was measured, in Markdown."""
    of_kind: dict[str, dict[str, Any]] = {LIMITS: {}, "train": {}, "load": {}}
    for row, values in told["rows"].items():
        kind, _, name = row.partition("/")
        of_kind[kind][name] = values
    versions = told["environment"]["versions"]
    parts = [f"{told['device']}, {told['batch_size']} clips a step, torch {versions['torch']}"]
    for values in of_kind[LIMITS].values():
        cells = [(name.rsplit("_", 1)[0].replace("_", " "), _limit(name, value)) for name, value in values.items()]
        parts.append(_markdown(("limit", "measured"), cells))
    if trained := of_kind["train"]:
        head = ("network", "mode", "clips/s", "over fp32", "TFLOP/s", "of the roofline", "peak GiB", "first step, s")
        parts.append(_markdown(head, [_train(name, trained) for name in trained]))
    if loads := of_kind["load"]:
        columns = ("readers", "loader alone, clips/s", "pretraining slow-fast, clips/s", "waiting for data")
        parts.append(_markdown(columns, [_load(name, values) for name, values in loads.items()]))
    return "\n\n".join(parts)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    padded = ((*line, *[""] * (len(head) - len(line))) for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *padded))


def _limit(name: str, value: float) -> str:
    return f"{value:,.0f} GB/s" if name.endswith("gbs") else f"{value:,.2f} TFLOP/s"


def _train(name: str, trained: dict[str, Any]) -> tuple[str, ...]:
    network, mode = name.rsplit("/", 1)
    named, values = (network.replace("/", " "), mode), trained[name]
    if "error" in values:
        return (*named, values["error"])
    plain = trained.get(f"{network}/fp32", {}).get("samples_per_s")
    return (
        *named,
        f"{values['samples_per_s']:,.1f}",
        f"{values['samples_per_s'] / plain:.2f}x" if plain else "-",
        f"{values['tflops']:,.2f}",
        f"{values['share_of_roofline']:.1%}",
        f"{values['peak_gib']:.2f}" if values["peak_gib"] is not None else "-",
        f"{values['first_step_s']:.1f}",
    )


def _load(readers: str, values: dict[str, Any]) -> tuple[str, ...]:
    if "error" in values:
        return (readers, values["error"])
    alone, pretraining = values["loader_samples_per_s"], values["training_samples_per_s"]
    return (readers, f"{alone:,.1f}", f"{pretraining:,.1f}", f"{values['waiting_share']:.1%}")


def main(config: Bundle | Run | Table) -> int:
    """Do what was asked; 2 where that cannot be."""
    try:
        if isinstance(config, Run):
            return run(config)
        if isinstance(config, Table):
            print(table(json.loads(config.results.read_text())))
            return 0
        from benchmarks import gpu_bundle  # it needs the pipeline, which a machine with a GPU may lack

        print(gpu_bundle.make(**vars(config)))
        return 0
    except (UserError, FileNotFoundError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    Command = (
        Annotated[Bundle, tyro.conf.subcommand("bundle")]
        | Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Table, tyro.conf.subcommand("table")]
    )
    sys.exit(main(tyro.cli(Command, description=__doc__)))
