"""What every entry needs around its loop: flags, device, seed, signals, checks, one-line errors."""

import argparse
import contextlib
import functools
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar

import torch
import tyro
from lightning.fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
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
    """Name the device and the precision."""
    name = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
    return f"{name}, {fabric._precision.precision}"


def default_workers() -> int:
    """Return reader processes: up to 4 beside a GPU; beside a CPU that computes anyway, none."""
    return min(4, max(0, (os.cpu_count() or 1) - 1)) if torch.cuda.is_available() else 0


# --- steps -------------------------------------------------------------------------------------------------------


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


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the length of the whole gradient, of all parameters that have one."""
    return get_total_norm([value.grad for value in model.parameters() if value.grad is not None])


def check_finite(loss: float, grad_norm: float, keys: Sequence[str]) -> None:
    """Stop before the optimiser takes a step that would ruin every weight."""
    for name, value in (("loss", loss), ("gradient's norm", grad_norm)):
        if not math.isfinite(value):
            shown = ", ".join(keys[:MAX_KEYS_SHOWN]) + (", ..." if len(keys) > MAX_KEYS_SHOWN else "")
            raise UserError(
                f"the {name} is {value} on the batch {shown}; look at these samples, or lower --lr; "
                "the last checkpoint is untouched"
            )
