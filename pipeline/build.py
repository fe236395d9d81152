"""One build of a data set, step by step: what is left to prepare, the plan, the shards, the index.

    build = Build.request(...)      what is wanted; begin() checks it against what stands there
    build.batches(workers)          candidates not prepared yet, cut into batches     -> prepare_batch, in any process
    build.make_plan()               once all are prepared; written down before the first shard
    build.shards_to_pack()          -> build.pack(shard), in any order
    build.finish()                  index.parquet, dataset.json, README.md; the parts go

Killed anywhere and run again, it goes on where it was and ends in the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline import dataset, journal, shards
from pipeline.errors import DISK_ERRNOS, UserError
from pipeline.exclude import Excluded
from pipeline.filters.duplicates import Progress
from pipeline.filters.judge import OFF, Filters
from pipeline.fingerprint import KINDS
from pipeline.plan import SplitRule
from pipeline.planning import write_plan
from pipeline.prepare import Recipe, prepare, versions
from pipeline.schema import EMOTIONS, INDEX, Manifest, Rejected
from pipeline.sources import Source
from pipeline.storage import Folder, files_in, local_copy, publish_text, remove, storage_errors
from pipeline.takedown import PURGED, TakenDown

Row = dict[str, Any]

NOTHING = Excluded()

KNOWN = ["source_id", "link", "source_group", "status", "code", "detail", "sha256"]
"""Columns of the index that tell what was dealt with, and how."""

PLAN = "plan.parquet"

MAX_BATCH = 16  # candidates: about 80 MB a part, 10 s of work


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a set is drawn: fixed by its first build, since later builds only append."""

    seed: int
    split_rule: SplitRule | None
    labels: list[str] | None
    filters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Build:
    """A request to bring a folder up to date with a list of sources."""

    out: Folder
    sources: Sequence[Source]
    recipe: Recipe
    settings: Settings
    samples_per_shard: int
    origin: str | None = None
    """The folder that the sources' paths are relative to; none for links, which stand for themselves."""
    filters: Filters = OFF
    """What drops a clip, or is scored alone."""
    excluded: Excluded = NOTHING
    """What other sets hold and this one must not."""
    superseded: frozenset[str] = frozenset()
    """Lists that an earlier run could not read; the videos that they list stand in their place now."""

    @property
    def work(self) -> Folder:
        """Folder of what a build needs until it is finished: parts, plan, lock."""
        return self.out / dataset.WORK

    @classmethod
    def request(
        cls,
        *,
        out: Folder,
        sources: Sequence[Source],
        recipe: Recipe,
        seed: int,
        labelled: str | None,
        split_rule: SplitRule | None,
        samples_per_shard: int,
        limit: int | None = None,
        origin: str | None = None,
        filters: Filters = OFF,
        excluded: Excluded = NOTHING,
        superseded: frozenset[str] = frozenset(),
    ) -> Build:
        """Settle what is wanted; classes and split rule do not depend on the limit.

        Raises
        ------
        UserError
            If the request contradicts itself.
        """
        if labelled is None and split_rule is not None:
            raise UserError("--split is for labelled sets; give --labels, or leave it out")
        usable = [source for source in sources if source.problem is None]
        if labelled is not None:
            unsplit = [source for source in usable if source.split is None]
            split_rule = split_rule or ("grouped" if unsplit else "official")
            if split_rule == "official" and unsplit:
                raise UserError(
                    f"--split official: {unsplit[0].source_id} came with no split ({len(unsplit)} such); "
                    "name splits in a column `split`, or use --split grouped"
                )
        labels = _label_names(usable, labelled)
        settings = Settings(seed=seed, split_rule=split_rule, labels=labels, filters=filters.to_dict())
        return cls(
            out=out,
            sources=[_unless_excluded(source, excluded) for source in sources[:limit]],
            recipe=recipe,
            settings=settings,
            samples_per_shard=samples_per_shard,
            origin=origin,
            filters=filters,
            excluded=excluded,
            superseded=superseded,
        )

    def check_against_earlier(self) -> None:
        """Compare the request with what stands in ``out``.

        Raises
        ------
        UserError
            If an earlier build had another recipe, seed, split rule, other classes, or another folder of sources.
        """
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is no folder; choose another")
        manifest = shards.read_manifest(self.out)
        earlier = {"recipe": manifest.recipe, **manifest.settings} if manifest else {}
        if self._request_file.exists():
            earlier |= json.loads(self._request_file.read_text())
        if earlier:
            earlier.setdefault("filters", OFF.to_dict())  # a set from before there were any
        for name, ours in self._request().items():
            if name == "origin" and name in earlier and earlier[name] != ours:
                raise UserError(
                    f"{self.out} was begun from another --source, a folder or a crawl, and its names go by that one; "
                    f"choose another --out (or, if the same folder was moved, remove {self._request_file})"
                )
            if name in earlier and earlier[name] != ours:
                was, now = _differing(earlier[name], ours)
                raise UserError(
                    f"{self.out} was begun with {name} {json.dumps(was)}, not with {json.dumps(now)}; "
                    "choose another --out, or ask for the same"
                )

        named_by = ["key", "source_id", "link", "source_group", "sha256", *KINDS]
        standing = self.committed_rows(named_by) if self.excluded.identities else ()
        held = [row for row in standing if self.excluded.by_content(row) is not None]
        if held:
            raise UserError(
                f"--exclude: {self.out} holds {len(held)} clips of the excluded sets already, such as "
                f"{held[0]['key']}; build another --out"
            )

    def begin(self) -> None:
        """Write the request down, so that a build that is stopped goes on as it began; clear what a killed one left."""
        journal.finish_interrupted(self.out)
        self.check_against_earlier()
        remove([*files_in(self.out, ".*.tmp", ".*.purge"), *files_in(self.work, ".*.tmp")])
        whole = {part.stem for part in self.parts()}
        samples = files_in(self.work, "part-*-*.tar")
        remove(sample for sample in samples if sample.stem.rpartition("-")[0] not in whole)  # of a part cut short
        publish_text(self._request_file, json.dumps(self._request(), indent=2) + "\n")

    @property
    def _request_file(self) -> Folder:
        return self.work / "request.json"

    def _request(self) -> dict[str, Any]:
        origin = None if self.origin is None else hashlib.sha256(self.origin.encode()).hexdigest()[:16]
        return {"recipe": self.recipe.to_dict(), **asdict(self.settings), "origin": origin}

    # --- prepare -------------------------------------------------------------------------------------------------

    def known_rows(self) -> list[Row]:
        """What is known of every candidate dealt with: by earlier builds, in a pending plan, or in a whole part."""
        planned = list(self.plan_rows(KNOWN))
        dealt_with = planned or [row for part in self.parts() for row in shards.read_rows(part, KNOWN)]
        again = {row["source_id"] for row in planned}  # it may stand in shards already
        standing = [row for row in self.committed_rows(KNOWN) if row["source_id"] not in again]
        return [*self._left_out(KNOWN), *standing, *dealt_with]

    def pending(self, again: Collection[str] = ()) -> list[Source]:
        """Candidates to prepare, in order.

        Those not dealt with yet, and those that failed, by no fault of theirs; where codes are named, those that have
        one of them, and no others. What was taken down never is; a new candidate of the same video has that problem.
        """
        rows = self.known_rows()
        taken_down = TakenDown.of(rows)
        if again:
            wanted = {row["source_id"] for row in rows if row["code"] in again and row["code"] != PURGED}
            return [taken_down.unless(source) for source in self.sources if source.source_id in wanted]
        known = {row["source_id"] for row in rows if row["status"] != "failed"}
        return [taken_down.unless(source) for source in self.sources if source.source_id not in known]

    def taken_down(self) -> TakenDown:
        """What no run may bring back; a fetched page may tell that a candidate is among it."""
        return TakenDown.of(self.known_rows())

    def num_untouched(self) -> int:
        """Count the candidates that no run has dealt with."""
        known = {row["source_id"] for row in self.known_rows()}
        return sum(source.source_id not in known for source in self.sources)

    def up_to_date(self, again: Collection[str] = ()) -> Manifest | None:
        """Return the set's manifest if nothing is left to do."""
        if journal.file_of(self.out).exists() or self.plan_file.exists() or self.parts() or self.pending(again):
            return None
        return shards.read_manifest(self.out)

    @staticmethod
    def batches(pending: list[Source], num_workers: int) -> list[list[Source]]:
        """Cut what is pending into batches, small enough to keep all workers busy to the end."""
        size = max(1, min(MAX_BATCH, len(pending) // (4 * num_workers)))
        return [pending[i : i + size] for i in range(0, len(pending), size)]

    def parts(self) -> list[Folder]:
        """Tables of all whole parts."""
        return files_in(self.work, "part-*.parquet")

    def plan_rows(self, columns: Sequence[str] | None = None, *, shard: str | None = None) -> Iterator[Row]:
        """Rows of the pending plan, or those of one shard; none where there is none."""
        if self.plan_file.exists():
            yield from _rows_of_plan(self.plan_file, columns, shard=shard)

    def _left_out(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Rows of what finished builds did not keep, but for what a pending plan names: it may stand there already."""
        gone = self.superseded | {row["source_id"] for row in self.plan_rows(["source_id"])}
        return (row for row in dataset.left_out_rows(self.out, columns) if row["source_id"] not in gone)

    def committed_rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Some columns of the rows of the shards that stand."""
        return dataset.kept_rows(self.out, columns)

    # --- plan ----------------------------------------------------------------------------------------------------

    @property
    def plan_file(self) -> Folder:
        """Every candidate of this build and where it goes; while it exists, the build is not finished."""
        return self.work / PLAN

    def make_plan(self, progress: Progress = lambda done, total: None) -> None:
        """Place what was prepared; ``progress`` is told how many clips are compared to the others, of how many.

        A plan that is pending already stands: its shards may be half packed.
        """
        if not self.plan_file.exists():
            write_plan(
                self.plan_file,
                parts=self.parts(),
                folder=self.out,
                order=[source.source_id for source in self.sources],
                split_rule=self.settings.split_rule,
                seed=self.settings.seed,
                samples_per_shard=self.samples_per_shard,
                mode=self.filters.mode,
                excluded=self.excluded,
                progress=progress,
            )

    # --- pack ----------------------------------------------------------------------------------------------------

    def shards_to_pack(self) -> list[str]:
        """Names of the planned shards that are not committed yet."""
        planned = {row["shard"] for row in self.plan_rows(["shard"]) if row["shard"]}
        packed = {tar.name for tar in shards.committed_shards(self.out)}
        return sorted(planned - packed)

    def pack(self, name: str) -> None:
        """Write one shard and its commit record."""
        pack_shard(self.out, name, self.settings.labels, self.recipe.hash)

    # --- finish --------------------------------------------------------------------------------------------------

    def finish(self) -> Manifest:
        """Derive index, ``dataset.json`` and card from the commit records and the plan, then drop plan and parts."""
        planned = (row for row in self.plan_rows(INDEX.names) if row["status"] != "kept")
        manifest = dataset.publish(
            self.out,
            chain(self._left_out(), planned),
            labels=self.settings.labels,
            recipe=self.recipe.to_dict(),
            recipe_hash=self.recipe.hash,
            settings=asdict(self.settings),
            versions=versions(),
        )
        # The plan goes last: without it, parts left behind would be planned again.
        remove(files_in(self.work, "part-*"))
        remove([self.plan_file])
        return manifest


def prepare_batch(
    folder: Folder, sources: Sequence[Source], recipe: Recipe, seed: int, filters: Filters = OFF
) -> list[Row]:
    """Prepare a batch into one part."""
    rows = prepare_samples(folder, sources, recipe, seed, filters)
    shards.commit_part(folder, sources, rows)
    return rows


def prepare_samples(
    folder: Folder, sources: Sequence[Source], recipe: Recipe, seed: int, filters: Filters = OFF
) -> list[Row]:
    """Prepare a batch but for its commit; our own errors become ``failed(internal)`` rows, the traceback in detail.

    Where a worker may outlive the flow that sent it, the flow commits: what is late is no part then.
    """

    def candidates() -> Iterator[shards.Prepared]:
        for source in sources:
            try:
                with at_hand(source) as here:
                    outcome = prepare(here, recipe=recipe, seed=seed, filters=filters)
                yield shards.prepared(source, outcome, jpeg_quality=recipe.jpeg_quality)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
                    raise
                yield shards.prepared(source, failed(source, traceback.format_exc()))

    return shards.write_samples(folder, sources, candidates())


def pack_shard(folder: Folder, name: str, labels: Sequence[str] | None, recipe_hash: str) -> None:
    """Write one planned shard and its record, unless it stands: a cluster may run a task twice, or both at once."""
    record, work = shards.record_of(folder / name), folder / dataset.WORK
    if not record.exists():
        rows = list(_rows_of_plan(work / PLAN, shard=name))
        try:
            shards.pack_shard(folder, rows, parts=work, labels=labels, recipe_hash=recipe_hash)
        except FileNotFoundError:
            if not record.exists():  # or the other one was faster, and has removed what it packed
                raise


@contextmanager
def at_hand(source: Source) -> Iterator[Source]:
    """A candidate whose file lies on this machine's disk, for as long as it is prepared.

    A store that cannot be reached is a failure, so that the next run tries again.
    """
    if source.path is None or isinstance(source.path, Path) or source.problem is not None:
        yield source
        return
    with contextlib.ExitStack() as stack:
        try:
            here = replace(source, path=stack.enter_context(local_copy(source.path)))
        except storage_errors() as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
                raise
            here = replace(source, problem=("network", f"its store gave no file: {error}"))
        yield here


def fail_alone(folder: Folder, source: Source, detail: str) -> list[Row]:
    """Write the part of a candidate that could not be prepared at all."""
    return shards.write_part(folder, [source], [shards.prepared(source, failed(source, detail))])


def failed(source: Source, detail: str) -> Rejected:
    """Outcome of a candidate on which our own code broke."""
    known = {"source_id": source.source_id, "link": source.link, "title": source.title}
    return Rejected(code="internal", detail=detail, meta=known)


def _rows_of_plan(plan: Folder, columns: Sequence[str] | None = None, *, shard: str | None = None) -> Iterator[Row]:
    only = None if shard is None else pc.field("shard") == shard
    for table in shards.read_tables(plan, columns, only=only):
        yield from table.to_pylist()


def _differing(was: Any, now: Any) -> tuple[Any, Any]:
    """What of two settings differs: of tables, the fields that do."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return was, now
    pairs = {
        name: _differing(was.get(name), now.get(name)) for name in {**was, **now} if was.get(name) != now.get(name)
    }
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def _unless_excluded(source: Source, excluded: Excluded) -> Source:
    if source.problem is not None or (why := excluded.by_identity(source)) is None:
        return source
    return replace(source, problem=("excluded", why))


def _label_names(usable: Sequence[Source], labelled: str | None) -> list[str] | None:
    if labelled is None:
        return None
    return list(EMOTIONS) if labelled == "mved" else sorted({source.label for source in usable if source.label})
