"""Find the clips of an embedded set that are most like one: in what is seen and heard, or in emotion.

Usage::

    python -m trainer.nearest --embeddings embedded/mved --key 73_9b2de2ff_00000000
    python -m trainer.nearest --embeddings embedded/mved --title "long walk" --by emotion --other-sources
    python -m trainer.nearest --embeddings embedded/mved --video song.mp4 --count 5 --json

``trainer.embed`` makes such a set; ``trainer.neighbours`` tells what is compared, and why so. A video is embedded by
the run that embedded the set, the mean over its windows. A clip never finds itself; clips of its own source group,
which may show or play the same, are marked, and left out with ``--other-sources``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from trainer.devices import Device, Precision, start_fabric
from trainer.embedder import open_embedder
from trainer.embeddings import MEND, PROBABILITY, SCORE, Embeddings, open_embeddings
from trainer.errors import UserError
from trainer.neighbours import content_similarity, emotion_distance
from trainer.runtime import entry, parse, require, warn

PROG = "python -m trainer.nearest"
NAMED = 5  # clips that a refusal lists


@dataclass(frozen=True, kw_only=True)
class Config:
    """Find the clips of an embedded set that are most like one."""

    embeddings: str
    """Folder that trainer.embed wrote."""
    key: str | None = None
    """The clip, by its key."""
    title: str | None = None
    """The clip, by words of its title; they must fit one clip alone."""
    video: str | None = None
    """A video file, in the set or not."""
    by: Literal["content", "emotion"] = "content"
    """content: cosine of standardised embeddings; emotion: Hellinger distance of probabilities."""
    count: int = 10
    """How many to find."""
    other_sources: bool = False
    """Leave out clips of the same source group."""
    json: bool = False
    """Print JSON in place of the table."""
    run: str | None = None
    """For --video: where the run is that embedded the set, if it has moved."""
    every: float = 5.0
    """For --video: seconds from one window to the next, a multiple of 0.5."""
    batch_size: int = 4
    """For --video: windows at a time."""
    device: Device = "auto"
    """auto is CUDA where there is any, else the CPU."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        given = [name for name in ("key", "title", "video") if getattr(self, name) is not None]
        require(len(given) == 1, "name the clip by one of --key, --title and --video")
        require(self.title is None or bool(self.title.split()), "--title: give a word of it")
        require(self.count >= 1, f"--count {self.count}: give 1 or more")
        require(self.batch_size >= 1, f"--batch-size {self.batch_size}: give 1 or more")
        require(self.every > 0, f"--every {self.every:g}: give more than 0, in seconds")

    @property
    def measure(self) -> str:
        """What clips are ordered by."""
        return "similarity" if self.by == "content" else "distance"


class Query(NamedTuple):
    """What is looked for."""

    said: dict[str, Any]
    """What it is, for people and for JSON."""
    row: int | None
    """Its row, if it is of the set."""
    vector_D: np.ndarray
    probabilities_K: np.ndarray | None


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    cfg = parse(Config, argv, prog=PROG)
    embedded = open_embeddings(Path(cfg.embeddings))
    probabilities_NK = embedded.probabilities if cfg.by == "emotion" else None
    query = of_video(embedded, cfg) if cfg.video is not None else of_set(embedded, cfg)
    if probabilities_NK is not None:
        assert query.probabilities_K is not None, "a run with emotions tells them of a video too"
        values, order = emotion_distance(query.probabilities_K, probabilities_NK), 1
    else:
        values, order = content_similarity(query.vector_D, embedded.vectors_ND), -1
    group = None if query.row is None else embedded.table["source_group"][query.row].as_py()
    same = np.array([group is not None and one == group for one in embedded.table["source_group"].to_pylist()])
    every = np.argsort(order * values, kind="stable").tolist()  # of equals the earlier row
    ranked = [row for row in every if row != query.row and not (cfg.other_sources and same[row])]
    found = [told(embedded, row) | {cfg.measure: float(values[row])} for row in ranked[: cfg.count]]
    for one, row in zip(found, ranked, strict=False):
        one["same_source"] = bool(same[row])
    answer = {"query": query.said, "by": cfg.by, "measure": cfg.measure, "nearest": found}
    print(json.dumps(answer, indent=2) if cfg.json else as_table(answer))


