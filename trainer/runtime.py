"""What every entry needs around its loop: flags, words, one-line errors."""

import argparse
import contextlib
import errno
import functools
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
import torch.distributed
import tyro
from tqdm import tqdm

from trainer.errors import UserError, one_line

OUT_OF_MEMORY = (
    "out of memory: give a smaller --batch-size with more --accumulate, --checkpoint-activations, on a GPU --precision "
    "bf16-mixed, or a smaller --preset"
)
READER_KILLED = (
    "a reader process was killed, as the kernel does where memory runs out: give fewer --workers, or a smaller "
    "--shuffle-buffer in training; a run goes on with --resume"
)
BAD_INPUT = 2  # exit status; a signal's is 128 and its number

_Config = TypeVar("_Config")
_P = ParamSpec("_P")


# --- words -------------------------------------------------------------------------------------------------------


def speaks() -> bool:
    """Tell whether this process is the one of its run that speaks, by what launchers set in the environment."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def say(text: str) -> None:
    """Print a line, now; what the terminal's encoding lacks, as numbers."""
    if speaks():
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
        sys.stdout.flush()


def warn(text: str) -> None:
    """Print a warning, one line on stderr."""
    if speaks():
        tqdm.write(f"warning: {text}", file=sys.stderr)
        sys.stderr.flush()


def entry(main: Callable[_P, None]) -> Callable[_P, None]:
    """Turn what the reader can mend into one line on stderr and exit status 2."""

    @functools.wraps(main)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            with _parting():
                main(*args, **kwargs)
                sys.stdout.flush()
        except UserError as error:  # every rank's, or told to every rank
            _fail(str(error) if speaks() else "")
        except KeyboardInterrupt as stop:
            _fail("interrupted" if speaks() else "", 128 + (stop.args[0] if stop.args else signal.SIGINT))
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed at exit
                _fail("", 128 + signal.SIGPIPE)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _fail(f"the disk is full ({one_line(error)}): make room; a run goes on with --resume")
        except (RuntimeError, MemoryError) as error:
            if "out of shared memory" in str(error) or "unable to allocate shared memory" in str(error):
                _fail("the reader processes ran out of shared memory (/dev/shm): give fewer --workers, 0 uses none")
            if re.match(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)", str(error)):
                _fail(READER_KILLED)
            if isinstance(error, torch.distributed.DistError) or "Connection closed by peer" in str(error):
                _fail("another process of this run ended; what it said tells why, and --resume goes on")
            if not is_out_of_memory(error):
                raise
            _fail(OUT_OF_MEMORY)

    return run


@contextlib.contextmanager
def _parting() -> Iterator[None]:
    """Leave the other processes of a run, if there are any, unless they broke off.

    torch's threads must have ended before the interpreter does: one that wants the GIL later aborts the process.
    """
    try:
        yield
    except (RuntimeError, MemoryError):
        raise  # the others may wait for this process, or be gone: nothing is to be agreed with them
    except BaseException:
        _leave_group()
        raise
    else:
        _leave_group()


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _nobody_reads() -> bool:
    """Tell whether the reader of standard output has gone, as ``| head`` does: it is told as an error of the pipe."""
    output = select.poll()
    output.register(1, 0)
    return any(state & select.POLLERR for _, state in output.poll(0))


def leave(number: int, text: str) -> NoReturn:
    """Say how to go on, and exit with the status that tells the signal."""
    say(text)
    raise SystemExit(128 + number)


def _fail(text: str, status: int = BAD_INPUT) -> NoReturn:
    if text:
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
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> _Config:
    """Read flags into a frozen dataclass.

    Parameters
    ----------
    stored
        Returns the flags a run was begun with: with ``--out RUN --resume`` they are the defaults, so that going on
        needs no other flag.
    recipes
        What flags are by default under each value of ``--recipe``. A flag that is given wins, whatever its value.

    Raises
    ------
    UserError
        If a flag is unknown, or ``__post_init__`` refuses a value.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    default: Any = None
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--out", "--recipe"):
        known.add_argument(flag, nargs="?")
    known.add_argument("--resume", action="store_true")
    peeked, _ = known.parse_known_args(argv)
    names = config_type.__dataclass_fields__  # type: ignore[attr-defined]
    if stored and peeked.out and peeked.resume:
        try:
            if (flags := stored(Path(peeked.out))) is not None:
                default = config_type(**{name: value for name, value in flags.items() if name in names})
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{peeked.out} cannot go on: of the flags it was begun with, {one_line(error)}; begin another run"
            ) from None
    if default is None and recipes and peeked.recipe in recipes:
        must = {name: tyro.MISSING for name, field in names.items() if _is_required(field)}
        default = config_type(**must, **recipes[peeked.recipe])
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


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _unboxed(text: str) -> str:
    """Take the words out of tyro's box, up to its own pointer to the help."""
    words = " ".join(line.strip("│╭╮╰╯─ ") for line in text.splitlines()[1:])
    return " ".join(words.split("For full helptext")[0].split())


def require(condition: bool, message: str) -> None:
    """Refuse a flag's value in ``__post_init__``."""
    if not condition:
        raise ValueError(message)
