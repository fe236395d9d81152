from __future__ import annotations

import pytest

from benchmarks import aims


def test_the_tables_of_the_documents_are_those_of_the_results():
    texts = [document.read_text() for document in aims.DOCUMENTS]
    assert {found["name"] for text in texts for found in aims.SECTION.finditer(text)} == set(aims.SECTIONS)
    assert [aims.with_tables(text) for text in texts] == texts


def test_every_aim_has_its_result():
    assert [aim.what for aim in aims.aims() if aims.read(aim.file) is None] == []


@pytest.mark.parametrize(("value", "met"), [(1.24, True), (1.25, True), (1.26, False)])
def test_an_aim_is_met_at_its_limit_and_missed_beyond(value, met):
    aim = aims.Aim(what="", file="stages", measured=lambda result: 0.0, at_most=1.25)
    assert aim.is_met(value) is met
    assert aims.Aim(what="", file="", measured=lambda result: 0.0, at_least=-1.25).is_met(-value) is met
