"""What ``benchmarks.gpu`` takes along to a machine that reaches no network: wheels and a shard, 64 MiB in all.

Torch and torchvision, with all that they need, are gigabytes: the machine must have them, in versions of its own. The
wheels are what the benchmark needs beyond them, of the versions installed here, for Linux on x86-64.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Collection, Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.measure import make_media, videos_of
from trainer.errors import UserError

MAX_BYTES = 64 * 2**20
NEEDED = ("lightning", "pyarrow", "tqdm", "tyro", "webdataset")
"""By the modules of the project that the benchmark imports."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
ROOT = Path(__file__).parents[1]


def make(folder: Path, *, media: Path | None, clips: int, there: Sequence[str], python: str) -> str:
    """Fill a folder with wheels and a shard, and check both.

    Parameters
    ----------
    media
        Music videos for the shard; made where it is None.
    there
        Packages that the machine has.
    python
        Version of the machine's Python, such as ``3.11``.

    Returns
    -------
    str
        How large it is, and what to do with it.

    Raises
    ------
    UserError
        If it is too large, or does not suffice where Python is this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetch_wheels(folder / "wheels", closure(NEEDED) - closure(there), python)
    build_shard(folder / "shards", media, clips)
    size = size_bytes(folder)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python == here:
        check(folder, there)
    return (
        f"{folder}: {size / 2**20:.1f} MiB, {'checked' if python == here else f'not checked: this is Python {here}'}."
        f" There, with {', '.join(there)}, in this project's folder:\n"
        f"  python -m pip install --no-index --no-deps {folder.name}/wheels/*.whl\n"
        f"  python -m benchmarks.gpu run --shards {folder.name}/shards --results gpu.json   # again until it says done"
    )


def closure(names: Iterable[str]) -> set[str]:
    """Packages and all that they need here, as the installed versions say; extras are not followed."""
    found: set[str] = set()
    open_names = list(names)
    while open_names:
        name = canonicalize_name(open_names.pop())
        if name not in found:
            found.add(name)
            needs = map(Requirement, metadata.requires(name) or [])
            open_names += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def fetch_wheels(folder: Path, names: Collection[str], python: str) -> None:
    """Have pip download the wheels, if any are needed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if not names:
        return
    words = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    words += ["--python-version", python, "--implementation", "cp"]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    pinned = [f"{name}=={metadata.version(name)}" for name in sorted(names)]
    if subprocess.run([sys.executable, *words, *pinned], check=False).returncode:
        raise UserError(f"the wheels could not be had for Python {python}: pip says why above")


def build_shard(folder: Path, media: Path | None, clips: int) -> None:
    """Build a set with JPEG frames by the real command."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        made, videos = Path(scratch) / "made", Path(scratch) / "videos"
        made.mkdir()
        videos.mkdir()
        for path in videos_of(media or make_media(made, clips))[:clips]:
            (videos / path.name).symlink_to(path.resolve())
        words = ["--source", str(videos), "--out", str(folder.resolve())]
        words += ["--frames", "jpeg", "--filters", "off", "--workers", "1"]
        done = subprocess.run(
            [sys.executable, "-m", "flows.build_shards", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise UserError(f"no shard could be built of {media or 'videos made'}: {_last_line(done.stderr)}")
    for path in folder.iterdir():  # card and page are for people
        if path.suffix not in (".tar", ".parquet") and path.name != "dataset.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def size_bytes(folder: Path) -> int:
    """How large a bundle is; one that is too large is refused."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        told = f"{folder} holds {size / 2**20:.1f} MiB, more than {MAX_BYTES / 2**20:.0f}"
        raise UserError(f"{told}; take fewer with --clips, and leave nothing else in it")
    return size


def check(folder: Path, there: Sequence[str]) -> None:
    """Run the benchmark's reading part in a fresh environment of what is there and the wheels alone."""
    with tempfile.TemporaryDirectory() as scratch:
        env, results = Path(scratch) / "env", Path(scratch) / "gpu.json"
        venv.create(env, symlinks=True)
        (site,) = env.glob("lib/python*/site-packages")
        link_installed(closure(there), site)
        python = str(env / "bin" / "python")
        wheels = [str(path.resolve()) for path in sorted((folder / "wheels").glob("*.whl"))]
        words = ["install", "--quiet", "--no-index", "--no-deps", *wheels]
        if wheels:
            subprocess.run([sys.executable, "-m", "pip", "--python", python, *words], check=True)
        words = ["--shards", str((folder / "shards").resolve()), "--results", str(results), "--only", "load/*"]
        done = subprocess.run(
            [python, "-m", "benchmarks.gpu", "run", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        told = json.loads(results.read_text())["rows"] if results.exists() else {}
    failed = [row["error"] for row in told.values() if "error" in row]
    if done.returncode or failed:
        raise UserError(f"what {folder} holds does not suffice: {failed[0] if failed else _last_line(done.stderr)}")


def link_installed(names: Iterable[str], site: Path) -> None:
    """Show another environment some of the packages that are installed here."""
    for name in names:
        of_package = metadata.distribution(name)
        for top in {path.parts[0] for path in of_package.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(of_package.locate_file(top))).resolve())


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