def of_set(embedded: Embeddings, cfg: Config) -> Query:
    """Look a clip up.

    Raises
    ------
    UserError
        If none, or more than one, is so called.
    """
    if cfg.key is not None:
        rows = [row for row, key in enumerate(embedded.table["key"].to_pylist()) if key == cfg.key]
        called = f"--key {cfg.key}"
    else:
        words = (cfg.title or "").casefold().split()
        titles = (str(title or "").casefold() for title in embedded.table["title"].to_pylist())
        rows = [row for row, title in enumerate(titles) if all(word in title for word in words)]
        called = f"--title {cfg.title}"
    if not rows:
        raise UserError(f"{plain(called)}: no clip in {embedded.folder} is called so; embeddings.parquet lists them")
    if len(rows) > 1:
        keys = ", ".join(embedded.table["key"][row].as_py() for row in rows[:NAMED])
        raise UserError(
            f"{plain(called)} fits {len(rows)} clips; name one by --key: {keys}{', ...' * (len(rows) > NAMED)}"
        )
    row = rows[0]
    said = embedded.probabilities[row] if embedded.labels else None
    return Query(told(embedded, row), row, np.array(embedded.vectors_ND[row]), said)


def of_video(embedded: Embeddings, cfg: Config) -> Query:
    """Embed a video by the run that embedded the set.

    Raises
    ------
    UserError
        If the run is not there any more or has other weights, or the video cannot be read.
    """
    try:  # to search by key or title the extra is not needed
        from trainer.overall import embed_video, open_video
    except ModuleNotFoundError as error:
        raise UserError(
            f"--video needs the extra `pipeline` beside `trainer`: there is no module {error.name}"
        ) from None
    about, path = embedded.about, Path(cfg.video or "")
    run = Path(cfg.run or about["run"])
    if not run.is_dir():
        raise UserError(f"{run}, which embedded {embedded.folder}, is not there: name its place by --run, or {MEND}")
    opened = open_embedder(run)
    if opened.weights != about["weights"]:
        raise UserError(
            f"{opened.checkpoint} has other weights than what embedded {embedded.folder}, {about['checkpoint']}: "
            f"what they give cannot be compared; {MEND}"
        )
    video = open_video(path, wanted=opened.config.network["modality"], alone=opened.alone)
    fabric = start_fabric(cfg.precision, seed=0, device=cfg.device)
    model = fabric.setup(opened.embedder)
    vector_D, said, windows, problems = embed_video(
        opened, model, video, every_s=cfg.every, batch_size=cfg.batch_size, device=fabric.device
    )
    for problem in problems:
        warn(problem)
    emotions = {} if said is None else {"probabilities": dict(zip(opened.labels or (), said.tolist(), strict=True))}
    asked = {"video": str(path), "title": video.title, "windows": windows, "problems": problems, **emotions}
    return Query(asked, None, vector_D, said)


def told(embedded: Embeddings, row: int) -> dict[str, Any]:
    """What is known of a clip."""
    names = [name for name in embedded.table.column_names if name not in ("x", "y")]
    known = {name: embedded.table[name][row].as_py() for name in names if not name.startswith((PROBABILITY, SCORE))}
    emotions = {label: embedded.table[PROBABILITY + label][row].as_py() for label in embedded.labels or ()}
    return known | ({"probabilities": emotions} if emotions else {})


def as_table(answer: dict[str, Any]) -> str:
    """The answer as lines of columns; names that others gave hold no character that moves a terminal's cursor."""
    query = answer["query"]
    rows = [("", answer["measure"], "key", "label", "likeliest", "title")]
    rows += [
        (
            "same source" if one["same_source"] else "",
            f"{one[answer['measure']]:.3f}",
            plain(one["key"]),
            plain(one["label"] or "-"),
            likeliest(one),
            plain(one["title"] or ""),
        )
        for one in answer["nearest"]
    ]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    padded = [[text.ljust(max(map(len, column))) for text in column] for column in columns]
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    called = plain(query.get("key") or query["video"]), plain(query["title"] or ""), likeliest(query)
    return "\n".join([f"nearest by {answer['by']} to {', '.join(filter(None, called))}", *lines])


def likeliest(one: dict[str, Any]) -> str:
    """The emotion that a run finds likeliest in a clip; nothing where it tells none."""
    if not (said := one.get("probabilities")):
        return ""
    label = max(said, key=lambda name: said[name])
    return f"{plain(label)} {said[label]:.0%}"


def plain(text: str) -> str:
    """Text in which nothing but what can be printed is left."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    main()
