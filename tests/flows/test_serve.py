"""`prefect deployment run build-shards` against `make serve`: the real commands, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from flows.prefect_plugin import bare_name
from flows.serve import free_port, server, wait_for
from flows.served import served_url
from pipeline.queries import read_queries
from tests.catalogue.media import recordings
from tests.catalogue.site import PLUGINS, Catalogue, Video
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
PREFECT = Path(sys.executable).with_name("prefect")


class Served:
    """`python -m flows.serve` with a home folder and a free port of its own, and Prefect's command beside it."""

    def __init__(self, home: Path, defaults: str = "", **environment: str) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        (home / "defaults.toml").write_text(defaults)
        self.environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        self.environment |= {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "COLUMNS": "1000"} | environment

    def start(self) -> Served:
        self.told = (self.home / "told").open("w")
        words = [sys.executable, "-m", "flows.serve", "--defaults", str(self.home / "defaults.toml"), "--port", "0"]
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.told, stderr=self.told
        )
        wait_until(lambda: (self.home / "server.json").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.words()
        self.session = json.loads((self.home / "server.json").read_text())["pid"]
        return self

    def words(self) -> str:
        return (self.home / "told").read_text()

    def serve(self) -> tuple[int, str]:
        """Another one beside it, which is to end soon."""
        words = [sys.executable, "-m", "flows.serve", "--defaults", str(self.home / "defaults.toml"), "--port", "0"]
        return self._finish(words)

    def prefect(self, *words: str, **environment: str) -> tuple[int, str]:
        return self._finish([str(PREFECT), *words], **environment)

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        return self.prefect("deployment", "run", *words, **environment)

    def _finish(self, words: list[str], **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
        )
        return done.returncode, done.stdout

    def ask(self, path: str, body: object = None, *, method: str = "POST") -> object:
        """Prefect's API, asked again as its clients do while its database is busy."""
        url = json.loads((self.home / "server.json").read_text())["url"]
        request = urllib.request.Request(
            url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
        )
        for _ in range(2 * PATIENCE_S):
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return json.loads(reply.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(0.5)
        raise TimeoutError(f"{path}: 503 for {PATIENCE_S:g} s")

    def states(self) -> list[str]:
        """Of all runs, the oldest first."""
        runs = self.ask("/flow_runs/filter", {"sort": "START_TIME_ASC"})
        assert isinstance(runs, list)
        return [run["state_type"] for run in runs]

    def processes(self) -> list[str]:
        listed = subprocess.run(["ps", "-s", str(self.session), "-o", "args="], capture_output=True, text=True)
        return listed.stdout.splitlines()

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=PATIENCE_S)
        wait_until(lambda: not self.processes(), every_s=0.1)
        self.told.close()
        return code


def toml(parameters: dict[str, object]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in parameters.items())  # true of what is used here


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """A site on loopback that answers the committed search keys."""
    made = recordings(tmp_path_factory.getbasetemp().parent / "catalogue-media", 3)
    ids = [f"song-{n}" for n in range(3)]
    keys = [query.request for query in read_queries(["flows/search-keys.txt"], search_prefix="x", per_search=1)]
    searches = {key.split(":", 1)[1]: [ids[n % 3], ids[(n + 1) % 3]] for n, key in enumerate(keys)}
    videos = [Video(id=name, recording=recording) for name, recording in zip(ids, made, strict=True)]
    with Catalogue(videos, searches=searches) as site:
        yield site


def defaults_of(folder: Path) -> dict[str, object]:
    """The committed defaults, with their keys, pointed to the loopback site."""
    site = {"search_prefix": "catsearch", "plugins": str(PLUGINS), "allow_private": True, "sleep_s": [0, 0]}
    own = {"out": str(folder / "set"), "store": str(folder / "store"), "workers": 2}
    own["filters"] = "off"  # test pictures and tones are no music videos
    return tomllib.loads((ROOT / "flows/defaults.toml").read_text()) | site | own


@pytest.fixture(scope="module")
def served(catalogue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    served = Served(folder / "home", toml(defaults_of(folder)), **catalogue.environment).start()
    yield served
    assert served.stop(signal.SIGTERM) == 0
    assert not (served.home / "server.json").exists()


# --- with no server


@pytest.mark.parametrize(
    "left",
    [None, {"url": "http://127.0.0.1:9/api", "pid": os.getpid()}, {"url": "http://127.0.0.1:9/api", "pid": 2**22}, []],
    ids=["nothing", "silent port", "dead process", "garbage"],
)
def test_where_nothing_is_served_one_line_says_what_to_run(tmp_path, left):
    idle = Served(tmp_path / "home")
    if left is not None:
        (idle.home / "server.json").write_text(json.dumps(left))
    assert idle.run("build-shards") == (1, "no server answers; run `make serve` in another terminal\n")


def test_an_address_that_the_user_has_set_is_kept(tmp_path):
    code, told = Served(tmp_path / "home").run("build-shards", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (code, told) == (1, "no server answers at http://127.0.0.1:9/api, which is Prefect's PREFECT_API_URL here\n")


def test_a_process_that_is_gone_serves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert served_url() is None
    (tmp_path / "server.json").write_text("{")
    assert served_url() is None


@pytest.mark.parametrize(
    ("defaults", "line"),
    [
        ("nosuch = 1", "the flow has no parameter nosuch; it has source, out,"),
        ("limit = 'many'", "Validation failed for field 'limit'. Failure reason: 'many' is not"),
        ("limit = ", "Invalid value (at end of document)"),
    ],
)
def test_a_mistake_in_the_defaults_is_one_line_before_anything_starts(tmp_path, defaults, line):
    wrong = Served(tmp_path / "home", defaults)
    code, told = wrong.serve()
    assert code == 2
    assert told.startswith(f"serve: {wrong.home}/defaults.toml: ")
    assert line in told
    assert len(told.splitlines()) == 1
    assert not (wrong.home / "server.log").exists()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("prefect deployment run build-shards", 3),
        ("prefect deployment run build-shards --watch -p limit=3", 3),
        ("prefect --no-prompt deployments run --watch -p limit=3 --tag run build-shards", 9),
        ("prefect deployment run --params={} build-shards", 4),
        ("prefect deployment run build-shards/build-shards", None),
        ("prefect deployment run --id 3 -p out=build-shards", None),
    ],
)
def test_the_bare_name_is_told_from_the_options_values(words, place):
    assert bare_name(words.split()) == place


# --- with one server for all


def test_the_bare_command_does_the_job_of_the_defaults_file(served, catalogue):
    code, told = served.run("build-shards", "--watch")
    assert code == 0, told + served.words()
    assert told.endswith("Flow run finished successfully in 'Completed'.\n")
    assert "3 candidates, 0 done already, 3 to fetch" in told
    assert "3 of 3 clips: 3 fetched, 0 rejected, 0 failed" in told
    manifest = json.loads((served.home.parent / "set/dataset.json").read_text())
    assert manifest["counts"] == {"kept": 3, "rejected": 0, "failed": 0, "by_code": {}}
    searched = {request.query for request in catalogue.requests_in("search")}
    assert len(searched) == len(catalogue.searches) > 12
    asked = len(catalogue.requests)
    code, told = served.run("build-shards", "--watch")
    assert code == 0, told + served.words()
    assert "nothing to do: all 3 candidates" in told
    assert len(catalogue.requests) == asked


@pytest.mark.slow
def test_p_names_other_searches(served, catalogue, tmp_path):
    key = next(iter(catalogue.searches))
    words = ("-p", f'source=["search:{key}", "{catalogue.watch("song-2")}"]', "-p", f"out={tmp_path / 'set'}")
    code, told = served.run("build-shards", "--watch", *words, "-p", "clips_per_video=2", "-p", "limit=3")
    assert code == 0, told + served.words()
    ids = pq.read_table(tmp_path / "set/index.parquet")["source_id"].to_pylist()
    assert sorted(ids) == ["catalogue:song-0", "catalogue:song-0 (clip 2)", "catalogue:song-1"]


@pytest.mark.slow
def test_parameters_by_p_are_the_flows_own(served, videos, tmp_path):
    words = ("-p", f"source={videos}", "-p", f"out={tmp_path / 'set'}", "-p", "limit=2")
    code, told = served.run("--watch", *words, "build-shards/build-shards")
    assert code == 0, told + served.words()
    assert pq.read_table(tmp_path / "set/index.parquet").num_rows == 2


@pytest.mark.parametrize(
    ("parameter", "line"),
    [
        ("limit=abc", "Validation failed for field 'limit'. Failure reason: 'abc' is not valid"),
        ("modality=smell", "Validation failed for field 'modality'. Failure reason: 'smell' is not one of"),
        ("runner=smoke", "Validation failed for field 'runner'. Failure reason: 'smoke' is not one of"),
        ("nosuch=1", "The following parameters were specified but not found on the deployment: 'nosuch'"),
    ],
)
def test_a_parameter_of_a_wrong_name_or_type_makes_no_run(served, parameter, line):
    before = len(served.states())
    code, told = served.run("build-shards", "--watch", "-p", parameter)
    assert code == 1
    assert line in told
    assert "Traceback" not in told
    assert len(served.states()) == before


def test_a_mistake_that_the_flow_alone_can_see_fails_the_run_with_a_line(served, tmp_path):
    words = ("-p", "source=no/such", "-p", f"out={tmp_path / 'set'}")
    code, told = served.run("build-shards", "--watch", *words)
    assert code == 1
    assert "--source no/such: no such folder or list" in told
    assert told.endswith("Flow run finished in state 'Failed'.\n")
    assert "Traceback" not in told + served.words()
    assert not (tmp_path / "set/dataset.json").exists()


@pytest.mark.slow
def test_a_cluster_is_asked_for_by_p(served, videos, tmp_path):
    words = ("-p", f"source={videos}", "-p", f"out={tmp_path / 'set'}", "-p", "runner=dask", "-p", "address=somewhere")
    code, told = served.run("build-shards", "--watch", *words)
    assert code == 1
    assert "--address somewhere: give host and port, such as tcp://10.0.0.1:8786 (Dask)" in told


def test_a_name_that_two_flows_share_or_none_has_is_refused_by_name(served):
    flow = served.ask("/flows/", {"name": "other"})
    other = served.ask("/deployments/", {"name": "build-shards", "flow_id": flow["id"]})
    code, told = served.run("build-shards")
    served.ask(f"/deployments/{other['id']}", method="DELETE")
    assert code == 1
    assert told == (
        "2 deployments are called build-shards; name one whole: build-shards/build-shards, other/build-shards\n"
    )
    assert served.run("nosuch") == (1, "no deployment is called nosuch; `prefect deployment ls` lists them\n")


def test_a_second_one_says_that_one_is_running(served):
    url = json.loads((served.home / "server.json").read_text())["url"]
    assert served.serve() == (2, f"serve: it is running already, at {url.removesuffix('/api')}\n")


def test_other_programs_than_the_prefect_command_are_left_alone(served):
    program = "import prefect.settings as s; print(s.get_current_settings().api.url)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=served.environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("None\n", "")
    code, told = served.prefect("deployment", "ls")
    assert code == 0
    assert "build-shards/build-shards" in told


# --- each with its own


@pytest.mark.slow
def test_prefect_yaml_deploys_the_same_to_a_work_pool(videos, tmp_path, monkeypatch):
    """On a server of the user's own, where the bare name is found too."""
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert [d["name"] for d in declared] == ["build-shards"]
    assert declared[0]["parameters"] == tomllib.loads((ROOT / "flows/defaults.toml").read_text())
    pool = declared[0]["work_pool"]["name"]
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    port = free_port(0)
    url = f"http://127.0.0.1:{port}/api"
    user = Served(tmp_path / "home", PREFECT_API_URL=url)
    with server(port) as process:
        wait_for(url, process)
        for words in (("work-pool", "create", pool, "--type", "process"), ("--no-prompt", "deploy", "--all")):
            code, told = user.prefect(*words)
            assert code == 0, told
        parameters = {"source": str(videos), "out": str(tmp_path / "set"), "limit": 1, "filters": "off"}
        code, told = user.run("build-shards", "--params", json.dumps(parameters))
        assert code == 0, told
        code, told = user.prefect("worker", "start", "--pool", pool, "--run-once")
        assert code == 0, told
    assert (tmp_path / "set/dataset.json").exists(), told


@pytest.mark.slow
def test_after_a_kill_nothing_is_left_and_the_next_one_goes_on_until_ctrl_c(videos, tmp_path):
    out = tmp_path / "set"
    parameters = {"source": str(videos), "out": str(out), "labels": "mved", "workers": 2}
    served = Served(tmp_path / "home", toml(parameters)).start()
    try:
        interrupt(served, out, signal.SIGKILL)
        assert "12 candidates, 0 done already" in served.words()

        served.start()
        assert served.states() in (["CRASHED"], ["CANCELLED"])
        assert interrupt(served, out, signal.SIGINT) == 0
        assert not (served.home / "server.json").exists()
        assert "12 candidates, " in served.words()
        assert " 0 done already" not in served.words()
        assert served.words().endswith("serve: stopped\n")
        assert "Traceback" not in served.words()
    finally:
        if served.process.poll() is None:
            served.stop(signal.SIGTERM)


def interrupt(served: Served, out: Path, number: signal.Signals) -> int:
    """Start a run, and end what serves it in the middle of that; the exit code, once nothing is left."""
    code, told = served.run("build-shards")
    assert code == 0, told
    wait_until(lambda: "done already" in served.words() and list((out / ".build").glob("part-*.parquet")))
    assert not (out / "dataset.json").exists()
    return served.stop(number)
