"""The data set card: what is in the folder, for people and for hubs (YAML header)."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection
from typing import Any

from pipeline.filters.text import DEFAULT_RULES, read_rules, rules_hash
from pipeline.page.clips import stored_members
from pipeline.page.licences import card_licences
from pipeline.page.scores import AXES, mode_of, thresholds_of
from pipeline.schema import CLIP_S, CODES, EMOTIONS, MEMBERS, SHEET, SPLITS, Manifest, file_of

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))  # the hub's names

MODES = {
    "drop": "Clips beyond a threshold were dropped.",
    "score": "Clips were scored and all kept; column `flagged` names what the filters would drop.",
    "off": "No filter was asked.",
}

LOADING = """\
import pyarrow.parquet as pq
import webdataset

for sample in webdataset.WebDataset("{shard}", shardshuffle=False).decode({handler}):
    print(sample["__key__"], sample["json"]["title"], sample["{file}"]{reshaped}.shape)
    break
index = pq.read_table("index.parquet", columns=["key", "status", "code", "split", "label", "link", "licence"])
print(index.num_rows, "candidates")
"""

UNTILED = ".reshape(8, 128, 8, 128, 3).swapaxes(1, 2).reshape(64, 128, 128, 3)"
"""From the sheet of a JPEG back to frames."""


def dataset_title(manifest: Manifest) -> str:
    """Name of a set; it does not name the folder, so that equal sets are equal in every byte."""
    return f"Music video clips, {'with' if manifest.labels else 'without'} labels"


def dataset_card(manifest: Manifest, *, licences: Collection[str | None] = ()) -> str:
    """Text of a set's ``README.md``.

    Parameters
    ----------
    manifest
        What ``dataset.json`` says.
    licences
        Different licences of the kept clips, None for clips that came without one.
    """
    samples = sum(split["samples"] for split in manifest.splits.values())
    blocks = [
        _header(manifest, samples, licences),
        f"# {dataset_title(manifest)}",
        f"{samples:,} clips of {CLIP_S} s from music videos ({samples * CLIP_S / 3600:.1f} hours) as tensors, in "
        f"WebDataset tars (schema {manifest.schema_version}, recipe `{manifest.recipe_hash}`). "
        "`report.html` shows them: counts, scores, pictures. `croissant.json` describes the files for machines.",
        "## Splits",
        _splits(manifest),
        "## A sample",
        _members(manifest),
        "Means and standard deviations by channel, to be applied by the reader, stand in `dataset.json`.",
        "## How to load it",
        _loading(manifest),
        "## How it was made",
        _making(manifest),
        "## Candidates and filters",
        _outcome(manifest),
        "## Limits and rights",
        _limits(manifest),
    ]
    return "\n\n".join(blocks) + "\n"


def _header(manifest: Manifest, samples: int, licences: Collection[str | None]) -> str:
    size = next((name for limit, name in SIZES if samples < limit), "1M<n<10M")
    lines = [
        "---",
        f"pretty_name: {json.dumps(dataset_title(manifest))}",
        "tags: [webdataset, music, video, emotion]",
        "task_categories: [video-classification, audio-classification]",
        f"size_categories: [{json.dumps(size)}]",
    ]
    names = card_licences(licences)
    if names == ["other"]:
        lines += ["license: other", "license_name: as-told-for-each-clip-in-index-parquet"]
    elif names:
        lines.append(f"license: {names[0] if len(names) == 1 else json.dumps(names)}")
    if manifest.splits:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in _in_order(manifest):
            lines += [f"  - split: {split}", f'    path: "{split}-*.tar"']
    lines.append("---")
    return "\n".join(lines)


def _in_order(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Splits as the schema lists them: a manifest read back has them by name."""
    return {split: manifest.splits[split] for split in SPLITS if split in manifest.splits}


def _splits(manifest: Manifest) -> str:
    labels = manifest.labels or []
    rows = [
        [split, len(summary["shards"]), summary["samples"], *(summary["per_class"].get(label, 0) for label in labels)]
        for split, summary in _in_order(manifest).items()
    ]
    if not rows:
        return "Nothing was kept."
    return table(["split", "shards", "samples", *labels], rows)


def _members(manifest: Manifest) -> str:
    what = {"frames": "RGB, time x height x width x channel; `frames[::8]` is the slow pathway"}
    rows = []
    for name in stored_members(manifest.recipe):
        file, kind = file_of(name, manifest.recipe), str(MEMBERS[name].dtype)
        if file == SHEET:
            kind = "JPEG: a sheet of 8 x 8 frames, row by row"
        rows.append([f"`{file}`", kind, MEMBERS[name].shape, what.get(name, "log-mel in dB, and phase")])
    if manifest.labels:
        rows.append(
            ["`cls`", "text", "", "class: " + ", ".join(f"{i} {label}" for i, label in enumerate(manifest.labels))]
        )
    rows.append(["`json`", "text", "", "where the clip came from and how it was made"])
    return table(["member", "type", "shape", "what"], rows)


