"""The page as visitors meet it: a real server process, real HTTP, a real browser, and what strangers may send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pages import chromium
from tests.waiting import PATIENCE_S, wait_until
from trainer import devices, predict, videos
from trainer.app import __main__ as app
from trainer.app import children
from trainer.app.children import Child, NotStartedError
from trainer.app.jobs import Jobs
from trainer.app.judge import keep
from trainer.app.rooms import private_folder
from trainer.app.server import DOWNLOADS, PLAYED, App, Limits
from trainer.app.uploads import MAX_TITLE_CHARS, title_of
from trainer.errors import UserError
from trainer.trained import open_trained

ROOT = Path(__file__).resolve().parents[2]
OCTETS = {"Content-Type": "application/octet-stream"}
MAX_BYTES = 4_000_000


# --- a server ----------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """A server process that is up."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @contextlib.contextmanager
    def visitor(self) -> Iterator[httpx.Client]:
        """A browser of its own: it has opened the first page."""
        headers = {"Origin": self.url}
        with httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, trust_env=False) as client:
            assert client.get("/").status_code == 200
            yield client

    def child(self, module: str) -> int | None:
        """Process id of the child that runs a module."""
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if module in Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
        return None

    @contextlib.contextmanager
    def standing_still(self, module: str = "trainer.app.judge") -> Iterator[int]:
        """Stop a child where it is, by default the one that judges."""
        pid = self.child(module)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def serving(run: Path, folder: Path, flag: str = "run", **changes: object) -> Iterator[Served]:
    folder.mkdir(exist_ok=True)
    log = folder / "log.txt"
    flags = {flag: run, "port": 0, "scratch": folder / "scratch", "max_mb": MAX_BYTES / 1e6, "every": 10}
    flags |= {"max_minutes": 2, "max_waiting": 3} | changes
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "trainer.app", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said, text=True)
    try:
        found = wait_until(lambda: re.search(r"^open (http://\S+)/ ", log.read_text(), re.MULTILINE) or process.poll())
        assert isinstance(found, re.Match), log.read_text()
        yield Served(process=process, url=found[1], log=log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE_S)


def send(client: httpx.Client, content: Any, name: str = "a song.mp4", **changes: Any) -> httpx.Response:
    return client.post("/jobs", params={"name": name}, content=content, headers=OCTETS | changes)


def uploaded(client: httpx.Client, path: Path, name: str = "a song.mp4") -> str:
    answer = send(client, path.read_bytes(), name)
    assert answer.status_code == 201, answer.text
    return answer.json()["address"]


def state(client: httpx.Client, address: str) -> str:
    return client.get(f"{address}status").json()["state"]


def ended(client: httpx.Client, address: str) -> dict[str, Any]:
    wait_until(lambda: state(client, address) in ("done", "failed"))
    return client.get(f"{address}status").json()


def kept(served: Served) -> list[Path]:
    """Files of uploads and results that lie on the disk."""
    (root,) = (served.log.parent / "scratch").iterdir()
    jobs = root.glob("server-*/[0-9]*")
    # A walk passes over what the server deletes meanwhile, where a glob would stop.
    return sorted(Path(folder, name) for job in jobs for folder, _, names in os.walk(job) for name in names)


@pytest.fixture(scope="module")
def film(tmp_path_factory, make_media):
    picture, sound = "testsrc2=size=160x90:rate=12,hue=h=30*t", "aevalsrc='0.4*sin(2*PI*(200+20*t)*t)':s=44100"
    folder = tmp_path_factory.mktemp("film")
    return make_media(
        folder / "a song.mp4", picture=picture, sound=sound, seconds=41, extra=("-movflags", "+faststart")
    )


