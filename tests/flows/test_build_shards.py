from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.build_shards import run
from tests.disks import mounted, resize
from tests.flows.command import Command, fingerprint, finish
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def built(videos, tmp_path_factory):
    """The real command, with no Prefect server set up."""
    out = tmp_path_factory.mktemp("flow") / "mved"
    code, text, err = finish("--source", str(videos), "--labels", "mved", "--out", str(out), "--workers", "2")
    assert code == 0, err
    return out, text, err


def test_log_index_and_manifest_tell_the_same_counts(built):
    out, text, err = built
    assert text == "7 kept, 5 rejected, 0 failed; no-audio 1; no-video 1; too-short 1; undecodable 2\n"
    assert "12 of 12 clips: 7 kept, 5 rejected, 0 failed;" in err
    counts = json.loads((out / "dataset.json").read_text())["counts"]
    assert (counts["kept"], counts["rejected"], counts["failed"]) == (7, 5, 0)
    statuses = pq.read_table(out / "index.parquet")["status"].to_pylist()
    assert (statuses.count("kept"), statuses.count("rejected")) == (7, 5)


def test_a_second_run_does_nothing_and_says_so(built, videos):
    out, text, _ = built
    before = fingerprint(out)
    code, again, err = finish("--source", str(videos), "--labels", "mved", "--out", str(out))
    assert (code, again) == (0, text)
    assert "nothing to do: all 12 candidates" in err
    assert fingerprint(out) == before


@pytest.mark.slow
def test_a_tar_that_was_removed_is_made_again_and_the_log_says_so(built, videos, tmp_path):
    out = tmp_path / "mved"
    shutil.copytree(built[0], out)
    (out / "val-000000.tar").unlink()
    code, text, err = finish("--source", str(videos), "--labels", "mved", "--out", str(out), "--workers", "1")
    assert (code, text) == (0, built[1]), err
    assert "1 shards are gone, such as val-000000.tar: their clips are prepared again" in err
    assert "12 candidates, 11 done already, 1 to prepare" in err
    assert fingerprint(out) == fingerprint(built[0])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["part-*.parquet", "plan.parquet"])
