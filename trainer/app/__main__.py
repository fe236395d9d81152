"""A page on this machine: drop a video, and see its emotion over time beside it.

Usage::

    python -m trainer.app --run runs/first                 # http://127.0.0.1:7860, for this machine alone
    python -m trainer.app --run runs/first --host 0.0.0.0 --names emotion.example.org

One video is judged at a time, others wait. What a visitor uploads, and what is made of it, is that visitor's alone; it
is deleted on demand, after ``--keep-minutes``, and when the server ends.
"""

import asyncio
import contextlib
import ipaddress
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from trainer.app.children import Child
from trainer.app.rooms import private_folder
from trainer.errors import UserError, one_line
from trainer.runtime import entry, leave, parse, require, say, warn

PROG = "python -m trainer.app"
GRACE_S = 2  # for which answers under way may end

# As trainer.devices and trainer.videos have them, which only the children need to import.
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
EVERY_UNIT_S = 0.5
MOST = 1e9
"""Of any limit, in its own unit: none that anybody needs, and all that is computed of it stays finite."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Serve the page: a video in, its emotion over time beside the playing video."""

    run: str | None = None
    """Run folder that trainer.finetune wrote; by default the newest in --runs."""
    runs: str = "runs"
    """Where runs lie."""
    host: str = "127.0.0.1"
    """Address to listen on; 127.0.0.1 is for this machine alone, 0.0.0.0 for all that reach it."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    names: tuple[str, ...] = ()
    """Further names and addresses that browsers may ask this server by."""
    max_mb: float = 500.0
    """Largest file taken."""
    max_minutes: float = 30.0
    """Longest video taken."""
    max_waiting: int = 8
    """Videos that may come or wait, beside the one being judged."""
    timeout_minutes: float = 60.0
    """For which one video may be judged."""
    keep_minutes: float = 30.0
    """For which a video and its curves are kept after they are made."""
    scratch: str | None = None
    """Folder for uploads and results; by default the system's for temporary files."""
    every: float = 5.0
    """Seconds from one window to the next, a multiple of 0.5."""
    batch_size: int = 4
    """Windows at a time."""
    device: Device = "auto"
    """auto is CUDA where there is any, else the CPU."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        fits = 0 < self.every <= MOST and self.every % EVERY_UNIT_S == 0
        require(fits, f"--every {self.every:g}: give a multiple of {EVERY_UNIT_S:g}, in seconds")
        for name in ("batch_size", "max_waiting"):
            require(getattr(self, name) >= 1, f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 or more")
        for name in ("max_mb", "max_minutes", "timeout_minutes", "keep_minutes"):
            fits = 0 < getattr(self, name) <= MOST
            require(fits, f"--{name.replace('_', '-')} {getattr(self, name):g}: give more than 0, {MOST:g} at most")
        for name in self.names:
            fits = asked_by(name) is not None
            require(fits, f"--names {name}: give a name or an address, without http:// and port")
        require(0 <= self.port < 1 << 16, f"--port {self.port}: give one from 0 to 65535")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG)
    if missing := [name for name in ("starlette", "uvicorn", "av") if find_spec(name) is None]:
        raise UserError(f"{missing[0]} is missing: the page needs the extras app and pipeline (EXTRAS=all make setup)")
    with listening(cfg.host, cfg.port) as listener, private_folder(cfg.scratch) as folder:
        stopped_by = asyncio.run(serve(cfg, listener, folder))
    leave(stopped_by, "stopped: all videos and curves are deleted")


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the address, for as long as it is served.

    Raises
    ------
    UserError
        If it is taken, or no address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # the latter of a name that no DNS can have
        raise UserError(f"--host {host} --port {port}: {one_line(error)}; give another --port or --host") from None
    with listener:
        yield listener


async def serve(cfg: Config, listener: socket.socket, folder: Path) -> int:
    """Serve until a signal ends it; return that."""
    import uvicorn

    from trainer.app.connections import AT_ONCE, QUEUED, Connection
    from trainer.app.jobs import Jobs
    from trainer.app.server import App, Limits

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # they are answered here
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listener.listen(QUEUED)  # for asyncio, both numbers are one

    port = listener.getsockname()[1]
    limits = Limits(
        max_bytes=int(cfg.max_mb * 1e6),
        max_s=60 * cfg.max_minutes,
        timeout_s=60 * cfg.timeout_minutes,
        keep_s=60 * cfg.keep_minutes,
    )
    (folder / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(folder / "temporary")}
    settings = {
        "run": cfg.run,
        "runs": cfg.runs,
        "device": cfg.device,
        "precision": cfg.precision,
        "every_s": cfg.every,
        "batch_size": cfg.batch_size,
        "max_s": limits.max_s,
        "keep": str(folder / "network"),
    }
    server: Server | None = None
    caught: list[int] = []
    this = asyncio.current_task()

    def stop(number: int) -> None:
        caught.append(number)
        if server is not None and server.started and not server.should_exit:
            server.should_exit = True
        elif this is not None:
            this.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        async with AsyncExitStack() as stack:
            judge = Child("trainer.app.judge", settings, environment)
            stack.push_async_callback(judge.stop)
            found = await judge.start()
            judge.settings |= {"run": found["run"], "keep": None}
            wanted = {"wanted": found["wanted"], "alone": found["alone"], "max_s": limits.max_s}
            look = Child("trainer.app.look", wanted, environment)
            stack.push_async_callback(look.stop)
            await look.start()
            jobs = Jobs(folder, max_waiting=cfg.max_waiting, keep_s=limits.keep_s)
            cookie = f"visitor-{port}"
            app = App(jobs, look=look, judge=judge, limits=limits, names=names_of(cfg), cookie=cookie)
            server = Server(
                uvicorn.Config(
                    app.asgi,
                    log_level="warning",
                    access_log=False,
                    lifespan="off",
                    ws="none",
                    proxy_headers=False,
                    server_header=False,
                    http=Connection,
                    backlog=AT_ONCE,
                    timeout_graceful_shutdown=GRACE_S,
                )
            )
            working = [asyncio.create_task(jobs.work(app.judge)), asyncio.create_task(jobs.sweep())]
            for task in working:
                stack.callback(task.cancel)
            say(f"run: {found['told']}")
            if not is_loopback(cfg.host):
                names = ", ".join(names_of(cfg))
                warn(f"--host {cfg.host}: whoever reaches this machine may upload, unencrypted; asked by {names} alone")
            say(f"open http://{_in_address(cfg.host)}:{port}/ (Ctrl-C ends it)")
            await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        if not caught:
            raise
    return caught[0]


def is_loopback(host: str) -> bool:
    """Tell whether an address leads to this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_of(cfg: Config) -> list[str]:
    """Return the names that browsers may ask by.

    Any other may be a stranger's that leads here (DNS rebinding).
    """
    names = ["127.0.0.1", "localhost", "[::1]"] if is_loopback(cfg.host) or _is_any(cfg.host) else []
    host = socket.gethostname() if _is_any(cfg.host) else cfg.host
    return list(dict.fromkeys([*names, *(asked_by(name) or name for name in (host, *cfg.names))]))


def asked_by(name: str) -> str | None:
    """Return how browsers write a name or an address, brackets round one of IPv6 or not; None of what is neither."""
    try:
        address = ipaddress.ip_address(name[1:-1] if re.fullmatch(r"\[.*\]", name) else name)
    except ValueError:
        return name.lower() if re.fullmatch(r"[\w.-]+", name) else None
    return None if "%" in name else _in_address(str(address))  # a zone is this machine's own affair


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


if __name__ == "__main__":
    main()