@pytest.fixture(scope="module")
def server(runs, tmp_path_factory):
    with serving(runs / "finetuned", tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture(scope="module")
def visitor(server):
    with server.visitor() as client:
        yield client


@pytest.fixture(scope="module")
def done(visitor, film):
    """Address of a video that has been judged, of ``visitor``."""
    address = uploaded(visitor, film)
    assert ended(visitor, address)["state"] == "done"
    return address


# --- what it is for ----------------------------------------------------------------------------------------------


def test_in_a_browser_a_video_goes_in_and_the_curves_that_predict_gives_come_out(server, film, runs, tmp_path):
    predict.main([str(film), "--run", str(runs / "finetuned"), "--every", "10", "--out", str(tmp_path / "out")])
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        dropped = page.evaluate_handle(
            "() => { const data = new DataTransfer(); data.items.add(new File(['words'], 'a<b>.mp4')); return data; }"
        )
        page.dispatch_event("#upload", "drop", {"dataTransfer": dropped})
        page.get_by_text("no known container opens it").wait_for(timeout=PATIENCE_S * 1000)
        page.set_input_files("#file", film)
        page.wait_for_url("**/jobs/*/", timeout=PATIENCE_S * 1000)
        page.wait_for_selector(".made", timeout=PATIENCE_S * 1000)
        assert page.title() == "a song: emotion over time"
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        shows_curve(page)
        with page.expect_download() as download:
            page.get_by_role("link", name="curve.csv").first.click()
        assert Path(download.value.path()).read_bytes() == (tmp_path / "out" / "curve.csv").read_bytes()
        address = page.url
        page.get_by_role("button", name="Delete").click()
        page.wait_for_url(server.url + "/")
        assert page.goto(address).status == 404
        assert "deleted" in page.inner_text("main")
        assert [line for line in said if "404" not in line and "415" not in line] == []
        assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []


def test_in_a_browser_an_upload_outlasts_what_else_is_dropped_and_ends_on_cancel(server, film, hostile):
    with chromium() as browser:
        page = browser.new_page()
        broken: list[str] = []
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(server.url)
        (cookie,) = page.context.cookies()
        headers = {"Origin": server.url, "Cookie": f"{cookie['name']}={cookie['value']}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE_S, trust_env=False) as client:
            meanwhile = send(client, hostile["short"], "meanwhile.mp4").json()["address"]
            assert ended(client, meanwhile)["state"] == "failed"
            before = server.log.read_text().count("not taken")
            with server.standing_still("trainer.app.look"):
                page.set_input_files("#file", film)
                page.get_by_text("Looking into the file.").wait_for(timeout=PATIENCE_S * 1000)
                for count in (2, 1):
                    dropped = page.evaluate_handle(
                        f"() => {{ const data = new DataTransfer(); for (let i = 0; i < {count}; i++) "
                        "data.items.add(new File(['words'], `${i}.mp4`)); return data; }"
                    )
                    page.dispatch_event("#upload", "drop", {"dataTransfer": dropped})
                assert page.inner_text("#told") == "Looking into the file."
                page.get_by_role("button", name="Cancel").click()
                page.get_by_text("Cancelled.").wait_for(timeout=PATIENCE_S * 1000)
                page.get_by_role("link", name="meanwhile").wait_for(timeout=PATIENCE_S * 1000)
            wait_until(lambda: server.log.read_text().count("not taken") > before)
            assert re.findall(r"/jobs/[^/]+/", client.get("/").text) == [meanwhile]
            assert client.post(f"{meanwhile}delete").status_code == 303
        assert broken == []


def shows_curve(page: Any) -> None:
    """The player, a page within the page: it plays the video, and its chart has a line an emotion."""
    player = page.frame_locator("iframe")
    player.locator("#plot path.line").first.wait_for(timeout=PATIENCE_S * 1000)
    assert player.locator("#plot path.line:not(.held)").count() == 3
    assert player.locator("#video").evaluate("video => video.play().then(() => video.error)") is None
    assert player.locator("#video").evaluate("video => video.duration") == pytest.approx(41, abs=0.5)
    assert player.locator("body").evaluate("body => body.scrollWidth <= innerWidth")


def test_two_visitors_take_turns_and_see_their_own_alone(server, film):
    with server.visitor() as one, server.visitor() as other:
        with server.standing_still():
            first = uploaded(one, film, "morning.mp4")
            wait_until(lambda: state(one, first) == "judging")
            second, third = uploaded(other, film, "noon.mp4"), uploaded(one, film, "evening.mp4")
            assert other.get(f"{second}status").json()["says"] == "Waiting: 1 video before this one."
            assert one.get(f"{third}status").json()["says"] == "Waiting: 2 videos before this one."
            for path in (first, f"{first}status", f"{first}curve.csv"):
                assert other.get(path).status_code == 404
            assert other.post(f"{first}delete").status_code == 404
            assert "morning" in one.get("/").text
            assert "noon" not in one.get("/").text
            fourth = uploaded(other, film)
            full = send(one, film.read_bytes())
            assert full.status_code == 503
            assert "waiting already" in full.json()["line"]
            for address, client in ((third, one), (fourth, other)):
                assert client.post(f"{address}delete").status_code == 303
        for address, client in ((first, one), (second, other)):
            assert ended(client, address)["state"] == "done"
            assert client.get(f"{address}curve.csv").status_code == 200
        assert other.get(f"{first}curve.csv").status_code == 404
        assert httpx.get(f"{server.url}{first}curve.csv", trust_env=False).status_code == 404


def test_results_are_sent_by_their_names_in_ranges_and_never_kept_by_others(server, visitor, done):
    whole = visitor.get(f"{done}curve.json")
    assert whole.json()["source"] == whole.json()["title"] == "a song"
    assert str(server.log.parent) not in whole.text
    part = visitor.get(f"{done}curve.json", headers={"Range": "bytes=5-14"})
    assert (part.status_code, part.content) == (206, whole.content[5:15])
    assert visitor.get(f"{done}curve.json", headers={"Range": "bytes=99999999-"}).status_code == 416
    for path in ("/", done, *(f"{done}{name}" for name in DOWNLOADS)):
        headers = visitor.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
    with httpx.Client(base_url=str(visitor.base_url), trust_env=False) as new:
        cookie = new.get("/").headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))


