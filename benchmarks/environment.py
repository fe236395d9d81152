"""What a result was measured on and with: every file in ``benchmarks/results`` carries it."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "librosa", "noisereduce", "soxr", "av", "pillow", "webdataset", "torch", "torchvision", "prefect")


def environment() -> dict[str, object]:
    """Commit, processor, versions and the command line."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "commit": commit.stdout.strip(),
        "processor": models[0] if models else platform.processor(),
        "cores": len(models),
        "python": platform.python_version(),
        "versions": versions,
        "command": " ".join(["python -m benchmarks." + Path(sys.argv[0]).stem, *(Path(a).name for a in sys.argv[1:])]),
    }
