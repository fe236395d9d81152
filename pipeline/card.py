"""The data set card: what is in the folder, for people and for hubs (YAML header)."""

from __future__ import annotations

import json

from pipeline.schema import MEMBERS, Manifest, members_of


def dataset_card(manifest: Manifest) -> str:
    """Text of a set's ``README.md``; it does not name the folder, so that equal sets are equal in every byte."""
    title = f"Music video clips, {'with' if manifest.labels else 'without'} labels"
    counts = manifest.counts
    samples = sum(split["samples"] for split in manifest.splits.values())
    header = [
        "---",
        f"pretty_name: {json.dumps(title)}",
        "tags: [webdataset, music, video, emotion]",
        "task_categories: [video-classification, audio-classification]",
        f"size_categories: [{_size_category(samples)}]",
        "---",
    ]
    lines = [
        *header,
        f"# {title}",
        "",
        f"{samples} clips of 30 s from music videos as tensors, in WebDataset tars (schema {manifest.schema_version}, "
        f"recipe `{manifest.recipe_hash}`).",
        "",
        "The clips' owners keep their rights in them: the columns `link` and `licence` of `index.parquet` say where "
        "each came from. Check that your use is allowed before you share this folder.",
        "",
        "| split | shards | samples |" + "".join(f" {label} |" for label in manifest.labels or ()),
        "|---|---|---|" + "---|" * len(manifest.labels or ()),
    ]
    for split, summary in manifest.splits.items():
        per_class = "".join(f" {n} |" for n in summary["per_class"].values())
        lines.append(f"| {split} | {len(summary['shards'])} | {summary['samples']} |{per_class}")
    lines += ["", "| outcome | candidates |", "|---|---|"]
    lines += [f"| {status} | {counts[status]} |" for status in ("kept", "rejected", "failed")]
    lines += [f"| - {code} | {n} |" for code, n in counts["by_code"].items()]
    lines += ["", "| member | dtype | shape |", "|---|---|---|"]
    for member in members_of(manifest.recipe["modality"]):
        lines.append(f"| `{member}.npy` | {MEMBERS[member].dtype} | {MEMBERS[member].shape} |")
    if manifest.labels:
        lines.append("| `cls` | text | class: " + ", ".join(f"{i} {x}" for i, x in enumerate(manifest.labels)) + " |")
    lines += ["| `json` | text | where the clip came from and how it was made |", ""]
    return "\n".join(lines)


def _size_category(samples: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if samples < limit:
            return name
    return "100K<n<1M"
