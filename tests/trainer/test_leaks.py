"""What a run has seen of a split, followed back through the runs its weights came from."""

import json
import shutil

import pytest

from trainer.leaks import chain, leaked, overlaps
from trainer.runs import group_hash, group_hashes


@pytest.fixture
def write_run(runs, tmp_path):
    """Write a run that was trained on groups, from another run: ``write_run(name, groups, init=...)``."""
    template = json.loads((runs / "finetuned" / "config.json").read_text())

    def write(name, groups, *, init=None, kind="pretrain", root=tmp_path):
        run = root / name
        run.mkdir(parents=True)
        told = template | {"kind": kind, "init": init and {"run": str(init), "step": 7}}
        (run / "config.json").write_text(json.dumps(told))
        if groups is not None:
            (run / "groups.json").write_text(json.dumps(group_hashes(groups)))
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