# --- hostile uploads and names -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, film, make_media):
    """Files that are not what they seem, by what they are."""
    folder = tmp_path_factory.mktemp("hostile")
    secret = folder / "secret.txt"
    secret.write_text("the server's own words")
    plain = ("-c:v", "rawvideo", "-c:a", "pcm_s16le")  # whose bytes do not tell the size once more
    slow, low = "color=size=16x16:rate=1", "sine=sample_rate=8000"
    untold = ("-live", "1")  # Matroska that does not say how long it is
    huge = bytearray(make_media(folder / "small.avi", seconds=1, extra=plain).read_bytes())
    for at in (huge.index(b"avih") + 40, huge.index(b"strf") + 12):  # width and height in both headers
        huge[at : at + 8] = (16_000).to_bytes(4, "little") * 2
    return {
        "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode(),
        "ffconcat": f"ffconcat version 1.0\nfile '{film}'\n".encode(),
        "subtitles": b"1\n00:00:00,000 --> 00:00:30,000\n<script>alert(1)</script>\n",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
        "zip": b"PK\x03\x04" + bytes(range(256)) * 40,
        "random": bytes((i * 7919 >> 3) & 255 for i in range(50_000)),
        "huge picture": bytes(huge),
        "long": make_media(folder / "long.mp4", picture=slow, seconds=150).read_bytes(),
        "endless": make_media(folder / "endless.mkv", picture=slow, sound=low, seconds=150, extra=untold).read_bytes(),
        "uneven": make_media(
            folder / "uneven.mkv", picture=slow, sound=f"{low}:duration=31", seconds=150, extra=untold
        ).read_bytes(),
        "head alone": film.read_bytes()[:200],
        "short": make_media(folder / "short.mp4", seconds=5).read_bytes(),
        "mute": make_media(folder / "mute.mp4", sound=None, seconds=30).read_bytes(),
    }


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("playlist", 415, "No known container"),
        ("ffconcat", 415, "No known container"),
        ("subtitles", 415, "No known container"),
        ("picture", 415, "The file|No known container"),
        ("zip", 415, "No known container"),
        ("random", 415, "The file|No known container"),
        ("huge picture", 415, "16000 x 16000 pixels a frame"),
        ("long", 422, "longer than the 2 minutes that are taken here"),
        ("endless", 422, "longer than the 2 minutes that are taken here"),
        ("uneven", 422, "longer than the 2 minutes that are taken here"),
        ("head alone", 415, "neither sound nor"),
        ("mute", 415, "has no sound"),
    ],
)
def test_a_file_that_is_no_video_is_refused_in_one_line_and_nothing_of_it_stays(
    server, visitor, hostile, what, status, words
):
    before = kept(server)
    answer = send(visitor, hostile[what], "a song.mp4")
    assert answer.status_code == status, answer.text
    line = answer.json()["line"]
    assert re.search(words, line, re.IGNORECASE)
    assert "\n" not in line
    assert "scratch" not in line
    assert "secret" not in line
    assert kept(server) == before
    assert "Traceback" not in server.log.read_text()


