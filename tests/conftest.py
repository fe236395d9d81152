"""Media that the tests make for themselves: no clip of anybody's is in the repository."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# Prefect keeps its settings and database in a home folder; it must be set before prefect is imported.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-home-")

# A busy machine is no failing test.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

MakeMedia = Callable[..., Path]

# Frame number N as ten black or white bars, least significant bit left.
NUMBERED = "geq=lum='255*mod(floor(N/pow(2,floor(X/8))),2)':cb=128:cr=128"


def run_ffmpeg(*args: str) -> None:
    from pipeline.media import ffmpeg_exe

    subprocess.run([ffmpeg_exe(), "-y", "-nostdin", "-loglevel", "error", *args], check=True)


@pytest.fixture(scope="session")
def make_media() -> MakeMedia:
    """Make a small music video: picture and sound from lavfi expressions, either of them optional."""

    def make(
        path: Path,
        *,
        picture: str | None = "testsrc2=size=64x36:rate=15",
        sound: str | None = "sine=frequency=440:sample_rate=44100",
        seconds: float = 27,
        extra: tuple[str, ...] = (),
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        inputs = [arg for source in (picture, sound) if source for arg in ("-f", "lavfi", "-i", source)]
        codecs = []
        if picture:
            codecs += ["-c:v", "mpeg4", "-q:v", "4", "-pix_fmt", "yuv420p"]
        if sound:
            codecs += ["-c:a", "pcm_s16le" if path.suffix in (".mkv", ".wav") else "aac"]
        run_ffmpeg(*inputs, *codecs, "-t", str(seconds), *extra, str(path))
        return path

    return make


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory, make_media: MakeMedia) -> Path:
    """A folder of music videos in MVED's layout: seven good ones, and five of which each has its own fault."""
    root = tmp_path_factory.mktemp("videos")
    chords = {
        "Train/Excited/video/14.mp4": 880,
        "Train/Excited/video/NEW_EXC(2)-1-of-3.mp4": 660,
        "Validation/Excited/video/NEW_EXC(2)-2-of-3.mp4": 670,
        "Train/Sad/video/14.mp4": 220,
        "Train/Sad/video/long one [x].mp4": 110,
        "test/Sad/video/9.mp4": 150,
        "test/Excited/video/9.mp4": 700,
    }
    for name, frequency in chords.items():
        picture = f"testsrc2=size=64x36:rate=15,hue=h={frequency}"
        seconds = 40 if "long" in name else 27
        sound = f"sine=frequency={frequency}:sample_rate=44100"
        make_media(root / name, picture=picture, sound=sound, seconds=seconds)
    make_media(root / "Train/Sad/video/silent movie.mp4", sound=None)
    make_media(root / "Train/Sad/video/only sound.mp4", picture=None)
    make_media(root / "Train/Sad/video/short.mp4", seconds=20)
    (root / "Train/Excited/video/text.mp4").write_text("this is no video\n")
    whole = (root / "Train/Excited/video/14.mp4").read_bytes()
    (root / "Train/Excited/video/truncated.mp4").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Endpoint of an S3 server on loopback, which asks for no credentials of anybody."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a new bucket, with an environment that finds it."""
    import s3fs

    environment = {"ENDPOINT_URL": object_store, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    for name, value in (environment | {"DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"
