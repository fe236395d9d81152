"""Rows by the value of a column: those that a look at every row finds, read from the groups that may hold them."""

import random

import pyarrow as pa
import pytest

from pipeline import shards
from pipeline.shards import Only

SCHEMA = pa.schema([("key", pa.string()), ("code", pa.string())])


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Rows in groups of three: of one code, of several, of none."""
    monkeypatch.setattr(shards, "ROWS_AT_ONCE", 3)
    draw = random.Random(0)
    codes = ["b"] * 9 + [None] * 6 + [draw.choice(["a", "b", "c", None]) for _ in range(32)] + ["c"] * 4
    rows = [{"key": f"{n}", "code": code} for n, code in enumerate(codes)]
    shards.write_rows(tmp_path / "table.parquet", rows, SCHEMA)
    return tmp_path / "table.parquet", rows


@pytest.mark.parametrize("columns", [None, ["key"], ["code", "key"]])
@pytest.mark.parametrize("value", ["a", "b", "c", "missing"])
def test_the_rows_of_a_value_are_those_that_a_look_at_every_row_finds(table, value, columns):
    file, rows = table
    wanted = columns or SCHEMA.names
    for only, expected in (
        (Only("code", value), [row for row in rows if row["code"] == value]),
        (Only("code", value, another=True), [row for row in rows if row["code"] not in (value, None)]),
    ):
        assert shards.read_rows(file, columns, only=only) == [{name: row[name] for name in wanted} for row in expected]


def test_groups_that_hold_none_of_them_are_not_read(table):
    file, rows = table
    read = list(shards.read_tables(file, only=Only("code", "b", another=True)))
    assert len(read) <= (len(rows) + 2) // 3 - 5  # three of them hold "b" alone, two nothing
    assert list(shards.read_tables(file, only=Only("code", "missing"))) == []