def test_a_video_that_turns_out_too_short_is_told_on_its_page(visitor, hostile):
    address = send(visitor, hostile["short"]).json()["address"]
    found = ended(visitor, address)
    assert found["state"] == "failed"
    assert "25 s are needed" in found["says"]
    assert found["says"] in visitor.get(address).text
    assert visitor.get(f"{address}curve.csv").status_code == 404


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({}, b"", 400),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--y\r\n\r\nno such boundary", 415),
        ({"Content-Type": ""}, b"words", 415),
        ({"Content-Length": "4000001"}, b"a" * 4_000_001, 413),
    ],
)
def test_a_body_that_is_no_file_is_refused(server, visitor, headers, content, status):
    before = kept(server)
    answer = send(visitor, content, **headers)
    assert answer.status_code == status
    assert answer.json()["line"].endswith(".")
    assert kept(server) == before


def test_a_body_that_does_not_tell_its_length_is_cut_off_where_the_limit_is(server, visitor):
    before = kept(server)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(MAX_BYTES // 100_000 + 20):
            sent += 100_000
            yield bytes(100_000)

    assert send(visitor, endless()).status_code == 413
    assert kept(server) == before


@contextlib.contextmanager
def sending(server: Served, visitor: httpx.Client, *, length: int) -> Iterator[socket.socket]:
    """An upload of which the head has been sent."""
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    head = (
        f"POST /jobs?name=x HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: {server.url}\r\nCookie: {cookies}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(head.encode())
        yield raw


def test_an_upload_that_breaks_off_leaves_nothing(server, visitor):
    before = kept(server)
    with sending(server, visitor, length=3_000_000) as raw:
        raw.sendall(bytes(200_000))
        wait_until(lambda: len(kept(server)) > len(before))
    wait_until(lambda: kept(server) == before)


def test_an_upload_that_is_given_up_once_all_of_it_was_sent_is_not_judged(server, visitor, film):
    before, said, size = kept(server), server.log.read_text(), film.stat().st_size
    for count in range(1, 11):  # in whatever pieces it comes
        with server.standing_still("trainer.app.look"):
            with sending(server, visitor, length=size) as raw:
                wait_until(lambda: len(kept(server)) > len(before))
                raw.sendall(film.read_bytes())
                wait_until(lambda: any(path.stat().st_size == size for path in {*kept(server)} - {*before}))
        wait_until(
            lambda count=count: len(re.findall("not taken|before it", server.log.read_text()[len(said) :])) == count
        )
        assert "before it" not in server.log.read_text()[len(said) :]
    wait_until(lambda: kept(server) == before)


def test_where_nothing_can_be_kept_an_upload_is_refused_in_a_line(server, visitor, film):
    (folder,) = (server.log.parent / "scratch").glob("*/server-*")
    away = folder.rename(folder.with_name("away"))
    try:
        answer = send(visitor, film.read_bytes())
    finally:
        away.rename(folder)
    assert answer.status_code == 507
    assert answer.json()["line"] == "The server cannot keep files now; try again later."
    assert "warning: an upload: nothing can be written: " in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_disk_that_is_too_full_is_told_as_one(tmp_path, capsys):
    async def refused() -> httpx.Response:
        limits = Limits(max_bytes=10**18, max_s=1, timeout_s=1, keep_s=1)
        jobs, idle = Jobs(tmp_path, max_waiting=1, keep_s=1), Child("nobody", {}, {})
        page = App(jobs, look=idle, judge=idle, limits=limits, names=["here"], cookie="visitor")
        transport = httpx.ASGITransport(page.asgi)
        headers = {"Origin": "http://here"}
        async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client:
            await client.get("/")
            return await client.post("/jobs?name=x", content=b"words", headers=OCTETS)

    answer = asyncio.run(refused())
    assert answer.status_code == 507
    assert answer.json()["line"] == "The server has no room now; try again later."
    assert "upload 1: the disk is full: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_idle_connections_shut_nobody_out(server, visitor):
    files = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, files[1]))
        stack.callback(resource.prlimit, server.process.pid, resource.RLIMIT_NOFILE, files)
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(400)]
        # On a connection of its own: one that is kept may be the longest idle, and browsers ask again where it ended.
        assert httpx.get(server.url, cookies=visitor.cookies, timeout=PATIENCE_S, trust_env=False).status_code == 200
        with server.visitor() as other:
            assert other.get("/").status_code == 200
        for raw in idle[:300]:
            raw.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionError):
                assert raw.recv(1) == b""
    assert "Traceback" not in server.log.read_text()


