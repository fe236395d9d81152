"""What every entry needs around its loop: flags, device, seed, log, progress, signals, one-line errors."""

import argparse
import contextlib
import functools
import io
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar

import torch
import tyro
from lightning.fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from trainer.errors import UserError

Precision = Literal["auto", "32-true", "bf16-mixed"]

BAD_INPUT = 2  # exit status; a signal's is 128 and its number
MAX_KEYS_SHOWN = 8

_Config = TypeVar("_Config")
_P = ParamSpec("_P")


# --- words -------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line, now."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """Print a warning, one line on stderr."""
    tqdm.write(f"warning: {text}", file=sys.stderr)
    sys.stderr.flush()


def entry(main: Callable[_P, None]) -> Callable[_P, None]:
    """Turn what the reader can mend into one line on stderr and exit status 2."""

    @functools.wraps(main)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted", 128 + signal.SIGINT)
        except (RuntimeError, MemoryError) as error:
            if "out of shared memory" in str(error):
                _fail("the reader processes ran out of shared memory (/dev/shm): give fewer --workers, 0 uses none")
            if not is_out_of_memory(error):
                raise
            _fail("out of memory: give a smaller --batch-size, or a smaller --preset")

    return run


def _fail(text: str, status: int = BAD_INPUT) -> NoReturn:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    raise SystemExit(status) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the device or the machine ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


# --- flags -------------------------------------------------------------------------------------------------------


def parse(
    config_type: type[_Config],
    argv: Sequence[str] | None,
    *,
    prog: str,
    stored: Callable[[Path], dict[str, Any] | None] | None = None,
) -> _Config:
    """Read flags into a frozen dataclass.

    Parameters
    ----------
    stored
        Returns the flags a run was begun with: with ``--out RUN --resume`` they are the defaults, so that going on
        needs no other flag.

    Raises
    ------
    UserError
        If a flag is unknown, or ``__post_init__`` refuses a value.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    default: Any = None
    if stored is not None:
        known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        known.add_argument("--out")
        known.add_argument("--resume", action="store_true")
        peeked, _ = known.parse_known_args(argv)
        if peeked.out and peeked.resume and (flags := stored(Path(peeked.out))) is not None:
            names = config_type.__dataclass_fields__  # type: ignore[attr-defined]
            default = config_type(**{name: value for name, value in flags.items() if name in names})
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            config: _Config = tyro.cli(
                config_type, args=argv, prog=prog, **({} if default is None else {"default": default})
            )
            return config
    except ValueError as error:
        raise UserError(str(error)) from None
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        if type(stop.__context__) is ValueError:  # __post_init__, before tyro drew a box around it
            raise UserError(str(stop.__context__)) from None
        raise UserError(f"{_unboxed(box.getvalue())} (see {prog} --help)") from None


def _unboxed(text: str) -> str:
    """Take the words out of tyro's box, up to its own pointer to the help."""
    words = " ".join(line.strip("│╭╮╰╯─ ") for line in text.splitlines()[1:])
    return " ".join(words.split("For full helptext")[0].split())


def require(condition: bool, message: str) -> None:
    """Refuse a flag's value in ``__post_init__``."""
    if not condition:
        raise ValueError(message)


# --- device ------------------------------------------------------------------------------------------------------


def start_fabric(precision: Precision, seed: int) -> Fabric:
    """Start Lightning Fabric on the best device there is and seed everything.

    ``auto`` precision is bf16-mixed on CUDA and 32-true elsewhere. Under ``fabric run`` its own settings hold.
    """
    cuda = torch.cuda.is_available()
    chosen = ("bf16-mixed" if cuda else "32-true") if precision == "auto" else precision
    launched = "LT_CLI_USED" in os.environ
    fabric = Fabric() if launched else Fabric(accelerator="cuda" if cuda else "cpu", devices=1, precision=chosen)
    fabric.launch()
    if fabric.world_size > 1:
        raise UserError("several devices are not served yet; start with one: fabric run --devices 1")
    seed_everything(seed, verbose=False)
    return fabric


