"""How a command of the pipeline ends: a user's mistake is one line and exit code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from pipeline.errors import UserError
from pipeline.schema import SchemaError
from pipeline.storage import storage_errors


def told() -> tuple[type[Exception], ...]:
    """What names the thing and the mend."""
    return (UserError, SchemaError)


def mistakes() -> tuple[type[Exception], ...]:
    """What the person at the keyboard can mend: told in one line, without a traceback."""
    return (*told(), *storage_errors())


def exit_code(name: str, command: Callable[[], int]) -> int:
    """Run a command, and tell what the person at the keyboard can mend."""
    try:
        return command()
    except mistakes() as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