def test_a_child_that_hangs_while_it_starts_anew_is_stopped_and_the_queue_goes_on(tmp_path, monkeypatch):
    (tmp_path / "hanging.py").write_text("import time\n\ntime.sleep(3600)\n")
    monkeypatch.setattr(children, "START_S", 0.5)

    async def told() -> str:
        child = Child("hanging", {}, {"PYTHONPATH": str(tmp_path)})
        with pytest.raises(NotStartedError) as found:
            await child.ask({}, timeout_s=PATIENCE_S)
        return str(found.value)

    assert asyncio.run(told()) == "hanging was not ready within 0.5 seconds"


def test_what_stands_in_the_server_again_is_what_its_children_have():
    assert (app.Device, app.Precision) == (devices.Device, devices.Precision)
    assert app.EVERY_UNIT_S == videos.EVERY_UNIT_S
    assert PLAYED == videos.MIMES


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows\\system32\\x.mp4",
    "nul\x00byte.mp4",
    "a" * 5000 + ".mp4",
    "<script>document.title='broken'</script>.mp4",
    '" onmouseover="alert(1)',
    "\u202egpj.exe\u2066",
    "a\r\nSet-Cookie: x=y.mp4",
    "{{ 7*7 }} $(id) `id` ;|&.mp4",
    "",
    ".",
    "CON",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_title_and_no_more(name):
    title = title_of(name)
    assert 0 < len(title) <= MAX_TITLE_CHARS
    assert title.isprintable()
    assert not set(title) & set("/\\\r\n\0\u202e\u2066")
    assert title not in (".", "..")


@settings(max_examples=50)
@given(st.text())
def test_any_text_makes_a_title_that_stays_as_it_is(name):
    title = title_of(name)
    assert 0 < len(title) <= MAX_TITLE_CHARS
    assert title.isprintable()
    assert not set(title) & set("/\\")


def test_hostile_names_are_shown_as_text_and_name_no_file(server, film):
    with server.visitor() as client:
        with server.standing_still():
            first = uploaded(client, film)
            wait_until(lambda: state(client, first) == "judging")
            for name in (NAMES[0], NAMES[3], NAMES[5]):
                address = uploaded(client, film, name)
                assert "<script>document" not in client.get(address).text
                assert {path.name for path in kept(server)} <= {"the file", *DOWNLOADS, "player.html", "player.mp4"}
                assert client.post(f"{address}delete").status_code == 303
        assert ended(client, first)["state"] == "done"


