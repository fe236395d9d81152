"""Serve the deployment build-shards, so that `prefect deployment run build-shards` works in another terminal.

    make serve                          python -m flows.serve
    make serve DEFAULTS=mine.toml       python -m flows.serve --defaults mine.toml
    make serve PORT=4300                python -m flows.serve --port 4300

Run it in the project's root. It starts Prefect's server on loopback (SQLite, all of it in .prefect or PREFECT_HOME),
says where its page is, and carries out one run at a time, each in a process of its own. Ctrl-C or SIGTERM ends all of
it; a run that was under way goes on from there when it is started again. Exit code 0: it was stopped so; 1: the server
failed; 2: a mistake in the request.

Two processes: the outer one, here in the terminal's foreground, holds the lock and sees that nothing outlives it; the
inner one, a session of its own that Ctrl-C does not reach, holds server and runner and ends them in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from flows import served

NAME = "build-shards"
DEFAULTS = Path("flows/defaults.toml")
PORT = 4200
POLL_S = 2.0  # how often the runner asks for new runs
START_TIMEOUT_S = 180.0  # a busy machine starts Prefect's server slowly; the first start makes the database
STOP_TIMEOUT_S = 60.0  # Prefect gives a run 30 s to end by itself
WATCHERS_S = 4.0  # the server outlives a run that was stopped so long: `--watch` asks for the last lines for 3 s

SETTINGS = {
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",  # so that `--watch` shows what a run logs, and why it failed
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",  # seconds
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


class ServeError(Exception):
    """A line for the user and an exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def main() -> int:
    """Parse the words and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--defaults", type=Path, default=DEFAULTS, help="parameters of a run that names none (TOML)")
    parser.add_argument("--port", type=int, default=PORT, help="of Prefect's server; another one if it is taken")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    try:
        return inner(asked.defaults, asked.port) if asked.inner else outer(sys.argv[1:])
    except ServeError as error:
        print(f"serve: {error}", file=sys.stderr)
        return error.code


# --- the outer process


def outer(words: list[str]) -> int:
    """Hold the lock, start the inner process, pass signals on to it, and sweep what is left of it at the end."""
    if not Path("flows/build_shards.py").exists():
        raise ServeError("run this in the project's root")
    with only_one() as lock:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--inner", *words],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            pass_fds=[lock],  # held until both are gone
        )
        asked_to_stop = 0

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal asked_to_stop
            asked_to_stop += 1
            process.send_signal(signal.SIGTERM if asked_to_stop == 1 else signal.SIGKILL)
            os.write(2, b"\nserve: stopping; again to stop at once\n" if asked_to_stop == 1 else b"\n")

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        code = process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a run's workers, or a server, that did not follow
        served.withdraw(process.pid)
    if asked_to_stop:
        print("serve: stopped", file=sys.stderr)
        return 0
    return code if code >= 0 else 1


@contextlib.contextmanager
def only_one(patience_s: float = 10.0) -> Iterator[int]:
    """The lock of the home folder, which dies with its holders; one that ends just now is waited for."""
    served.home().mkdir(parents=True, exist_ok=True)
    with (served.home() / "serve.lock").open("w") as file:
        deadline_s = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if url := served.served_url():
                    raise ServeError(f"it is running already, at {_page(url)}") from None
                if time.monotonic() > deadline_s:
                    raise ServeError(f"another one is starting or ending (it holds {file.name})") from None
                time.sleep(0.2)
        yield file.fileno()


def _end_with_parent() -> None:
    """Be sent SIGTERM when the parent dies, even by SIGKILL; Linux alone has this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


# --- the inner process


def inner(defaults: Path, port: int) -> int:
    """Check the defaults, start the server, register the deployment, and carry out its runs until SIGTERM."""
    port = free_port(port)
    url = f"http://127.0.0.1:{port}/api"
    set_environment(url)
    parameters = read_defaults(defaults)
    with server(port) as process:
        wait_for(url, process)
        return asyncio.run(run_deployment(url, parameters, process))


def set_environment(url: str) -> None:
    """What Prefect's server, its runner and the runs shall find; to be called before prefect is imported."""
    os.environ["PREFECT_HOME"] = str(served.home())
    served.use(url)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import flows.settings  # noqa: F401  for what it sets