def describe(fabric: Fabric) -> str:
    """Name the device and the precision."""
    name = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
    return f"{name}, {fabric._precision.precision}"


def default_workers() -> int:
    """Return reader processes: up to 4 beside a GPU; beside a CPU that computes anyway, none."""
    return min(4, max(0, (os.cpu_count() or 1) - 1)) if torch.cuda.is_available() else 0


# --- record ------------------------------------------------------------------------------------------------------


class RunLog:
    """One JSON object a step in ``log.jsonl``, the same numbers in TensorBoard, and a progress bar.

    A resumed run forgets what was logged after its checkpoint: those steps come again.
    """

    def __init__(self, run: Path, *, step: int, num_steps: int) -> None:
        path = run / "log.jsonl"
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        temporary = path.with_name(".log.jsonl")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._last = time.perf_counter()
        self._bar = tqdm(total=num_steps, initial=step, unit="step", disable=None, dynamic_ncols=True)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record numbers of a step, and the seconds since the record before; ``kind`` is train or val.

        What is not a finite number is null in JSON.
        """
        now = time.perf_counter()
        values["seconds"], self._last = round(now - self._last, 4), now
        record = {"step": step, "kind": kind, **{name: _finite(value) for name, value in values.items()}}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if kind == "train":
            self._bar.update()
            self._bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)

    def close(self) -> None:
        """Flush everything."""
        self._bar.close()
        self._file.close()
        self._board.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a log; the last may have been cut by a kill."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Fetch scalars from the device in one go."""
    return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True))


class Stop:
    """Whether Ctrl-C or SIGTERM asked for an end after the current step."""

    signal: int | None = None

    def leave(self, text: str) -> NoReturn:
        """Say how to go on, and exit with the status that tells the signal."""
        say(text)
        raise SystemExit(128 + (self.signal or 0))


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of dying mid-step; a second one interrupts at once."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_finite(loss: float, keys: Sequence[str]) -> None:
    """Stop before the optimiser takes a step that would ruin every weight."""
    if not math.isfinite(loss):
        shown = ", ".join(keys[:MAX_KEYS_SHOWN]) + (", ..." if len(keys) > MAX_KEYS_SHOWN else "")
        raise UserError(
            f"the loss is {loss} on the batch {shown}; look at these samples, or lower --lr; "
            "the last checkpoint is untouched"
        )


# --- batch norm --------------------------------------------------------------------------------------------------


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> None:
    """Replace batch norm's running statistics by those of the whole of some training batches.

    With Keras' momentum of 0.01 the running average still remembers its start after hundreds of steps, and weights
    have moved on meanwhile. Mean and variance are pooled over all positions of all batches, as if they were one, while
    each batch is normalised by its own, as in training. Without a batch nothing changes.

    Parameters
    ----------
    batches
        The model's inputs.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    pooled = {norm: _Moments() for norm in norms}
    kept = [(norm, norm.momentum) for norm in norms]
    hooks = [norm.register_forward_pre_hook(lambda norm, args: pooled[norm].add(args[0])) for norm in norms]
    was_training = model.training
    model.train()
    try:
        for norm in norms:
            norm.momentum = 0.0  # leave the running statistics as they are meanwhile
        for inputs in batches:
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in kept:
            norm.momentum = momentum
        model.train(was_training)
    for norm, moments in pooled.items():
        if moments.count and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(moments.mean)
            norm.running_var.copy_(moments.squares / max(1, moments.count - 1))


class _Moments:
    """Mean and sum of squared deviations a channel, pooled batch by batch (Chan et al. 1983) in float64."""

    count = 0
    mean: Tensor
    squares: Tensor

    def add(self, maps_BCN: Tensor) -> None:
        values_CN = maps_BCN.detach().float().movedim(1, 0).flatten(1)
        count = values_CN.shape[1]
        variance, mean = (x.double() for x in torch.var_mean(values_CN, dim=1, correction=0))
        if not self.count:
            self.count, self.mean, self.squares = count, mean, variance * count
            return
        total = self.count + count
        shift = mean - self.mean
        self.squares = self.squares + variance * count + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