# --- attacks on the address --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tricky",
    [
        *("..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/lock", "../../../../etc/passwd", "..%5c..%5clock", "%00"),
        *(
            "the%20file",
            "../the%20file",
            "results/curve.csv",
            "curve.csv/..",
            "CURVE.CSV",
            "player.exe",
            "/etc/passwd",
            ".unfinished",
        ),
    ],
)
def test_no_path_leads_out_of_a_videos_results(server, visitor, done, tricky):
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    head = f"GET {done}{tricky} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {cookies}\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as raw:
        raw.sendall(f"{head}\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(1 << 16), b""))
    assert answer.split()[1] == b"404", answer[:300]
    assert b"root:" not in answer


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "localhost@evil.example"])
def test_a_name_that_is_not_the_servers_gets_nothing(visitor, done, host):
    for path in ("/", done):
        assert visitor.get(path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", "", None])
def test_another_page_can_neither_upload_nor_delete(server, visitor, film, done, origin):
    before = kept(server)
    with httpx.Client(base_url=server.url, cookies=visitor.cookies, trust_env=False) as client:
        headers = {} if origin is None else {"Origin": origin}
        for path in ("/jobs?name=x", f"{done}delete"):
            assert client.post(path, content=b"x" * 100, headers=OCTETS | headers).status_code == 403
    assert visitor.get(done).status_code == 200
    assert kept(server) == before


def test_who_has_not_opened_the_page_or_makes_up_a_cookie_has_nothing(server, done):
    for cookies in ({}, {f"visitor-{server.port}": "a" * 43}, {f"visitor-{server.port}": "../../x"}):
        with httpx.Client(base_url=server.url, headers={"Origin": server.url}, trust_env=False) as client:
            client.cookies.update(cookies)
            assert client.get(done).status_code == 404
            assert client.get("/jobs/..%2f/status").status_code == 404


def test_an_id_of_another_server_is_known_as_such(visitor):
    answer = visitor.get("/jobs/00000000-" + "a" * 32 + "/", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert "The server was restarted" in answer.text
    assert "no such video" in visitor.get("/jobs/" + "a" * 32 + "/").json()["line"]


# --- beginning and end -------------------------------------------------------------------------------------------


def test_a_folder_of_a_killed_server_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    with private_folder(str(tmp_path)) as living:
        assert living.stat().st_mode & 0o777 == 0o700
        assert living.parent.stat().st_mode & 0o777 == 0o700
        left = living.parent / "server-killed"
        left.mkdir()
        (left / "lock").touch()
        (left / "1").mkdir()
        with private_folder(str(tmp_path)) as other:
            assert other != living
            assert not left.exists()
            assert living.exists()
        assert not other.exists()
    assert not living.exists()


def test_a_folder_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / f"music-video-emotion-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(UserError, match="not a folder of yours alone"), private_folder(str(tmp_path)):
        pass


def test_a_link_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"music-video-emotion-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not a folder of yours alone"), private_folder(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--every", "0.3"], "--every 0.3: give a multiple of 0.5"),
        (["--max-mb", "0"], "--max-mb 0: give more than 0"),
        (["--max-mb", "inf"], "--max-mb inf: give more than 0"),
        (["--max-minutes", "inf"], "--max-minutes inf: give more than 0"),
        (["--timeout-minutes", "nan"], "--timeout-minutes nan: give more than 0"),
        (["--keep-minutes", "1e308"], "--keep-minutes 1e+308: give more than 0, 1e+09 at most"),
        (["--every", "inf"], "--every inf: give a multiple of 0.5"),
        (["--max-waiting", "0"], "--max-waiting 0: give 1 or more"),
        (["--port", "70000"], "--port 70000"),
        (["--names", "http://a.example"], "without http:// and port"),
        (["--names", "*"], "--names *: give a name"),
        (["--names", "fe80::1%eth0"], "--names fe80::1%eth0: give a name"),
        (["--host", "a..b"], "--host a..b --port 7860"),
        (["--host", "a" * 64], f"--host {'a' * 64} --port 7860"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 7860"),
    ],
)
def test_a_mistake_gets_one_line(words, line, refused):
    assert line in refused(app.main, *words)


def test_a_port_that_is_taken_gets_one_line(server, refused):
    assert "give another --port" in refused(app.main, "--port", server.port)


def test_a_machine_without_the_extra_is_told_so(refused, monkeypatch):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert "EXTRAS=all make setup" in refused(app.main)


def test_only_loopback_names_are_known_unless_told_otherwise():
    assert app.names_of(app.Config()) == ["127.0.0.1", "localhost", "[::1]"]
    assert app.names_of(app.Config(host="192.0.2.7", names=("a.example",))) == ["192.0.2.7", "a.example"]
    others = app.Config(host="2001:DB8:0::7", names=("2001:db8::5", "[2001:DB8:0::6]", "A.example", "192.0.2.9"))
    assert app.names_of(others) == [
        *("[2001:db8::7]", "[2001:db8::5]", "[2001:db8::6]", "a.example", "192.0.2.9"),
    ]
    assert not app.is_loopback("0.0.0.0")
    assert not app.is_loopback("example.org")


def test_a_network_is_kept_as_it_was_when_its_run_goes_on_or_is_gone(runs, tmp_path):
    run = shutil.copytree(runs / "finetuned", tmp_path / "runs" / "mine")
    before = open_trained(run)
    copy = keep(before, tmp_path / "kept")
    assert copy.name == "mine"
    best = before.checkpoint.rename(before.checkpoint.with_name("best-00000099"))
    assert open_trained(copy).checkpoint.name == before.checkpoint.name != best.name
    shutil.rmtree(run)
    after = open_trained(copy)
    for name, tensor in before.classifier.state_dict().items():
        assert torch.equal(tensor, after.classifier.state_dict()[name])
    assert (after.config, after.state) == (before.config, before.state)
    with pytest.raises(UserError, match="cannot be copied to --scratch"):
        keep(before, tmp_path / "again")


@pytest.mark.slow
def test_a_judge_that_is_started_anew_judges_by_the_network_that_was_announced(runs, film, tmp_path):
    mine = shutil.copytree(runs / "finetuned", tmp_path / "runs" / "mine")
    with serving(tmp_path / "runs", tmp_path / "server", flag="runs") as served, served.visitor() as client:
        first = uploaded(client, film)
        assert ended(client, first)["state"] == "done"
        newer = shutil.copytree(mine, tmp_path / "runs" / "newer")
        config = json.loads((newer / "config.json").read_text())
        (newer / "config.json").write_text(json.dumps(config | {"created": "2999-01-01T00:00:00.000+00:00"}))
        shutil.rmtree(mine)
        with served.standing_still() as killed:
            os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{killed}").exists())
        second = uploaded(client, film)
        assert ended(client, second)["state"] == "done"
        curves = [client.get(f"{address}curve.json").json() for address in (first, second)]
        assert curves[0]["run"] == curves[1]["run"] == "mine"
        assert curves[0]["scores"] == curves[1]["scores"]

        (kept_run,) = (tmp_path / "server" / "scratch").glob("*/server-*/network/mine")
        shutil.rmtree(kept_run)
        with served.standing_still() as killed:
            os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{killed}").exists())
        third = uploaded(client, film)
        assert ended(client, third)["says"] == "The server cannot judge videos now; try again later."
        assert "warning: video 3: the judging process does not start: " in served.log.read_text()
        assert "there is no such run folder" in served.log.read_text()


@pytest.mark.slow
def test_a_run_that_cannot_be_used_ends_the_server_in_one_line(runs, tmp_path, refused):
    line = refused(app.main, "--run", runs / "pretrained", "--port", 0, "--scratch", tmp_path)
    assert "a finetune run is needed here" in line
    assert list(tmp_path.glob("*/server-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_a_video_being_judged_and_leaves_nothing(runs, film, tmp_path, number):
    with serving(runs / "finetuned", tmp_path, every=0.5) as served, served.visitor() as client:
        address = uploaded(client, film)
        wait_until(lambda: state(client, address) == "judging")
        pids = [served.child(f"trainer.app.{name}") for name in ("judge", "look")]
        assert served.stop(number) == 128 + number
        assert "stopped: all videos and curves are deleted" in served.log.read_text()
        assert list((tmp_path / "scratch").glob("*/server-*")) == []
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
def test_after_a_kill_in_mid_job_the_next_server_deletes_and_says_so(runs, film, tmp_path):
    with serving(runs / "finetuned", tmp_path, every=0.5) as killed, chromium() as browser:
        page = browser.new_page()
        page.goto(killed.url)
        with killed.standing_still():
            page.set_input_files("#file", film)
            page.wait_for_url("**/jobs/*/", timeout=PATIENCE_S * 1000)  # and its script has come
            page.wait_for_selector("#job", timeout=PATIENCE_S * 1000)
            pids = [killed.child(f"trainer.app.{name}") for name in ("judge", "look")]
            killed.stop(signal.SIGKILL)
        page.wait_for_selector("text=The server does not answer", timeout=PATIENCE_S * 1000)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        (left,) = (tmp_path / "scratch").glob("*/server-*")
        with serving(runs / "finetuned", tmp_path, port=killed.port) as served:
            assert not left.exists()
            page.wait_for_selector("text=The server was restarted", timeout=PATIENCE_S * 1000)
            page.get_by_role("link", name="Upload a video").click()
            page.wait_for_url(f"{served.url}/", timeout=PATIENCE_S * 1000)  # and its script has come
            page.set_input_files("#file", film)
            page.wait_for_selector(".made", timeout=PATIENCE_S * 1000)
            assert kept(served)


@pytest.mark.slow
def test_what_takes_too_long_or_crashes_is_stopped_and_the_next_video_is_judged(runs, film, tmp_path):
    with serving(runs / "finetuned", tmp_path, timeout_minutes=0.5) as served, served.visitor() as client:
        with served.standing_still() as first:
            slow = uploaded(client, film)
            assert "took more than 0.5 minutes" in ended(client, slow)["says"]
        wait_until(lambda: not Path(f"/proc/{first}").exists())
        good = uploaded(client, film)
        assert ended(client, good)["state"] == "done"
        with served.standing_still() as second:
            assert second != first
            crashed = uploaded(client, film)
            wait_until(lambda: state(client, crashed) == "judging")
            os.kill(second, signal.SIGKILL)
            assert "broke off" in ended(client, crashed)["says"]
        look = served.child("trainer.app.look")
        assert look is not None
        os.kill(look, signal.SIGKILL)
        assert send(client, film.read_bytes()).status_code in (201, 415)
        assert ended(client, uploaded(client, film))["state"] == "done"
        with served.standing_still():
            again = uploaded(client, film)
            wait_until(lambda: state(client, again) != "waiting")
            assert client.post(f"{again}delete").status_code == 303
        assert client.get(again).status_code == 404


@pytest.mark.slow
def test_a_file_that_says_it_is_shorter_than_it_is_is_stopped_where_the_limit_is(server, visitor, tmp_path, make_media):
    picture, sound = "color=size=16x16:rate=1", "sine=sample_rate=8000"
    lying = make_media(tmp_path / "lying.mkv", picture=picture, sound=sound, seconds=200, extra=("-map_metadata", "-1"))
    whole = lying.read_bytes()
    for told, says in ((struct.pack(">d", 200e3), struct.pack(">d", 30e3)), (b"00:03:20", b"00:00:30")):
        assert told in whole
        whole = whole.replace(told, says)
    address = send(visitor, whole).json()["address"]
    assert "longer than the 2 minutes" in ended(visitor, address)["says"]


@pytest.mark.slow
def test_what_is_kept_long_enough_is_deleted(runs, film, tmp_path):
    with serving(runs / "finetuned", tmp_path, keep_minutes=0.05) as served, served.visitor() as client:
        address = uploaded(client, film)
        wait_until(lambda: client.get(address).status_code == 404)
        wait_until(lambda: kept(served) == [])