def free_port(asked: int) -> int:
    """The port asked for, or another one if it is taken."""
    for port in (asked, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServeError("no port is free on 127.0.0.1", code=1)


def read_defaults(path: Path) -> dict[str, Any]:
    """Parameters from a TOML file, held against the flow's own names and types, as Prefect's server holds `-p`.

    Raises
    ------
    ServeError
        A line that names the file and what is wrong.
    """
    try:
        parameters = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ServeError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ServeError(f"{path}: {error}") from None

    from prefect.utilities.schema_tools.validation import ValidationError, validate

    from flows.build_shards import build_shards

    schema = build_shards.parameters.model_dump()
    if unknown := sorted(set(parameters) - set(schema["properties"])):
        raise ServeError(f"{path}: the flow has no parameter {unknown[0]}; it has {', '.join(schema['properties'])}")
    try:
        validate(parameters, schema, raise_on_error=True, ignore_required=True)
    except ValidationError as error:
        raise ServeError(f"{path}: {' '.join(str(error).split())}") from None
    return parameters


@contextlib.contextmanager
def server(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Prefect's server, for as long as the context lasts; its words go to server.log in Prefect's home."""
    words = ["-m", "prefect", "--no-prompt", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log_file().open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words, "--log-level", "WARNING"],
            env=os.environ | {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_parent,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


def log_file() -> Path:
    """What Prefect's server has to say."""
    return served.home() / "server.log"


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the API answers."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not served.answers(url):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise ServeError(f"Prefect's server did not start; {log_file()} says why", code=1)
        time.sleep(0.2)


async def run_deployment(url: str, parameters: dict[str, Any], process: subprocess.Popen[bytes]) -> int:
    """Register the deployment, say so, and carry out its runs until SIGTERM or the server's end."""
    from prefect.runner import Runner

    from flows.build_shards import build_shards

    logging.getLogger("prefect.runner").setLevel(logging.WARNING)  # it counts the runs that wait, every 2 s
    await bury_the_dead()
    runner = Runner(name=NAME, limit=1, query_seconds=POLL_S, pause_on_shutdown=False)
    deployment = await build_shards.ato_deployment(name=NAME, parameters=parameters)
    deployment.work_pool_name = deployment.work_queue_name = None  # said, so that it is the runner's again
    await runner.aadd_deployment(deployment)  # each run loads the flow anew, as a worker would
    running = asyncio.create_task(runner.start())
    while not runner.started and not running.done():
        await asyncio.sleep(0.05)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)  # instead of the runner's own
    served.publish(url)
    print(f"serve: ready; runs and their logs: {_page(url)}; Ctrl-C stops it", flush=True)
    print(f"serve: in another terminal: prefect deployment run {NAME} --watch", flush=True)
    try:
        while not stop.is_set() and not running.done() and process.poll() is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), timeout=1)
    finally:
        served.withdraw(os.getpid())
    if not running.done():
        under_way = bool(await unfinished_runs())
        await runner.astop()
        await asyncio.wait([running], timeout=STOP_TIMEOUT_S)
        if under_way:
            await asyncio.sleep(WATCHERS_S)
    if not stop.is_set():
        raise ServeError(f"Prefect's server or runner ended by itself; {log_file()} may say why", code=1)
    return 0


async def bury_the_dead() -> None:
    """Runs that a killed server left as running do not run any more; say so in Prefect's records."""
    from prefect import get_client
    from prefect.states import Crashed

    async with get_client() as client:
        for run in await unfinished_runs():
            await client.set_flow_run_state(run, Crashed(message="`make serve` was killed"), force=True)


async def unfinished_runs() -> list[UUID]:
    """Runs of the deployment that have begun and not ended, by Prefect's records."""
    from prefect import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    begun = filters.FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    async with get_client() as client:
        runs = await client.read_flow_runs(
            deployment_filter=filters.DeploymentFilter(name=filters.DeploymentFilterName(any_=[NAME])),
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=begun)),
        )
    return [run.id for run in runs]


def _page(url: str) -> str:
    return url.removesuffix("/api")


if __name__ == "__main__":
    sys.exit(main())
