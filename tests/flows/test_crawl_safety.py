"""The real crawl among hostile titles, marked secrets and forbidden links: what it leaves behind, and where."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from pipeline.schema import sample_key
from tests.catalogue.media import recordings
from tests.catalogue.site import PLUGINS, Catalogue, Video
from tests.flows.command import ROOT, Command, finish

COOKIE = "cookie-mark-5f1e77"
PASSWORD = "password-mark-9a04c2"
BAD = ("\x00", "\x1b", "\x9b", "\x7f", "\r", "\u202e", "\u2066")
FORBIDDEN = ("file:///etc/hostname", "ftp://127.0.0.1/a.mp4", "javascript://x/%0aalert(1)")
TRAP = "import os, pathlib; pathlib.Path(os.environ['TRAP_MARK']).touch()\n"


class Upstream:
    """The user's own proxy: it wants a password, and passes plain requests on."""

    def __init__(self) -> None:
        wanted = "Basic " + base64.b64encode(f"crawler:{PASSWORD}".encode()).decode()
        self.passed: list[str] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                if self.headers.get("Proxy-Authorization") != wanted:
                    self.send_error(407)
                    return
                upstream.passed.append(self.path)
                parts = urlsplit(self.path)
                kept = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy-")}
                with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as site:
                    site.request("GET", parts._replace(scheme="", netloc="").geturl(), headers=kept)
                    answer = site.getresponse()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        self.send_header(name, value)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while piece := answer.read1(1 << 16):
                            self.wfile.write(piece)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://crawler:{PASSWORD}@127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def processes_of(session: int) -> Iterator[tuple[bytes, bytes]]:
    """Command line and environment of each process of a session."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if folder.name.isdecimal() and os.getsid(int(folder.name)) == session:
                yield (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()


def holding(mark: str, *folders: Path) -> list[Path]:
    """Files that hold a mark, in their names or bytes."""
    files = [path for folder in folders for path in folder.rglob("*")]
    return [p for p in files if mark in str(p) or (p.is_file() and mark.encode() in p.read_bytes())]


def trapped(folder: Path) -> dict[str, str]:
    """Environment of a machine on which a yt-dlp plugin is installed that leaves a mark when it is imported."""
    plugin = folder / "installed/yt_dlp_plugins/extractor/trap.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(TRAP)
    return {"PYTHONPATH": str(folder / "installed"), "TRAP_MARK": str(folder / "trapped")}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One crawl of a site that wants a cookie, by a proxy that wants a password, of videos with names like weapons."""
    folder = tmp_path_factory.mktemp("safety")
    made = recordings(tmp_path_factory.getbasetemp().parent / "catalogue-media", 3)
    shell = f'$(touch {folder}/pwned); touch {folder}/pwned | "`touch {folder}/pwned`"'
    texts = {
        "climber": f"../../../../etc/passwd\x00\x1b[31m {shell}",
        "mirror": "safe\u202egpj.exe\u2066" + "x" * 10_000,
        "lines": "one\r\ntwo\x9b31m\x7f\ttab \U0001f600 % %s {} <script>alert(1)</script>",
    }
    videos = [
        Video(id=name, recording=recording, title=text, uploader=text, licence=text, listed_duration=True)
        for recording, (name, text) in zip(made, texts.items(), strict=True)
    ]
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    cookies = folder / "cookies.txt"
    cookies.write_text(f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t2000000000\tsession\t{COOKIE}\n")
    os.utime(cookies, ns=(1_000_000_000, 1_000_000_000))
    before = cookies.read_bytes()
    guarded = ("watch", "page", "media")
    with (
        Catalogue(videos, searches={"song": list(texts)}, cookie=f"session={COOKIE}", guarded=guarded) as site,
        Upstream() as upstream,
    ):
        (folder / "links.txt").write_text("\n".join(FORBIDDEN))
        words = [
            "--source",
            "search:song",
            "--source",
            str(folder / "links.txt"),
            "--search-prefix",
            "catsearch",
            "--plugins",
            str(PLUGINS),
        ]
        words += ["--allow-private", "--sleep-s", "0", "0", "--workers", "1", "--cookies", str(cookies)]
        words += ["--store", str(folder / "store"), "--filters", "off"]  # test pictures and tones are no music videos
        environment = site.environment | trapped(folder) | {"CRAWL_PROXY": upstream.url}
        environment |= {name: str(folder / "tmp") for name in ("TMPDIR", "XDG_CACHE_HOME")}
        environment |= {"HOME": str(folder / "home")}
        running = Command(*words, "--out", str(folder / "set"), **environment)
        seen: set[tuple[bytes, bytes]] = set()
        while running.process.poll() is None:
            seen.update(processes_of(running.process.pid))
            time.sleep(0.02)
        code, text, err = running.finish()
        # Another seed means other clips: their links and titles are shown on the terminal.
        shown = finish(*words, "--seed", "1", "--dry-run", "--out", str(folder / "other"), **environment)
        requests, passed = site.requests, upstream.passed
    assert code == 0, err
    assert shown[0] == 0, shown
    return SimpleNamespace(
        folder=folder, cookies=(cookies, before), seen=seen, told=(text, err, *shown[1:]), text=text,
        rows={row["source_id"].removeprefix("catalogue:"): row for row in rows_of(folder / "set")},
        requests=requests, passed=passed,
    )  # fmt: skip


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "index.parquet").to_pylist()


