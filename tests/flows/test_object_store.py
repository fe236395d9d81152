"""The real command, with videos, set and fetched clips in an object store; then the trainer."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time

import pytest

from tests.catalogue.media import recordings
from tests.catalogue.site import PLUGINS, Catalogue, Video
from tests.flows.command import ROOT, Command, fingerprint, finish

s3fs = pytest.importorskip("s3fs")

pytestmark = pytest.mark.slow


def names(address: str) -> list[str]:
    """Paths of all objects below an address."""
    fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    return [path.removeprefix(f"{address.removeprefix('s3://')}/") for path in fs.find(address)]


def of_set(address: str) -> dict[str, str]:
    fs = s3fs.S3FileSystem()
    own = [name for name in names(address) if "/" not in name]
    return {name: hashlib.sha256(fs.cat_file(f"{address}/{name}")).hexdigest() for name in own}


def test_killed_and_run_again_from_a_bucket_into_a_bucket_it_ends_as_on_a_disk(bucket, videos, tmp_path):
    s3fs.S3FileSystem().put(f"{videos}/", f"{bucket}/videos/", recursive=True)
    words = ("--labels", "mved", "--workers", "2", "--samples-per-shard", "3", "--source")
    code, text, err = finish(*words, str(videos), "--out", str(tmp_path / "set"))
    assert code == 0, err
    out = f"{bucket}/set"
    remote = (*words, f"{bucket}/videos", "--out", out)
    running = Command(*remote)
    while not any(name.startswith(".build/part-") for name in names(out)) and running.process.poll() is None:
        time.sleep(0.05)
    running.process.send_signal(signal.SIGSTOP)  # it is there, and holds the lock
    code, _, err = finish(*remote)
    assert (code, f"another process is building {out}" in err) == (2, True), err
    running.kill()
    running.finish()
    assert ".build/lock" in names(out)
    assert "dataset.json" not in names(out)
    code, told, err = finish(*remote)
    assert (code, told) == (0, text), err
    assert of_set(out) == fingerprint(tmp_path / "set")
    assert [name for name in names(out) if "/" in name] == [".build/request.json"]
    code, told, err = finish(*remote)
    assert (code, told) == (0, text), err
    assert "nothing to do" in err

    run = ("trainer.pretrain", "--shards", out, "--out", str(tmp_path / "run"), "--preset", "tiny", "--max-steps", "2")
    trained = subprocess.run([sys.executable, "-m", *run], cwd=ROOT, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr


def test_clips_of_a_crawl_lie_in_a_bucket_and_go_when_they_are_not_kept(bucket, tmp_path):
    made = recordings(tmp_path / "media", 2)
    songs = [Video(id=f"good-{n}", recording=made[n]) for n in range(2)]
    with Catalogue(songs, searches={"song": ["good-0", "good-1"]}) as site:
        words = ["--source", "search:song", "--search-prefix", "catsearch", "--plugins", str(PLUGINS)]
        words += ["--allow-private", "--sleep-s", "0", "0", "--workers", "1", "--filters", "off"]
        words += ["--store", str(tmp_path / "store"), "--clips", f"{bucket}/clips"]
        code, text, err = finish(*words, "--out", f"{bucket}/set", **site.environment)
        assert (code, text[:6]) == (0, "2 kept"), err
        assert len(names(f"{bucket}/clips")) == 2
        assert not (tmp_path / "store/clips").exists()
        again = [*words, "--out", str(tmp_path / "another"), "--keep-clips", "no"]
        code, text, err = finish(*again, **site.environment)
        assert (code, text[:6], "0 to fetch" in err) == (0, "2 kept", True), err
        assert names(f"{bucket}/clips") == []
