"""What a run has seen of a split, followed back through the runs its weights came from."""

import json
import shutil

import pytest

from trainer.leaks import chain, leaked, overlaps
from trainer.runs import group_hash, group_hashes, read_config


@pytest.fixture
def write_run(runs, tmp_path):
    """Write a run that was trained on groups, from another run: ``write_run(name, groups, init=...)``.

    It notes its source's identity, but for one that is not there or ``noted=False``, as earlier releases; ``chosen_by``
    None is theirs too.
    """
    template = json.loads((runs / "finetuned" / "config.json").read_text())

    def write(
        name, groups, *, init=None, kind="pretrain", root=tmp_path, chosen_by=None, created="2026-01-01", noted=True
    ):
        run = root / name
        run.mkdir(parents=True)
        source = init and {"run": str(init), "step": 7}
        if noted and init and init.exists():
            source |= read_config(init).identity
        told = template | {"kind": kind, "init": source, "created": created}
        (run / "config.json").write_text(json.dumps(told))
        if groups is not None:
            trained = group_hashes(groups)
            hashes = trained if chosen_by is None else {"trained": trained, "chosen_by": group_hashes(chosen_by)}
            (run / "groups.json").write_text(json.dumps(hashes))
        return run

    return write


def hashes(*groups):
    return [group_hash(group) for group in groups]


def test_groups_are_counted_for_every_run_of_the_chain(write_run):
    first = write_run("first", ["a", "b"])
    second = write_run("second", ["b", "c", "d"], init=first)
    last = write_run("last", ["e"], init=second, kind="finetune")
    seen = chain(last)
    rows = overlaps(seen, hashes("a", "a", "b", "x", "e"))
    assert [(row["run"], row["phase"]) for row in rows] == [
        (str(last), "finetune"),
        (str(second), "pretrain"),
        (str(first), "pretrain"),
    ]
    assert [(row["trained_groups"], row["groups"], row["samples"]) for row in rows] == [(1, 1, 1), (3, 1, 1), (2, 2, 3)]
    assert leaked(seen) == set(hashes("a", "b", "c", "d", "e"))


def test_groups_that_chose_a_checkpoint_are_counted_apart_and_leak_as_well(write_run):
    first = write_run("first", ["a"], chosen_by=["p", "q"])
    seen = chain(write_run("last", ["b"], chosen_by=["c"], init=first, kind="finetune"))
    rows = overlaps(seen, hashes("b", "c", "c", "q", "x"))
    assert [(row["groups"], row["samples"], row["chosen_by"]) for row in rows] == [(1, 1, 1), (0, 0, 1)]
    assert leaked(seen) == set(hashes("a", "b", "c", "p", "q"))


def test_who_chose_is_unknown_of_a_run_that_did_not_note_it(write_run):
    (row,) = overlaps(chain(write_run("run", ["a"])), hashes("a"))
    assert (row["groups"], row["chosen_by"], row["reason"]) == (1, None, None)


@pytest.mark.parametrize("beside", [False, True])
def test_another_run_under_the_name_of_the_source_is_not_taken_for_it(write_run, tmp_path, beside):
    source = write_run("first", ["a"])
    last = write_run("last", ["e"], init=source, kind="finetune", root=tmp_path / "runs")
    shutil.move(source, tmp_path / "away")
    write_run("first", ["x"], created="2026-01-02", root=tmp_path / "runs" if beside else tmp_path)
    row = overlaps(chain(last), hashes("a", "x"))[-1]
    assert (row["trained_groups"], row["groups"], row["samples"]) == (None, None, None)
    assert row["reason"] == "its folder holds another run now"


def test_the_source_is_found_beside_a_run_though_another_holds_its_name(write_run, tmp_path):
    source = write_run("first", ["a"], root=tmp_path / "before")
    write_run("last", ["e"], init=source, kind="finetune", root=tmp_path / "before")
    shutil.move(tmp_path / "before", tmp_path / "after")
    write_run("first", ["x"], created="2026-01-02", root=tmp_path / "before")
    assert [row["groups"] for row in overlaps(chain(tmp_path / "after" / "last"), hashes("a"))] == [0, 1]


def test_a_run_that_did_not_note_its_source_takes_what_bears_the_name(write_run):
    source = write_run("first", ["a"])
    last = write_run("last", ["e"], init=source, kind="finetune", noted=False)
    shutil.rmtree(source)
    write_run("first", ["x"], created="2026-01-02")
    assert [row["groups"] for row in overlaps(chain(last), hashes("a", "x"))] == [0, 1]


def test_runs_that_were_moved_together_are_found_again(write_run, tmp_path):
    first = write_run("first", ["a"], root=tmp_path / "before")
    write_run("last", ["e"], init=first, kind="finetune", root=tmp_path / "before")
    shutil.move(tmp_path / "before", tmp_path / "after")
    rows = overlaps(chain(tmp_path / "after" / "last"), hashes("a"))
    assert [row["groups"] for row in rows] == [0, 1]


def test_what_cannot_be_told_is_said_and_never_counted_as_none(write_run, tmp_path):
    gone = write_run("last", ["e"], init=tmp_path / "deleted", kind="finetune")
    without = write_run("without", None)
    damaged = write_run("damaged", ["a"], init=without)
    (damaged / "groups.json").write_text("{")
    for run, words in [(gone, "its folder is gone"), (damaged, "groups.json cannot be read")]:
        row = overlaps(chain(run), hashes("a"))[-1]
        assert row["groups"] is None
        assert row["samples"] is None
        assert words in row["reason"]


def test_a_chain_that_leads_back_to_itself_ends(write_run, tmp_path):
    write_run("one", ["a"], init=tmp_path / "two")
    write_run("two", ["b"], init=tmp_path / "one")
    rows = overlaps(chain(tmp_path / "one"), hashes("a"))
    assert [row["reason"] for row in rows] == [None, None, "its folder holds another run now"]