def test_with_the_cookie_and_through_the_proxy_the_clips_are_fetched(crawled: SimpleNamespace) -> None:
    assert crawled.text == "3 kept, 3 rejected, 0 failed; unsupported-link 3\n"
    guarded = [request for request in crawled.requests if request.room in ("watch", "media")]
    assert len(guarded) >= 6
    assert all(COOKIE in request.headers["cookie"] for request in guarded)
    assert len(crawled.passed) == len(crawled.requests)


def test_neither_cookie_nor_password_stands_in_a_command_line(crawled: SimpleNamespace) -> None:
    lines = {line for line, _ in crawled.seen}
    sections = [line for line in lines if b"ffmpeg" in line.split(b"\0")[0] and b"relay.invalid" in line]
    assert sections  # they were looked at while they ran
    assert not [line for line in lines if COOKIE.encode() in line or PASSWORD.encode() in line]
    assert not [line for line, environ in crawled.seen if COOKIE.encode() in environ]


def test_neither_cookie_nor_password_is_left_in_a_file_or_shown(crawled: SimpleNamespace) -> None:
    prefect = Path(os.environ["PREFECT_HOME"])
    assert (prefect / "prefect.db").stat().st_size > 100_000
    folders = [prefect, *(crawled.folder / name for name in ("set", "store", "tmp", "home"))]
    for mark in (COOKIE, PASSWORD, base64.b64encode(f"crawler:{PASSWORD}".encode()).decode()):
        assert holding(mark, *folders) == []
        assert not [text for text in crawled.told if mark in text]


def test_the_cookies_file_is_left_as_it_was(crawled: SimpleNamespace) -> None:
    file, before = crawled.cookies
    assert file.read_bytes() == before
    assert file.stat().st_mtime_ns == 1_000_000_000


def test_names_like_weapons_become_harmless_lines(crawled: SimpleNamespace) -> None:
    for row in (crawled.rows[name] for name in ("climber", "mirror", "lines")):
        for name in ("title", "uploader", "licence"):
            assert row[name].isprintable()
            assert 0 < len(row[name]) <= 500
        assert row["key"] == sample_key(
            title=row["title"], source_id=row["source_id"], start_ms=round(row["start_s"] * 1000)
        )
    assert crawled.rows["climber"]["title"].startswith("../../../../etc/passwd [31m $(touch ")
    assert crawled.rows["lines"]["title"].startswith("one two 31m tab \U0001f600 % %s {} <script>")


def test_nothing_is_written_beside_the_set_and_the_store(crawled: SimpleNamespace) -> None:
    wanted = {"home", "tmp", "cookies.txt", "links.txt", "installed", "set", "store"}
    assert {path.name for path in crawled.folder.iterdir()} <= wanted
    assert [path for path in (crawled.folder / "home").rglob("*") if path.is_file()] == []
    clips = {row["sha256"] for row in crawled.rows.values() if row["sha256"]}
    assert {path.stem for path in (crawled.folder / "store/clips").rglob("*.*")} == clips
    assert list((crawled.folder / "store/fetching").iterdir()) == []


def test_what_is_shown_holds_no_control_characters(crawled: SimpleNamespace) -> None:
    shown = "".join(crawled.told)
    assert "/etc/passwd" in shown
    assert not [char for char in BAD if char in shown]


def test_plugins_that_are_installed_are_not_loaded_beside_the_folder_that_is_named(crawled: SimpleNamespace) -> None:
    assert not (crawled.folder / "trapped").exists()


@pytest.mark.parametrize("plugins", [None, "default"])
def test_plugins_that_are_installed_are_loaded_where_that_is_asked_for_alone(
    tmp_path: Path, plugins: str | None
) -> None:
    script = f"from pipeline.crawl import Access, in_session; in_session(Access(plugins={plugins!r}), 'identify', [])"
    environment = {name: value for name, value in os.environ.items() if name != "YTDLP_NO_PLUGINS"}
    environment |= trapped(tmp_path)
    environment["PYTHONPATH"] += f":{ROOT}"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert (tmp_path / "trapped").exists() == (plugins is not None)


def test_links_of_other_schemes_are_not_fetched(crawled: SimpleNamespace) -> None:
    for link in FORBIDDEN:
        row = crawled.rows[link]
        assert (row["code"], row["detail"]) == ("unsupported-link", "only http and https links are fetched")


@pytest.mark.slow  # the same is quickly tried in tests/pipeline/test_crawl.py, without the command
def test_private_links_in_a_list_are_told_as_such_and_nothing_connects(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
        private = {
            f"http://127.0.0.1:{port}/a.mp4": "127.0.0.1 is a private address",
            f"http://localhost:{port}/a.mp4": "(localhost) is a private address",
            f"http://[::1]:{port}/a.mp4": "::1 is a private address",
            "http://10.0.0.1/a.mp4": "10.0.0.1 is a private address",
            "http://169.254.169.254/latest/meta-data/": "169.254.169.254 is a private address",
            "http://127.0.0.1:22/": "127.0.0.1 at port 22 is no web site",
        }
        (tmp_path / "links.txt").write_text("\n".join(private))
        words = ["--source", str(tmp_path / "links.txt"), "--out", str(tmp_path / "set"), "--sleep-s", "0", "0"]
        words += ["--filters", "off"]
        environment = trapped(tmp_path) | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        code, text, err = finish(*words, "--store", str(tmp_path / "store"), **environment)
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            here.accept()
    assert (code, text) == (1, "0 kept, 6 rejected, 0 failed; unsupported-link 6\n"), err
    rows = {row["link"]: row for row in rows_of(tmp_path / "set")}
    for link, detail in private.items():
        assert rows[link]["detail"].endswith(f"{detail}; --allow-private lets such links pass")
    assert not (tmp_path / "trapped").exists()
