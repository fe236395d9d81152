"""The project's own machinery: make's targets, the scripts, and what the demo is made of."""

import http.client
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import media
from pipeline.queries import by_identity, candidates_of, link_labels, read_queries
from pipeline.schema import EMOTIONS
from pipeline.store import Video as Listed
from scripts.demo import videos, write_links
from scripts.music import MOODS, UNLABELLED
from scripts.serve import HOST, PortTakenError, serving
from scripts.steps import Report
from scripts.visuals import STYLES, VIDEO_S, Video, render

ROOT = Path(__file__).resolve().parents[1]
SHELL_SCRIPTS = ["scripts/setup.sh", ".ci/run"]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *words], cwd=ROOT, env=own, capture_output=True, text=True, check=False)


# --- make and shell ----------------------------------------------------------------------------------------------


def test_make_alone_lists_every_target() -> None:
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    listed = re.findall(r"^make ([a-z-]+)", make().stdout, re.MULTILINE)
    assert {"setup", "demo", "test", "test-slow", "check", "bench"} <= set(listed)
    assert set(listed) == set(targets) - {"venv"}


@pytest.mark.parametrize("target", ["test", "test-slow", "check", "bench", "demo"])
def test_make_finds_all_that_a_target_names(target: str) -> None:
    assert make("-n", target).returncode == 0


def test_bench_of_a_folder_without_videos_says_so_and_measures_nothing(tmp_path: Path) -> None:
    done = make("bench", f"MEDIA={tmp_path}", f"PY={sys.executable}")
    assert done.returncode == 2
    assert f"bench: {tmp_path} holds no video" in done.stderr
    assert "benchmarks.stages" not in done.stdout


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_shell_scripts_parse_and_can_be_run(script: str) -> None:
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    assert os.access(ROOT / script, os.X_OK)


def test_ci_runs_every_check() -> None:
    words = (ROOT / ".ci" / "run").read_text()
    assert "CI=true" in words
    assert all(target in words for target in ("setup", "check", "test", "test-slow"))


