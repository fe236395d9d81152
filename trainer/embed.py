"""Embed a data set: what the network sees in each clip, as rows to search, to map, or to learn from.

Usage::

    python -m trainer.embed --run runs/first --shards shards/mved --out embedded/mved
    python -m trainer.embed --run runs/pretrained --shards shards/unlabeled --out embedded/unlabeled    # content alone
    python -m trainer.embed --run runs/first --shards shards/mved --split test --out embedded/test

Writes ``embeddings.npy``, ``embeddings.parquet`` (a row a sample, in the same order), ``map.html`` (open it in any
browser) and ``embed.json``; ``trainer.embeddings`` tells what is in them, ``python -m trainer.nearest`` searches them.
The run is taken as ``trainer.evaluate`` takes it: its best checkpoint, its own normalisation, whole clips unaugmented.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from trainer.devices import Device, Precision, default_workers, describe, start_fabric
from trainer.embedder import embed_batches, open_embedder
from trainer.embeddings import FILES, described, require_ours, vector_file, with_places, with_said
from trainer.errors import UserError, one_line
from trainer.files import now, require_folder, together
from trainer.inputs import Inputs
from trainer.layout import chosen_rows, lay_out
from trainer.loader import Loader
from trainer.neighbours import Standard, nearest_each
from trainer.order import Order
from trainer.page.mapping import NEIGHBOURS, map_page
from trainer.runs import require_same, versions
from trainer.runtime import entry, parse, require, say, warn
from trainer.shards import ShardSet, fingerprint, keys_of, num_samples
from trainer.thumbnails import MAX_THUMBNAILS, Thumbnails

PROG = "python -m trainer.embed"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Embed a data set, for searching it and for a map."""

    run: str
    """Run folder that trainer.finetune or trainer.pretrain wrote."""
    shards: str
    """Data set, labelled or not: a folder, a glob of its tars, or an fsspec address."""
    split: Literal["all", "train", "val", "test", "unlabeled"] = "all"
    """Which of the set's splits."""
    out: str
    """Folder for the embeddings and the map."""
    batch_size: int = 8
    """Clips at a time."""
    workers: int | None = None
    """Reader processes; by default up to 4 beside a GPU, else 0."""
    device: Device = "auto"
    """auto is CUDA where there is any, else the CPU."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        require(self.batch_size >= 1, f"--batch-size {self.batch_size}: give 1 or more")
        require(self.workers is None or self.workers >= 0, f"--workers {self.workers}: give 0 or more")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG)
    run, out = Path(cfg.run), Path(cfg.out)
    opened = open_embedder(run)
    require_folder(out)
    require_ours(out)

    # --- data
    data = ShardSet.open(cfg.shards)
    require_same(run, opened.config, recipe=data.manifest.recipe)
    shards = list(data.shards) if cfg.split == "all" else data.split(cfg.split)
    place = {key: row for row, key in enumerate(keys_of(shards))}
    if len(place) != num_samples(shards):
        raise UserError(f"{cfg.shards} holds a key twice; build the set again, in one folder of its own")
    table = described(data, shards)

    # --- network
    fabric = start_fabric(cfg.precision, seed=0, device=cfg.device)
    model = fabric.setup(opened.embedder)
    to_inputs = Inputs(opened.embedder.encoder.inputs, opened.config.normalization, fabric.device)
    data.require(to_inputs.members)
    say(f"run: {run}, {opened.config.name}, {opened.checkpoint.name}, {describe(fabric)}")
    say(f"data: {len(place)} samples of {cfg.shards}, split {cfg.split}")
    if not opened.state.get("batchnorm_reestimated", True):
        warn(f"{opened.checkpoint} was saved mid-run, with batch-norm statistics that lag behind")

    # --- what is on the map, and which of it has pictures
    pictured = 0 if data.modality == "audio" else MAX_THUMBNAILS
    on_map = chosen_rows(len(place), first=MAX_THUMBNAILS)
    on_sheet = {int(row): i for i, row in enumerate(on_map[:pictured])}
    thumbnails = Thumbnails.room_for(len(on_sheet))
    members = tuple(dict.fromkeys((*to_inputs.members, *(["frames"] if on_sheet else []))))

    try:
        with together(out, FILES, last="embed.json") as made:
            # --- embeddings, as they come
            workers = default_workers(fabric) if cfg.workers is None else cfg.workers
            order = Order(batch_size=cfg.batch_size, shuffle=False, workers=workers)
            batches = Loader(data, shards, members=members, order=order).batches()
            said = np.zeros((len(place), len(opened.labels or ())))
            with (
                vector_file(made / "embeddings.npy", num_rows=len(place), width=opened.width) as vectors,
                tqdm(total=len(place), unit="clip", disable=None, dynamic_ncols=True, leave=False) as bar,
            ):
                for batch, found in embed_batches(model, batches, to_inputs):
                    rows = [place[key] for key in batch["keys"]]
                    for i, row in enumerate(rows):
                        vectors.write(row, found.embeddings_BD[i])
                        if row in on_sheet:
                            thumbnails.take(on_sheet[row], batch["frames"][i].numpy())
                    if found.probabilities_BK is not None:
                        said[rows] = found.probabilities_BK
                    bar.update(len(rows))
            vectors_ND = np.load(made / "embeddings.npy", mmap_mode="r")
            if not np.isfinite(vectors_ND.sum(dtype=np.float64)):
                raise UserError(f"{opened.checkpoint} gives embeddings that are no numbers: the run came to grief")

            # --- the map
            say(f"map: {len(on_map)} of {len(place)} samples")
            standardised = Standard.of(vectors_ND)(vectors_ND[on_map])
            places_N2, method = lay_out(standardised)
            neighbours = nearest_each(standardised, NEIGHBOURS)

            # --- files
            if opened.labels is not None and opened.sigmoids is not None:
                table = with_said(table, opened.labels, said, opened.sigmoids(said))
            pq.write_table(with_places(table, on_map, places_N2), made / "embeddings.parquet")
            about = {
                "n": len(place),
                "dimensions": opened.width,
                "run": str(run),
                "kind": opened.config.kind,
                "network": opened.config.name,
                "checkpoint": opened.checkpoint.name,
                "weights": opened.weights,
                "labels": opened.labels,
                "set_labels": data.manifest.labels,
                "shards": cfg.shards,
                "split": cfg.split,
                "samples": fingerprint(shards),
                "map": {"points": len(on_map), "thumbnails": len(thumbnails.pictures), **method},
                "device": describe(fabric),
                "flags": asdict(cfg),
                "embedded": now(),
                "versions": versions(),
            }
            page = map_page(
                about, table.take(pa.array(on_map)), said[on_map], places_N2, neighbours, thumbnails.sheet()
            )
            (made / "map.html").write_text(page, encoding="utf-8")
            (made / "embed.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"the embeddings cannot be written to {out}: {one_line(error)}") from None
    say(f"done: {len(place)} embeddings of {opened.width} numbers; {out}/map.html")


if __name__ == "__main__":
    main()