def _loading(manifest: Manifest) -> str:
    shards = [shard for summary in _in_order(manifest).values() for shard in summary["shards"]]
    if not shards:
        return "There is no shard to load."
    train = "finetune" if manifest.labels else "pretrain"
    file = file_of(stored_members(manifest.recipe)[0], manifest.recipe)
    form = {"handler": '"rgb8"', "reshaped": UNTILED} if file == SHEET else {"handler": "", "reshaped": ""}
    code = LOADING.format(shard=shards[0], file=file, **form)
    return f"In this folder:\n\n```python\n{code}```\n\nOr train on it: `python -m trainer.{train} --shards FOLDER`."


def _making(manifest: Manifest) -> str:
    rows = [[f"`{name}`", f"`{json.dumps(value)}`"] for name, value in sorted(manifest.recipe.items())]
    return (
        "The request, as far as the set records it; SOURCE is a folder, a list of links or a search:\n\n"
        f"```sh\n{' '.join(command(manifest))}\n```\n\n"
        + table(["recipe", "value"], rows)
        + "\n\n"
        + table(["tool", "version"], [[name, version] for name, version in sorted(manifest.versions.items())])
    )


def command(manifest: Manifest) -> list[str]:
    """Words of a command that asks for such a set, as far as ``dataset.json`` tells them."""
    settings, recipe = manifest.settings, manifest.recipe
    words = ["python -m flows.build_shards --source SOURCE --out FOLDER"]
    if manifest.labels:
        words.append("--labels mved" if tuple(manifest.labels) == EMOTIONS else "--labels LABELS.csv")
    if settings.get("split_rule"):
        words.append(f"--split {shlex.quote(str(settings['split_rule']))}")
    if recipe.get("modality", "both") != "both":
        words.append(f"--modality {shlex.quote(str(recipe['modality']))}")
    if recipe.get("frames") == "jpeg":
        words.append(f"--frames jpeg --jpeg-quality {shlex.quote(str(recipe.get('jpeg_quality')))}")
    words.append("--denoise" if recipe.get("denoise") else "--no-denoise")
    words.append(f"--seed {settings.get('seed', 0)}")
    words.append(f"--filters {shlex.quote(mode_of(settings))}")
    if limits := thresholds_of(settings):
        words.append("--thresholds " + " ".join(f"{shlex.quote(name)} {value:g}" for name, value in limits.items()))
    if (settings.get("filters") or {}).get("rules") not in (None, rules_hash(read_rules(DEFAULT_RULES))):
        words.append("--rules RULES.csv")
    return words


def _outcome(manifest: Manifest) -> str:
    counts = manifest.counts
    total = sum(counts[status] for status in ("kept", "rejected", "failed"))
    rows = [["kept", counts["kept"], "in the set"]]
    rows += [[f"`{code}`", n, CODES.get(code, "")] for code, n in counts["by_code"].items()]
    blocks = [
        f"{total:,} candidates: {counts['kept']:,} kept, {counts['rejected']:,} rejected, {counts['failed']:,} failed. "
        "Each has a row in `index.parquet`.",
        table(["outcome", "candidates", "what it means"], [*rows, ["all", total, ""]]),
        MODES.get(mode_of(manifest.settings), ""),
    ]
    limits = thresholds_of(manifest.settings)
    if limits:
        by_name = {axis.threshold: axis for axis in AXES if axis.threshold}
        lines = []
        for name, value in limits.items():
            axis = by_name.get(name)
            line = [f"`{axis.column}`", f"{axis.drops} {value:g}", f"`{axis.code}`"] if axis else ["", f"{value:g}", ""]
            lines.append([name, *line])
        blocks.append(table(["threshold", "score", "drops", "as"], lines))
    return "\n\n".join(block for block in blocks if block)


def _limits(manifest: Manifest) -> str:
    labels = (
        "- Labels are those that came with the source; this software did not listen.\n"
        if manifest.labels
        else "- Nobody looked through the clips: what a search or list gives is what is in it, with its biases.\n"
    )
    return (
        labels
        + "- Filters and fingerprints err: some talk, stills and near-duplicates stay, some music videos are lost.\n"
        "- The clips show and play recognisable people and works. Their owners keep their rights in them: the columns "
        "`link`, `uploader` and `licence` of `index.parquet` say where each came from. Check that your use is allowed "
        "before you share this folder."
    )


def table(head: Collection[object], rows: Collection[Collection[object]]) -> str:
    """A table in Markdown; whatever a cell says, it stays one cell and plain text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
    parts = re.split(r"(`[^`]*`)", text)  # in a piece of code a pipe alone would end the cell
    return "".join(re.sub(r"([|])" if n % 2 else r"([|<>\[\]])", r"\\\1", part) for n, part in enumerate(parts))