def test_setup_refuses_an_old_python_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    done = subprocess.run(
        [tmp_path / "scripts" / "setup.sh"],
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


TOOLS = (
    "bash",
    "cat",
    "chmod",
    "cp",
    "dirname",
    "env",
    "flock",
    "grep",
    "head",
    "ln",
    "mkdir",
    "rm",
    "sha256sum",
    "tail",
    "touch",
    "true",
)

FAKE_PYTHON = """#!/bin/bash
echo "python $*" >>"$CALLS"
case "$*" in
    *version_info*) echo 3.11 ;;
    "-V") echo Python 3.11.0 ;;
    *"-m venv"*) mkdir -p .venv/bin; rm -f .venv/.underway; cp "$0" .venv/bin/python ;;
    *"pip install"*) [ -z "$PIP_FAILS" ] || { echo "no space" >&2; exit 1; } ;;
esac
"""

FAKE_APT = """#!/bin/bash
echo "apt-get $*" >>"$CALLS"
case "$*" in *"install"*ffmpeg*) [ -z "$APT_FAILS" ] || exit 1; ln -sf "$(command -v true)" "$BIN/ffmpeg" ;; esac
"""


class Setup:
    """``scripts/setup.sh`` in a folder of its own, with stand-ins for the programs that would take minutes."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.calls = folder / "project", folder / "bin", folder / "calls"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
        self.program("python3.11", FAKE_PYTHON)
        self.program("apt-get", FAKE_APT)
        self.program("id", "#!/bin/bash\necho ${FAKE_UID:-0}\n")
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        (self.root / "pyproject.toml").write_text("[project]\n")

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def __call__(self, **variables: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        own = {"PATH": str(self.bin), "BIN": str(self.bin), "CALLS": str(self.calls)}
        return subprocess.run(
            [self.root / "scripts" / "setup.sh"], env=own | variables, capture_output=True, text=True, check=False
        )

    def called(self, words: str) -> bool:
        return words in self.calls.read_text()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_setup_as_root_installs_ffmpeg_and_does_nothing_the_second_time(setup: Setup) -> None:
    done = setup()
    assert done.returncode == 0, done.stderr
    assert setup.called("apt-get update")
    assert setup.called("install -qq --no-install-recommends ffmpeg")
    assert setup.called("-e .[all]")
    again = setup()
    assert "nothing to do" in again.stdout
    assert not setup.called("apt-get")
    assert not setup.called("pip install")


@pytest.mark.parametrize("variables", [{"FAKE_UID": "1000"}, {"APT_FAILS": "1"}])
def test_setup_falls_back_to_the_wheel_and_asks_apt_once(setup: Setup, variables: dict[str, str]) -> None:
    done = setup(**variables)
    assert done.returncode == 0, done.stderr
    assert "imageio-ffmpeg serves" in done.stdout
    assert setup.called("get_ffmpeg_exe")
    assert "nothing to do" in setup(**variables).stdout
    assert not setup.called("apt-get")


def test_setup_installs_anew_when_the_project_file_or_the_extras_change(setup: Setup) -> None:
    setup()
    (setup.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    setup()
    assert setup.called("pip install")
    assert not setup.called("-m venv")
    setup(EXTRAS="pipeline")
    assert setup.called("-e .[pipeline]")


def test_setup_that_failed_half_way_says_so_and_begins_a_new_venv(setup: Setup) -> None:
    failed = setup(PIP_FAILS="1")
    assert failed.returncode == 1
    assert "no space" in failed.stderr
    assert "pip could not install" in failed.stderr
    done = setup()
    assert done.returncode == 0, done.stderr
    assert "making .venv anew" in done.stdout
    assert setup.called("-m venv --clear")


def test_setup_makes_a_new_venv_where_the_folder_was_moved(setup: Setup, tmp_path: Path) -> None:
    setup()
    setup.root = setup.root.rename(tmp_path / "a new place")
    done = setup()
    assert "made in another folder" in done.stdout
    assert setup.called("-m venv --clear")
    assert "nothing to do" in setup().stdout


def test_setup_leaves_the_environment_of_another_checkout_alone(setup: Setup, tmp_path: Path) -> None:
    setup()
    first = setup.root
    held = sorted((first / ".venv").rglob("*"))
    setup.root = tmp_path / "second"
    shutil.copytree(first, setup.root, ignore=shutil.ignore_patterns(".venv"))
    (setup.root / ".venv").symlink_to(first / ".venv")
    refused = setup()
    assert refused.returncode == 1
    assert f".venv is a link to the environment of {first}" in refused.stderr
    assert sorted((first / ".venv").rglob("*")) == held
    (setup.root / ".venv").unlink()
    assert setup().returncode == 0


# --- the server --------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.mp4").write_bytes(bytes(range(100)))
    (tmp_path / "secret.txt").write_text("not served")
    with serving(tmp_path / "served", 0) as port:
        yield port


def get(port: int, path: str, wanted: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path, headers={"Range": wanted} if wanted else {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def test_server_sends_whole_files_and_says_that_it_has_ranges(server: int) -> None:
    status, body, headers = get(server, "/a.mp4")
    assert (status, body) == (200, bytes(range(100)))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-type"] == "video/mp4"


@pytest.mark.parametrize(
    ("wanted", "first", "last"), [("bytes=10-19", 10, 19), ("bytes=90-", 90, 99), ("bytes=90-500", 90, 99)]
)
def test_server_sends_the_range_asked_for(server: int, wanted: str, first: int, last: int) -> None:
    status, body, headers = get(server, "/a.mp4", wanted)
    assert (status, body) == (206, bytes(range(first, last + 1)))
    assert headers["Content-Range"] == f"bytes {first}-{last}/100"


def test_server_refuses_a_range_beyond_the_end(server: int) -> None:
    status, body, headers = get(server, "/a.mp4", "bytes=100-")
    assert (status, body, headers["Content-Range"]) == (416, b"", "bytes */100")


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/nothing.mp4"])
def test_server_serves_its_folder_alone(server: int, path: str) -> None:
    assert get(server, path)[0] == 404


def test_server_takes_another_port_only_where_it_may(server: int, tmp_path: Path) -> None:
    with pytest.raises(PortTakenError, match=f"port {server}"), serving(tmp_path, server):
        pass
    with serving(tmp_path, server, any_port=True) as port:
        assert port != server


# --- the demo ----------------------------------------------------------------------------------------------------


def test_demo_has_enough_pieces_of_each_mood_and_scores_none_that_it_pretrains_on() -> None:
    assert len(MOODS) >= 3
    assert set(MOODS) <= set(EMOTIONS)
    assert min(map(len, MOODS.values())) >= 4
    pieces = [piece for mood in MOODS.values() for piece in mood] + list(UNLABELLED)
    assert len(pieces) == len(set(pieces))


def test_no_style_of_picture_tells_a_mood() -> None:
    mood_of = {piece: mood for mood, pieces in MOODS.items() for piece in pieces}
    pairs = Counter((mood_of.get(video.piece), video.style) for video in videos())
    assert set(pairs.values()) == {1}
    assert len(pairs) == (len(MOODS) + 1) * len(STYLES)


def test_demo_lists_give_each_labelled_link_its_mood_and_its_piece_as_group(tmp_path: Path) -> None:
    links = {kind: tmp_path / f"{kind}.txt" for kind in ("unlabeled", "labelled")}
    write_links(links, tmp_path / "labels.csv", 8765)
    found = {kind: read_queries([str(file)], search_prefix="", per_search=1) for kind, file in links.items()}
    videos = [Listed(video_id=query.request, link=query.request) for query in found["labelled"]]
    rows = link_labels(str(tmp_path / "labels.csv")) or []
    labelled = candidates_of(videos, by_identity(rows, [row["link"] or "" for row in rows]), clips_per_video=1)
    assert Counter(source.label for source in labelled) == dict.fromkeys(MOODS, 8)
    assert {len({s.label for s in labelled if s.groups[0] == piece}) for piece in MOODS["Sad"]} == {1}
    assert not set(found["labelled"]) & set(found["unlabeled"])
    assert all(source.problem is None for source in labelled)


@pytest.fixture(scope="module")
def chirp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("music") / "chirp.wav"
    sound = "aevalsrc=0.4*sin(2*PI*(200*t+60*t*t))*(1+sin(9*t))/2|0.3*sin(2*PI*330*t):s=44100:d=4"
    command = [media.ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", sound, str(file)]
    subprocess.run(command, check=True)
    return file


@pytest.mark.parametrize("style", STYLES)
def test_every_style_makes_a_moving_picture_with_sound(style: str, chirp: Path, tmp_path: Path) -> None:
    target = tmp_path / f"{style}.mp4"
    video = Video(name=style, piece="chirp", start_s=0, style=style, seed=7, length_s=3)
    render(video, music=chirp, target=target)
    found = media.probe(target)
    assert found.video_s == pytest.approx(3, abs=0.1)
    assert found.audio_s == pytest.approx(3, abs=0.1)
    command = [media.ffmpeg_exe(), "-v", "error", "-i", str(target), "-vf", "fps=2,scale=64:36", "-pix_fmt", "gray"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, 36 * 64).astype(np.int16)
    assert np.abs(np.diff(frames, axis=0)).mean(axis=1).max() > 0.5  # stills have 0
    assert [file.name for file in tmp_path.iterdir()] == [target.name]


def test_demo_videos_are_longer_than_a_sample() -> None:
    assert VIDEO_S > 30


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--media", "no-such-folder"], "MEDIA=no-such-folder: no such folder"),
        (["--labels", "mved"], "LABELS goes with MEDIA=folder"),
        (["--media", "tests", "--labels", "no.csv"], "LABELS=no.csv: no such file"),
    ],
)
def test_demo_tells_a_mistake_in_one_line(words: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"demo: {told}")
    assert done.stderr.count("\n") == 1


def test_report_names_each_step_and_its_time(tmp_path: Path) -> None:
    report = Report()
    with report.step("music", tmp_path) as made:
        made.append("2 pieces")
    lines = report.table().splitlines()
    assert lines[0].split() == ["step", "made", "where", "seconds"]
    assert lines[2].split()[:3] == ["music", "2", "pieces"]
    assert lines[-1].split()[0] == "all"
