"""Small labelled and unlabelled sets, written as the pipeline writes them, with classes that can be told apart."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from webdataset import TarWriter

from pipeline.schema import INDEX, MEMBERS, SCHEMA_VERSION, Manifest, Modality, Sample, encode, members_of, sample_key
from trainer import finetune, pretrain

LABELS = ["Calm", "Loud", "Sad"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make_arrays(rng: np.random.Generator, label: int, members: Sequence[str]) -> dict[str, np.ndarray]:
    """Noise, with a colour and a mel band that tell the class; each statistic apart from every other channel's."""
    arrays = {}
    for name in members:
        member = MEMBERS[name]
        if name == "frames":
            noise = rng.integers(0, 60, size=(8, 8, 8, 3), dtype=np.uint8)
            frames = noise.repeat(8, 0).repeat(16, 1).repeat(16, 2)
            frames[..., label] += 120
            arrays[name] = frames
        else:
            mel = np.empty(member.shape, np.float16)
            columns = rng.normal(0, 1, size=(2, 128, 1)).astype(np.float16)
            mel[0] = -40 + 8 * columns[0]
            mel[0, 40 * label : 40 * label + 40] += 30
            mel[1] = 0.05 * columns[1]
            arrays[name] = mel
    return arrays


@dataclass(kw_only=True)
class SetSpec:
    """What a synthetic set holds: ``{split: [class index or None, ...]}``."""

    splits: dict[str, list[int | None]]
    labels: list[str] | None = field(default_factory=lambda: list(LABELS))
    shard_size: int = 4
    modality: Modality = "both"
    recipe: dict[str, Any] = field(default_factory=lambda: {"phase": "projected", "denoise": 0.2})
    groups: Callable[[str, int], str] = lambda split, i: f"{split}-{i}"
    """Source group of the i-th sample of a split."""
    seed: int = 0


