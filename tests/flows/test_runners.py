from __future__ import annotations

import contextlib
import http.server
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.build_shards import run
from flows.ray_cluster import OBJECT_STORE_BYTES
from flows.tasks import commit
from pipeline import remote
from pipeline.errors import UserError
from tests.flows.command import ROOT, Command, fingerprint, finish
from tests.waiting import PATIENCE_S, wait_until


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"address": "tcp://127.0.0.1:{port}"}, "--address is a cluster's; add --runner dask or --runner ray"),
        ({"runner": "dask", "address": "somewhere"}, "--address somewhere: give host and port, such as tcp://"),
        ({"runner": "ray", "address": "ray://[::1"}, "--address ray://[::1: give host and port"),
        ({"runner": "dask", "address": "tcp://127.0.0.1:{port}"}, "nothing answers there (Connection refused)"),
        ({"runner": "ray", "address": "127.0.0.1:{port}"}, "nothing answers there (Connection refused)"),
    ],
)
def test_a_wrong_address_is_one_line_before_prefect_starts_anything(videos, tmp_path, capsys, free_port, words, line):
    words = {name: word.format(port=free_port) for name, word in words.items()}
    assert run(source=str(videos), out=str(tmp_path / "s"), **words) == 2
    told = capsys.readouterr().err
    assert line in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(videos, tmp_path, capsys, monkeypatch, runner):
    monkeypatch.setitem(sys.modules, f"prefect_{runner}", None)  # as if it were not installed
    assert run(source=str(videos), out=str(tmp_path / "s"), runner=runner) == 2
    told = capsys.readouterr().err
    assert told == (f'build-shards: --runner {runner} needs the extra: pip install "music-video-emotion[{runner}]"\n')


def test_a_worker_does_the_work_if_tools_and_storage_are_the_same(tmp_path):
    work = remote.wrap(max, [1, 2], must_see=[tmp_path], owns_process=False)
    assert remote.execute(work) == 2


@pytest.mark.parametrize("tool", ["librosa", "scipy", "pyarrow", "ffmpeg", "ffmpeg for Chromaprint"])
def test_a_worker_with_another_tool_names_the_difference(tmp_path, tool):
    work = remote.wrap(max, [1, 2], must_see=[tmp_path], owns_process=False)
    other = replace(work, versions=work.versions | {tool: "0.0.1"})
    with pytest.raises(UserError, match=rf"has {tool} \S+, here 0\.0\.1; the same bytes need the same tools"):
        remote.execute(other)


def test_a_worker_with_another_checkout_of_this_software_names_the_difference(tmp_path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    work = pickle.dumps(remote.wrap(max, [1, 2], must_see=[tmp_path], owns_process=False))
    program = "import pickle, sys; from pipeline import remote; print(remote.execute(pickle.load(sys.stdin.buffer)))"

    def worker():
        return subprocess.run([sys.executable, "-c", program], input=work, cwd=tmp_path, capture_output=True)

    assert worker().stdout == b"2\n"
    with (tmp_path / "pipeline/filters/rules.csv").open("a") as rules:
        rules.write("\n")
    assert re.search(rb"has sources of pipeline/ \w{12}, here \w{12}; the same bytes need", worker().stderr)


def test_sources_differ_by_names_and_content_alone(tmp_path):
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "b.csv").write_text("y")
    first = remote.hash_of_sources(tmp_path)
    (tmp_path / "notes.txt").write_text("nobody imports it")
    assert remote.hash_of_sources(tmp_path) == first
    (tmp_path / "a.py").write_text("xy")
    (tmp_path / "b.csv").write_text("")
    assert remote.hash_of_sources(tmp_path) != first  # the same bytes, but elsewhere
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "b.csv").rename(tmp_path / "c.csv").write_text("y")
    assert remote.hash_of_sources(tmp_path) != first


