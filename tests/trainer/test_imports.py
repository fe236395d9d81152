"""A GPU host needs no librosa, no ffmpeg and no Prefect."""

import subprocess
import sys
from pathlib import Path

BLOCKED = """
import importlib.metadata, sys

absent = ("librosa", "ffmpeg", "imageio_ffmpeg", "av", "prefect", "noisereduce", "yt_dlp", "soxr")
for name in absent:
    sys.modules[name] = None  # an import of it raises ImportError

version = importlib.metadata.version
def version_of_what_is_left(name):  # torchmetrics imports librosa where it is installed
    if name.lower().replace("-", "_") in absent:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = version_of_what_is_left

import trainer.pretrain, trainer.finetune, trainer.evaluate
ours = [name for name in sys.modules if name.split(".")[0] in ("pipeline", "flows")]
assert sorted(ours) == ["pipeline", "pipeline.schema"], ours
"""


def test_the_trainer_imports_without_the_pipelines_tools():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
