"""How a command of the pipeline ends: a user's mistake is one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pipeline.errors import UserError
from pipeline.schema import SchemaError


def exit_code(name: str, command: Callable[[], int]) -> int:
    """Run a command, and tell what the person at the keyboard can mend."""
    try:
        return command()
    except (UserError, SchemaError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