def test_a_worker_that_does_not_see_the_files_names_them(tmp_path):
    work = remote.wrap(max, [1, 2], must_see=[tmp_path, tmp_path / "gone"], owns_process=False)
    with pytest.raises(UserError, match=r"does not see .*/gone; all machines need the same files there"):
        remote.execute(work)


def test_what_a_worker_wrote_elsewhere_is_no_part(tmp_path):
    with pytest.raises(UserError, match=r"a worker wrote part-x-00\.tar, but not to "):
        commit(tmp_path, [], [{"sample": "part-x-00.tar"}])
    assert not list(tmp_path.iterdir())


# --- real clusters


@pytest.fixture(scope="module")
def by_threads(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("threads") / "mved"
    code, text, err = finish(*words(videos, out))
    assert code == 0, err
    return text, fingerprint(out)


def words(videos: Path, out: Path, *more: str) -> tuple[str, ...]:
    return ("--source", str(videos), "--labels", "mved", "--out", str(out), "--workers", "2", *more)


def wait_for_first_part(out: Path, running: Command) -> None:
    wait_until(lambda: list((out / ".build").glob("part-*.parquet")), runs=running.process)


def below(pid: int) -> dict[int, str]:
    """Processes that a process started, and that those did, by number: their command lines."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found: dict[int, str] = {}
    parents = {pid}
    while parents:
        children = {int(own): args for own, parent, args in rows if int(parent) in parents}
        found |= children
        parents = set(children)
    return found


def wait_until_gone(pids: set[int]) -> None:
    wait_until(lambda: not any(map(is_running, pids)), every_s=0.1)


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def dask_cluster(tmp_path, free_port):
    """A scheduler and two workers that nobody replaces, by Dask's own commands, which stand in another folder."""
    address = f"tcp://127.0.0.1:{free_port}"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(free_port), "--no-dashboard"]
    worker = ["worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    with (tmp_path / "dask.log").open("wb") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *command],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
            for command in (scheduler, worker, worker)
        ]
    wait_until_it_answers(free_port)
    yield address, started[1:]
    for process in started:
        process.kill()
        process.wait()


def wait_until_it_answers(port: int) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        return False

    wait_until(answers, every_s=0.2)


