"""Card and page of a data set: README.md, croissant.json and report.html.

    python -m pipeline.report shards/mved

writes them anew from the set's index, dataset.json and tars; a build does the same at its end. Open report.html in any
browser, from the disk or from any server: it is one file, fetches nothing and runs no script.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from pipeline import shards
from pipeline.card import command, dataset_card, dataset_title
from pipeline.command import exit_code
from pipeline.damage import reading
from pipeline.errors import UserError
from pipeline.locations import Folder, folder_of
from pipeline.page import clips
from pipeline.page.balance import balance
from pipeline.page.cards import kept_cards, rejected_cards, shown_clips
from pipeline.page.charts import draw
from pipeline.page.croissant import MAX_TARS, StoredFile, croissant
from pipeline.page.index import Index, tally
from pipeline.page.outcome import outcome
from pipeline.page.scores import QUANTILES, histograms, mode_of, rule_counts, thresholds_of
from pipeline.schema import CLIP_S, MEMBERS, SAMPLE_RATES_HZ, Manifest
from pipeline.storage import opened, publish_text, readable, remove

TEMPLATES = Path(__file__).with_name("page")

CHANNELS = {"frames": ("red", "green", "blue")}


def publish(folder: Folder, manifest: Manifest) -> None:
    """Write the pages at the end of a build, which does not fail for a page that cannot be drawn: the set is whole.

    Raises
    ------
    OSError
        If the disk is full.
    UserError
        If the folder holds no index that can be read.
    """
    try:
        write(folder, manifest)
    except (OSError, UserError):
        raise
    except Exception as error:
        remove([folder / "report.html"])  # an earlier one, if any, tells of another set
        again = f"python -m pipeline.report {folder}"
        warnings.warn(f"{folder} is whole, but its page cannot be drawn ({error!r}); {again} tries again", stacklevel=2)


def write(folder: Folder, manifest: Manifest) -> None:
    """Write card, Croissant file and page of a set whose index, ``dataset.json`` and tars stand.

    Raises
    ------
    UserError
        If the folder holds no index that can be read.
    """
    manifest = Manifest.from_json(manifest.to_json())  # in the order of the file, whoever calls
    index = Index(folder / "index.parquet")
    licences = list(tally(index.column("licence"), index.kept))
    tars = stored_tars(folder)
    publish_text(folder / "README.md", dataset_card(manifest, licences=licences))
    described = croissant(
        manifest,
        title=dataset_title(manifest),
        tars=tars,
        index=stored_file(folder / "index.parquet"),
        columns=index.columns,
        licences=licences,
    )
    publish_text(folder / "croissant.json", described)
    publish_text(folder / "report.html", page(folder, manifest, index=index, tars=tars))


def page(folder: Folder, manifest: Manifest, *, index: Index, tars: Sequence[StoredFile]) -> str:
    """Text of ``report.html``."""
    mode = mode_of(manifest.settings)
    counted = histograms(index, thresholds_of(manifest.settings))
    spread = balance(index, manifest)
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text: str = _template().render(
        title=dataset_title(manifest),
        style=Markup(style),  # our own file
        style_hash=digest,
        manifest=manifest,
        mode=mode,
        has_settings="filters" in manifest.settings,
        outcome=outcome(index),
        hours=index.kept.sum() * CLIP_S / 3600,
        tars=tars,
        num_bytes=sum(tar.num_bytes for tar in tars),
        scores=[(one, draw(one, verb="drops" if mode == "drop" else "flags")) for one in counted],
        quantiles=[f"{share:.0%}" for share in QUANTILES],
        rules=rule_counts(index),
        kept=kept_cards(folder, index, clips.choose_kept(index)),
        flagged=kept_cards(folder, index, clips.choose_flagged(index)),
        rejected=rejected_cards(index),
        balance=spread,
        durations=draw(spread.durations) if spread.durations else None,
        shown=shown_clips(folder, index, manifest),
        normalization=normalization_rows(manifest),
        command=command(manifest),
        members=clips.stored_members(manifest.recipe),
        rates=SAMPLE_RATES_HZ,
        sizes={name: member.shape for name, member in MEMBERS.items()},
        max_tars=MAX_TARS,
    )
    return text


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{int(number):,}"
    environment.filters["size"] = in_bytes
    environment.filters["asjson"] = lambda value: json.dumps(value, sort_keys=True)
    return environment.get_template("report.html.j2")


def stored_tars(folder: Folder) -> list[StoredFile]:
    """Tars with the sizes and hashes that their commit records tell.

    Raises
    ------
    UserError
        If a record cannot be read.
    """
    found = []
    for tar in shards.committed_shards(folder):
        try:
            told = pq.read_metadata(readable(shards.record_of(tar))).metadata or {}
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{shards.record_of(tar)} is no commit record; build the set again") from error
        size = told.get(b"tar_bytes", b"").decode()
        found.append(StoredFile(tar.name, int(size) if size.isdigit() else 0, told.get(b"tar_sha256", b"").decode()))
    return found


def stored_file(file: Folder) -> StoredFile:
    """Name, size and hash of a file."""
    with opened(file) as stream:
        return StoredFile(file.name, file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def normalization_rows(manifest: Manifest) -> list[tuple[str, str, float, float]]:
    """Member, channel, mean and standard deviation."""
    rows = []
    for name in (name for name in MEMBERS if name in manifest.normalization):
        stats = manifest.normalization[name]
        channels = CHANNELS.get(name, ("log-mel, dB", "phase"))
        rows += [(name, *line) for line in zip(channels, stats["mean"], stats["std"], strict=True)]
    return rows


def in_bytes(number: int) -> str:
    """Words for a size, in powers of 1000."""
    size = float(number)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def rebuild(folder: Folder) -> None:
    """Write the pages of a set that stands in a folder.

    Raises
    ------
    UserError
        If it holds none.
    """
    try:
        manifest = shards.read_manifest(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / 'dataset.json'} cannot be read ({error}); build the set again") from error
    if manifest is None:
        raise UserError(f"{folder} holds no dataset.json; name the folder of a data set, such as shards/mved")
    write(folder, manifest)


def redraw(address: tyro.conf.Positional[str], /) -> int:
    """Write README.md, croissant.json and report.html of a data set anew.

    Args:
        address: Of the data set, such as shards/mved or s3://bucket/mved.
    """
    folder = folder_of(address)
    with reading(folder):
        rebuild(folder)
    print(f"report: {folder / 'report.html'}, beside README.md and croissant.json")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    asked = partial(tyro.cli, redraw, prog="python -m pipeline.report", description=__doc__, args=argv)
    return exit_code("report", asked)


if __name__ == "__main__":
    sys.exit(main())