def test_killed_and_run_again_it_ends_in_the_same_bytes(built, videos, tmp_path, moment):
    out = tmp_path / "mved"
    words = ("--source", str(videos), "--labels", "mved", "--out", str(out), "--workers", "2")
    running = Command(*words)
    while not list((out / ".build").glob(moment)) and running.process.poll() is None:
        time.sleep(0.005)
    running.kill()
    running.finish()
    assert not (out / "dataset.json").exists()
    code, text, err = finish(*words)
    assert (code, text) == (0, built[1]), err
    if moment == "part-*.parquet":
        assert " 0 done already" not in err
    assert fingerprint(out) == fingerprint(built[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_it_soon_and_spoils_no_clip(built, videos, tmp_path, number):
    """What Ctrl-C in a terminal does: flow, workers, ffmpeg and Prefect's server all get it."""
    out = tmp_path / "mved"
    words = ("--source", str(videos), "--labels", "mved", "--out", str(out), "--workers", "2")
    running = Command(*words)
    while not list((out / ".build").glob("part-*.parquet")) and running.process.poll() is None:
        time.sleep(0.005)
    os.killpg(running.process.pid, number)
    code, text, err = running.finish(timeout_s=30)
    assert (code, text) == (128 + number, "")
    assert "build-shards: stopped; the same command goes on from here\n" in err  # a tracker of loky may speak last
    assert not re.search(r'File ".*/(pipeline|flows)/\w+\.py"', err), err  # Prefect's own server may complain
    running.kill()
    assert finish(*words)[:2] == (0, built[1])
    assert fingerprint(out) == fingerprint(built[0])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["imports", "server"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_flow_begins_is_a_line_and_leaves_no_process(videos, tmp_path, number, moment):
    running = Command("--source", str(videos), "--labels", "mved", "--out", str(tmp_path / "mved"))
    at = running.process.pid

    def heeds() -> bool:
        """Whether SIGTERM is caught: SIGINT always is, by Python itself."""
        (caught,) = re.findall(r"SigCgt:\s+(\w+)", Path(f"/proc/{at}/status").read_text())
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def processes() -> list[str]:
        listed = subprocess.run(["ps", "-s", str(at), "-o", "args="], capture_output=True, text=True).stdout
        return [args for args in listed.splitlines() if "<defunct>" not in args]

    there = heeds if moment == "imports" else lambda: any("uvicorn" in args for args in processes())
    wait_until(there, runs=running.process)
    os.kill(at, number)
    code, text, err = running.finish(timeout_s=60)
    assert (code, text) == (128 + number, "")
    assert "build-shards: stopped; the same command goes on from here\n" in err
    assert "Traceback" not in err
    wait_until(lambda: not processes())


@pytest.mark.slow
def test_killed_again_and_again_at_random_moments_it_ends_in_the_same_bytes(built, videos, tmp_path):
    """A soak: up to twenty runs that live 4 to 14 s each, then one that may finish."""
    rng = random.Random(0)
    out = tmp_path / "mved"
    words = ("--source", str(videos), "--labels", "mved", "--out", str(out), "--workers", "2")
    for _ in range(20):
        running = Command(*words)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(timeout=rng.uniform(4, 14))
        if running.process.poll() is not None:
            running.finish()
            break
        running.kill()
        running.finish()
    code, text, err = finish(*words)
    assert (code, text) == (0, built[1]), err
    assert fingerprint(out) == fingerprint(built[0])


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    code, out, err = finish("--source", "no/such/folder", "--out", str(tmp_path / "s"))
    assert (code, out) == (2, "")
    told = "no such folder or list; search:KEY searches, https://... is a link"
    assert err == f"build-shards: --source no/such/folder: {told}\n"
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"source": "{tmp}"}, "holds no media file"),
        ({"source": ["{tmp}", "search:x"]}, "is a folder; a folder stands alone"),
        ({"source": "search: "}, "holds a search without a key"),
        ({"retry": "gone"}, "--retry gone: no such code"),
        ({"cookies": "gone.txt"}, "--cookies gone.txt cannot be read"),
        ({"exclude": ["{tmp}"]}, "--exclude {tmp} is no data set"),
        ({"limit": 0}, "--limit 0: give a whole number from 1 up"),
        ({"workers": -1}, "--workers -1: give a whole number from 1 up"),
        ({"split": "grouped"}, "--split is for labelled sets"),
        ({"labels": "gone.csv"}, "gone.csv: no such file"),
        ({"labels": "s3://bucket/labels.csv"}, "--labels s3://bucket/labels.csv: the table is a local file"),
    ],
)
def test_other_mistakes_are_told_before_prefect_starts_anything(videos, tmp_path, capsys, changes, line):
    words = {"source": str(videos), "out": str(tmp_path / "s")} | changes
    words["source"], words["exclude"] = (_placed(words.get(name, []), tmp_path) for name in ("source", "exclude"))
    assert run(**words) == 2
    told = capsys.readouterr()
    assert line.format(tmp=tmp_path) in told.err
    assert len(told.err.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def shorten(file: Path) -> None:
    raw = file.read_bytes()
    file.unlink()
    file.write_bytes(raw[: len(raw) // 2])


def without_status(file: Path) -> None:
    table = pq.read_table(file).drop_columns(["status"])
    file.unlink()
    pq.write_table(table, file)


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("index.parquet", shorten, "a table or dataset.json is damaged (Arrow"),
        ("index.parquet", without_status, "a table or dataset.json is damaged (ArrowInvalid: it has no column"),
        ("train-000000.parquet", shorten, "python -m pipeline.verify"),
        ("dataset.json", shorten, "remove it and build the set as before"),
        (".build/request.json", lambda file: file.write_text("{"), "request.json is damaged (JSONDecodeError"),
        (".build/request.json", lambda file: file.write_text("[5]"), "remove it, and build with the flags of before"),
    ],
)
def test_a_damaged_set_is_one_line_with_the_mend(built, videos, tmp_path, capsys, name, spoil, words):
    out = Path(shutil.copytree(built[0], tmp_path / "set"))
    (out / ".build").mkdir(exist_ok=True)
    spoil(out / name)
    assert run(source=str(videos), out=str(out), labels="mved") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.slow
def test_a_disk_that_is_full_in_mid_build_is_told_with_both_places_and_no_traceback(videos, tmp_path):
    with mounted(tmp_path / "small", size="2m") as small:
        words = ("--source", str(videos), "--labels", "mved", "--out", str(small / "set"), "--workers", "2")
        code, out, err = finish(*words)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("build-shards: ")]
        assert f"No space left on device, on the disk of --out {small / 'set'}, or of the folder for temp" in line
        assert line.endswith("nothing is lost: once that is mended, the same command goes on")
        resize(small, "500m")
        assert finish(*words)[0] == 0


def _placed(words, folder):
    return words.format(tmp=folder) if isinstance(words, str) else [word.format(tmp=folder) for word in words]


@pytest.mark.slow
def test_where_nothing_is_kept_index_and_manifest_are_written_and_the_exit_code_is_1(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.mp4").write_text("no video")
    code, out, err = finish("--source", str(tmp_path / "media"), "--out", str(tmp_path / "set"))
    assert code == 1
    assert out == "0 kept, 1 rejected, 0 failed; undecodable 1\n"
    assert "nothing was kept" in err
    assert pq.read_table(tmp_path / "set/index.parquet")["code"].to_pylist() == ["undecodable"]
    assert (tmp_path / "set/dataset.json").exists()


@pytest.mark.slow
def test_a_clip_that_kills_its_worker_fails_alone(videos, tmp_path, monkeypatch):
    """The worker that meets the marked clip is killed, the first time and when it runs alone."""
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
    words = ("--source", str(videos), "--labels", "mved", "--out", str(tmp_path / "set"), "--workers", "2")
    code, out, err = finish(*words, PYTHONPATH=str(site))
    assert code == 0, err
    assert out.startswith("6 kept, 5 rejected, 1 failed; internal 1;")
    (row,) = [r for r in pq.read_table(tmp_path / "set/index.parquet").to_pylist() if r["status"] == "failed"]
    assert row["source_id"].endswith("long one [x].mp4")
    assert "SIGKILL" in row["detail"]