@pytest.fixture
def web_server():
    """A port that takes connections and is no cluster's."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("runner", "scheme"), [("dask", "tcp://"), ("ray", ""), ("ray", "ray://")])
def test_a_port_of_something_else_is_one_line(videos, tmp_path, web_server, runner, scheme):
    address = scheme + web_server
    started = Command(*words(videos, tmp_path / "s", "--runner", runner, "--address", address))
    code, _, err = started.finish(timeout_s=PATIENCE_S)  # it would wait for minutes, or for ever
    assert code == 2
    assert f"--address {address}: what listens there does not answer as {runner.capitalize()} does (" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_cluster_of_dask_that_a_build_starts_tells_nothing_of_itself(videos, tmp_path):
    code, _, err = finish(*words(videos, tmp_path / "s", "--runner", "dask", "--limit", "2"))
    assert code == 0, err
    told_by = {line.split("|")[2].split(" - ")[0].split("'")[0].strip() for line in err.splitlines() if "|" in line}
    assert told_by == {"Flow run", "prefect"}, err


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_builds_the_same_bytes(videos, by_threads, dask_cluster, tmp_path):
    address, workers = dask_cluster
    out = tmp_path / "mved"
    running = Command(*words(videos, out, "--runner", "dask", "--address", address))
    wait_for_first_part(out, running)
    workers[0].kill()
    code, text, err = running.finish(timeout_s=400)
    assert (code, text) == (0, by_threads[0]), err
    assert fingerprint(out) == by_threads[1]
    assert workers[1].poll() is None  # whoever lends a cluster gets it back


@pytest.mark.slow
def test_ray_that_loses_a_worker_builds_the_same_bytes_and_leaves_no_process(videos, by_threads, tmp_path):
    out = tmp_path / "mved"
    running = Command(*words(videos, out, "--runner", "ray"))
    wait_for_first_part(out, running)
    started = below(running.process.pid)
    while not (at_work := [pid for pid, args in started.items() if args.startswith("ray::prepare_samples")]):
        assert running.process.poll() is None, running.finish()
        started |= below(running.process.pid)
    os.kill(at_work[0], signal.SIGKILL)
    code, text, err = running.finish(timeout_s=400)
    assert (code, text) == (0, by_threads[0]), err
    assert fingerprint(out) == by_threads[1]
    wait_until_gone(set(started))


@pytest.fixture
def ray_head(free_port):
    """A head with two slots, by Ray's own command; all its processes are one group's."""
    no_token = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = ["start", "--head", "--block", "--port", str(free_port), "--num-cpus", "2", "--include-dashboard=false"]
    command += ["--object-store-memory", str(OBJECT_STORE_BYTES)]
    # Below the folder of the test the paths of Ray's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        with Path(folder, "log").open("wb") as log:
            head = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *command, "--temp-dir", folder],
                env=os.environ | no_token | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until_it_answers(free_port)
        yield f"127.0.0.1:{free_port}", head, no_token
        end_group(head)


def end_group(leader: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


@pytest.mark.slow
def test_a_head_of_ray_that_is_lost_is_told_at_once_and_the_build_goes_on_without_it(
    videos, by_threads, ray_head, tmp_path
):
    """Ray itself would end the flow's process after a minute, without a word of ours and with exit code 1."""
    address, head, environment = ray_head
    out = tmp_path / "mved"
    running = Command(*words(videos, out, "--runner", "ray", "--address", address), **environment)
    wait_for_first_part(out, running)
    end_group(head)
    code, text, err = running.finish(timeout_s=PATIENCE_S)
    assert (code, text) == (2, "")
    assert f"build-shards: --address {address} is gone; the same command goes on where it was\n" in err
    assert "Traceback" not in err
    code, text, err = finish(*words(videos, out))
    assert (code, text) == (0, by_threads[0]), err
    assert fingerprint(out) == by_threads[1]


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_clip_that_kills_every_worker_fails_alone(videos, tmp_path, runner):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, pathlib, signal\n"
        "real_open = pathlib.Path.open\n"
        "def marked(self, *args, **kwargs):\n"
        "    if self.name == 'long one [x].mp4':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real_open(self, *args, **kwargs)\n"
        "pathlib.Path.open = marked\n"
    )
    out = tmp_path / "set"
    running = Command(*words(videos, out, "--runner", runner), PYTHONPATH=f"{site}{os.pathsep}{ROOT}")
    code, text, err = running.finish(timeout_s=400)
    assert code == 0, err
    assert text.startswith("6 kept, 5 rejected, 1 failed; internal 1;")
    (row,) = [row for row in pq.read_table(out / "index.parquet").to_pylist() if row["status"] == "failed"]
    assert row["source_id"].endswith("long one [x].mp4")
    assert row["detail"] == "the worker process died, and another one on the same clip"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "number"), [("dask", signal.SIGKILL), ("dask", signal.SIGINT), ("ray", signal.SIGKILL)]
)
def test_a_killed_flow_takes_its_own_cluster_with_it_and_goes_on(videos, by_threads, tmp_path, runner, number):
    out = tmp_path / "mved"
    running = Command(*words(videos, out, "--runner", runner))
    wait_for_first_part(out, running)
    started = {pid for pid, args in below(running.process.pid).items() if "uvicorn" not in args}
    if number == signal.SIGINT:
        os.killpg(running.process.pid, number)  # what a terminal does
        code, _, err = running.finish(timeout_s=PATIENCE_S)
        assert code == 130
        assert "stopped; the same command goes on from here" in err
    else:
        running.kill()
        running.finish()
    wait_until_gone(started)
    code, text, err = finish(*words(videos, out))  # with another runner
    assert (code, text) == (0, by_threads[0]), err
    assert fingerprint(out) == by_threads[1]