def write_set(root: Path, spec: SetSpec) -> Path:
    """Write a set folder: tars, commit records, index, manifest."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(spec.seed)
    members = members_of(spec.modality)
    recipe = {**spec.recipe, "modality": spec.modality}
    recipe_hash = hashlib.sha256(repr(sorted(spec.recipe.items())).encode()).hexdigest()[:12]
    sums: dict[str, list[np.ndarray]] = {name: [] for name in members}
    rows, splits = [], {}
    for split, classes in spec.splits.items():
        names = []
        for start in range(0, len(classes), spec.shard_size):
            stem = f"{split}-{start // spec.shard_size:06d}"
            names.append(f"{stem}.tar")
            shard_rows = []
            with (root / f"{stem}.tar").open("wb") as file, TarWriter(file, mtime=0) as tar:
                for i, label in enumerate(classes[start : start + spec.shard_size], start):
                    source_id = f"{split}/{i}.mp4"
                    key = sample_key(title=f"{split} {i}", source_id=source_id, start_ms=i)
                    arrays = make_arrays(rng, label or 0, members)
                    tar.write(encode(Sample(key=key, arrays=arrays, label=label, meta={"title": f"{i}"})))
                    moments = {}
                    for name, array in arrays.items():
                        axes = tuple(a for a in range(array.ndim) if a != MEMBERS[name].channel_axis)
                        x = array.astype(np.float64)
                        mean, square = x.mean(axes), (x**2).mean(axes)
                        moments |= {f"mean_{name}": mean.tolist(), f"meansq_{name}": square.tolist()}
                        if split in ("train", "unlabeled"):
                            sums[name].append(np.stack([mean, square]))
                    shard_rows.append(
                        {
                            "key": key,
                            "source_id": source_id,
                            "source_group": spec.groups(split, i),
                            "split": split,
                            "status": "kept",
                            "label": None if label is None or spec.labels is None else spec.labels[label],
                            "shard": f"{stem}.tar",
                            **moments,
                        }
                    )
            write_record(root / f"{stem}.parquet", shard_rows, recipe_hash=recipe_hash)
            rows += shard_rows
        splits[split] = {"shards": names, "samples": len(classes)}
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX), root / "index.parquet")
    normalization = {}
    for name, told in sums.items():
        if told:
            mean, square = np.mean(told, axis=0)
            normalization[name] = {"mean": mean.tolist(), "std": np.sqrt(square - mean**2).tolist()}
    manifest = Manifest(
        labels=spec.labels,
        recipe=recipe,
        recipe_hash=recipe_hash,
        splits=splits,
        counts={"kept": len(rows), "rejected": 0, "failed": 0, "by_code": {}},
        normalization=normalization,
    )
    (root / "dataset.json").write_text(manifest.to_json())
    return root


def write_record(path: Path, rows: list[dict[str, Any]], *, recipe_hash: str, version: int = SCHEMA_VERSION) -> None:
    """Write a commit record for the tar that lies beside it."""
    tar = path.with_suffix(".tar").read_bytes()
    promise = {
        "schema_version": str(version),
        "recipe_hash": recipe_hash,
        "tar_sha256": hashlib.sha256(tar).hexdigest(),
        "tar_bytes": str(len(tar)),
    }
    table = pa.Table.from_pylist(rows, schema=INDEX.with_metadata({k.encode(): v.encode() for k, v in promise.items()}))
    pq.write_table(table, path)


@pytest.fixture(scope="session")
def make_set() -> Callable[..., Path]:
    """Write a set: ``make_set(folder, splits={"train": [0, 1]}, ...)``; keywords as in ``SetSpec``."""
    return lambda root, **spec: write_set(root, SetSpec(**spec))


@pytest.fixture
def unsplit(make_set: Callable[..., Path], tmp_path: Path) -> Path:
    """Eight sounds of four source groups and two classes, none of them set aside for validation."""
    return make_set(
        tmp_path / "set",
        splits={"train": [0, 1] * 4},
        modality="audio",
        groups=lambda split, i: f"g{i // 2}",
        labels=["a", "b"],
    )


@pytest.fixture(scope="session")
def rewrite_record() -> Callable[..., None]:
    """Write a shard's commit record anew, from the tar as it is now: ``rewrite_record(parquet, version=...)``."""

    def rewrite(path: Path, **promise: Any) -> None:
        table = pq.read_table(path)
        recipe_hash = table.schema.metadata[b"recipe_hash"].decode()
        write_record(path, table.to_pylist(), **{"recipe_hash": recipe_hash, **promise})

    return rewrite


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory, make_set: Callable[..., Path]) -> Path:
    """Folder of the sets that no test changes: unlabeled (10 samples), mved (train 12, val 6, test 6)."""
    root = tmp_path_factory.mktemp("sets")
    make_set(root / "unlabeled", splits={"unlabeled": [None] * 10}, labels=None)
    splits = {"train": [0, 1, 2] * 4, "val": [0, 1, 2] * 2, "test": [0, 1, 2] * 2}
    make_set(root / "mved", splits=splits, shard_size=5, seed=1)
    return root


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, sets: Path) -> Path:
    """Folder of two short runs that no test changes: pretrained, and finetuned from it."""
    root = tmp_path_factory.mktemp("runs")
    short = ["--preset", "tiny", "--batch-size", "4", "--runs", str(root)]
    torch.set_num_threads(1)
    pretrained = ["--out", str(root / "pretrained"), "--max-steps", "2", "--pictures-every", "0"]
    pretrain.main(["--shards", str(sets / "unlabeled"), *pretrained, *short])
    finetuned = ["--out", str(root / "finetuned"), "--max-steps", "9", "--lr", "3e-3"]
    finetune.main(["--shards", str(sets / "mved"), *finetuned, *short])
    return root


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an entry that must refuse its input: one line on stderr, status 2, no traceback. Returns the line."""

    def run(main: Callable[[list[str]], None], *argv: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in argv])
        error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        assert stop.value.code == 2
        assert len(error) == 1, error
        assert error[0].startswith("error: ")
        return error[0]

    return run
