"""Where `make serve` leaves its server's address. Imported with every `import prefect`, so it needs nothing."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path

ADDRESS = "server.json"

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on loopback


def home() -> Path:
    """Prefect's home folder of this project: PREFECT_HOME, else .prefect in the project's root, the working folder."""
    return Path(os.environ.get("PREFECT_HOME") or ".prefect").expanduser().absolute()


def publish(url: str) -> None:
    """Leave the address, whole or not at all."""
    temporary = home() / f"{ADDRESS}.{os.getpid()}"
    temporary.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
    temporary.replace(home() / ADDRESS)


def withdraw(pid: int) -> None:
    """Take the address away again if it is this process's."""
    if _read().get("pid") == pid:
        (home() / ADDRESS).unlink(missing_ok=True)


def served_url() -> str | None:
    """Address of the API that `make serve` serves; None where nothing is served or it does not answer."""
    url, pid = _read().get("url"), _read().get("pid")
    if not isinstance(url, str) or not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)  # a server that was killed may have left its port to another
    except ProcessLookupError:
        return None
    return url if answers(url) else None


def use(url: str) -> None:
    """Make it the API of this process and its children; no HTTP proxy leads to it."""
    os.environ["PREFECT_API_URL"] = url
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(name for name in direct if name)


def answers(url: str, timeout_s: float = 10.0) -> bool:
    """Ask the API for its health."""
    try:
        with _OPENER.open(f"{url}/health", timeout=timeout_s) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _read() -> dict[str, object]:
    try:
        told = json.loads((home() / ADDRESS).read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
