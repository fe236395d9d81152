"""One build of a data set, step by step: what is left to prepare, the plan, the shards, the index.

    build = Build.request(...)      what is wanted; begin() checks it against what stands there
    build.batches(build.pending(), num_workers)
                                    candidates not prepared yet, in batches: stages.prepare_samples in any process,
                                    then shards.commit_part in this one
    build.make_plan()               once all are prepared; written down before the first shard
    build.shards_to_pack()          names: stages.pack_shard in any process, in any order
    build.finish()                  index.parquet, dataset.json, README.md; the parts go

Killed anywhere and run again, it goes on where it was and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, TypeVar

from pipeline import dataset, journal, leftovers, shards
from pipeline.damage import in_a_line, reading
from pipeline.errors import UserError
from pipeline.exclude import Excluded
from pipeline.filters.duplicates import Progress
from pipeline.filters.judge import OFF, Filters
from pipeline.fingerprint import KINDS
from pipeline.locations import Folder
from pipeline.plan import SplitRule
from pipeline.planning import write_plan
from pipeline.prepare import Recipe, versions
from pipeline.schema import EMOTIONS, INDEX, Manifest
from pipeline.sources import Source
from pipeline.stages import rows_of_plan
from pipeline.storage import files_in, publish_text, remove
from pipeline.takedown import PURGED, TakenDown

Row = dict[str, Any]
Item = TypeVar("Item")

NOTHING = Excluded()

KNOWN = ["source_id", "link", "source_group", "status", "code", "detail", "sha256"]
"""Columns of the index that tell what was dealt with, and how."""

NAMED_BY = ["key", "source_id", "link", "source_group", "sha256", *KINDS]
"""Columns that tell whether another set holds the same."""

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
        earlier |= self._earlier_request()
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

        self._require_memory_of_take_downs(manifest)
        with reading(self.out):
            standing = self.committed_rows(NAMED_BY) if self.excluded.identities else ()
            held = [row for row in standing if self.excluded.by_content(row) is not None]
        if held:
            raise UserError(
                f"--exclude: {self.out} holds {len(held)} clips of the excluded sets already, such as "
                f"{held[0]['key']}; build another --out"
            )

    def begin(self) -> list[str]:
        """Write the request down, so that a build that is stopped goes on as it began; clear what a killed one left.

        Returns
        -------
        list of str
            Lines for the log: what an earlier run left that cannot be carried out, and so is done again.
        """
        journal.finish_interrupted(self.out)
        self.check_against_earlier()
        told = leftovers.clear(self.out, holds_unwanted=self._would_pack_excluded)
        publish_text(self._request_file, json.dumps(self._request(), indent=2) + "\n")
        return told

    def _would_pack_excluded(self, plan: Folder) -> bool:
        if not self.excluded.identities:
            return False
        rows = (row for row in rows_of_plan(plan, [*NAMED_BY, "shard"]) if row["shard"])
        return any(self.excluded.by_content(row) is not None for row in rows)

    def _require_memory_of_take_downs(self, manifest: Manifest | None) -> None:
        """Refuse a set that has lost its index, where that alone knew what no run may bring back."""
        if manifest is not None and (self.out / journal.LOG).exists() and not (self.out / "index.parquet").exists():
            raise UserError(
                f"{self.out} has lost its index.parquet, which knew what was taken down ({journal.LOG} tells when); "
                f"bring a copy of it, or remove {journal.LOG} and take down again what comes back"
            )

    @property
    def _request_file(self) -> Folder:
        return self.work / "request.json"

    def _earlier_request(self) -> dict[str, Any]:
        """What a build that is not finished was begun with."""
        file = self._request_file
        try:
            return {**json.loads(file.read_text())} if file.exists() else {}
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{file} is damaged ({in_a_line(error)}); remove it, and build with the flags of before"
            ) from error

    def _request(self) -> dict[str, Any]:
        origin = None if self.origin is None else hashlib.sha256(self.origin.encode()).hexdigest()[:16]
        return {"recipe": self.recipe.to_dict(), **asdict(self.settings), "origin": origin}

    # --- prepare -------------------------------------------------------------------------------------------------

    def known_rows(self) -> list[Row]:
        """What is known of every candidate dealt with: by earlier builds, in a pending plan, or in a whole part."""
        with reading(self.out):
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
        if not (self.out / "index.parquet").exists():
            return None
        return shards.read_manifest(self.out)

    @staticmethod
    def batches(pending: Sequence[Item], num_workers: int) -> list[Sequence[Item]]:
        """Cut what is pending into batches, smaller ones towards the end, so that no worker waits long for another.

        Guided self-scheduling (Polychronopoulos & Kuck 1987): each takes a share of what is left.
        """
        batches: list[Sequence[Item]] = []
        begin = 0
        while begin < len(pending):
            size = max(1, min(MAX_BATCH, (len(pending) - begin) // (2 * num_workers)))
            batches.append(pending[begin : begin + size])
            begin += size
        return batches

    def parts(self) -> list[Folder]:
        """Tables of all whole parts."""
        return files_in(self.work, "part-*.parquet")

    def plan_rows(self, columns: Sequence[str] | None = None, *, shard: str | None = None) -> Iterator[Row]:
        """Rows of the pending plan, or those of one shard; none where there is none."""
        if self.plan_file.exists():
            yield from rows_of_plan(self.plan_file, columns, shard=shard)

    def _left_out(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Rows of what finished builds did not keep, but for what a pending plan names: it may stand there already."""
        gone = self.superseded | {row["source_id"] for row in self.plan_rows(["source_id"])}
        return (row for row in dataset.left_out_rows(self.out, columns) if row["source_id"] not in gone)

    def prepared_rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Some columns of the rows of what is prepared and to be kept, and does not stand yet."""
        standing = {tar.name for tar in shards.committed_shards(self.out)}
        tables = [self.plan_file] if self.plan_file.exists() else self.parts()
        rows = (row for table in tables for row in shards.read_rows(table, [*columns, "status", "shard"]))
        return (row for row in rows if row["status"] == "kept" and row["shard"] not in standing)

    def committed_rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Some columns of the rows of the shards that stand."""
        return dataset.kept_rows(self.out, columns)

    # --- plan ----------------------------------------------------------------------------------------------------

    @property
    def plan_file(self) -> Folder:
        """Every candidate of this build and where it goes; while it exists, the build is not finished."""
        return self.work / dataset.PLAN

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
            leftovers.drop_stale_records(self.out)

    # --- pack ----------------------------------------------------------------------------------------------------

    def shards_to_pack(self) -> list[str]:
        """Names of the planned shards that are not committed yet."""
        planned = {row["shard"] for row in self.plan_rows(["shard"]) if row["shard"]}
        packed = {tar.name for tar in shards.committed_shards(self.out)}
        return sorted(planned - packed)

    # --- finish --------------------------------------------------------------------------------------------------

    def finish(self) -> Manifest:
        """Derive index, ``dataset.json`` and card from the commit records and the plan, then drop plan and parts.

        Raises
        ------
        UserError
            If a planned shard does not stand: the plan stays, and its samples.
        """
        if missing := self.shards_to_pack():
            raise UserError(
                f"{self.out}: {missing[0]} is planned and not there ({len(missing)} such); "
                "nothing was published; the same command packs it"
            )
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
