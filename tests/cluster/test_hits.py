"""What a run makes of tables that it finds: hits, refusals, several at once."""

from __future__ import annotations

import json

import pytest

from tests.testbed import Case

pytestmark = pytest.mark.cluster


def test_second_run_measures_nothing(case: Case) -> None:
    """With a table on every node nothing is measured, guarded or written, and every rank loads it."""
    case.plant(*case.bed.nodes[:2])
    report = case.run()
    assert report.ready, report.error
    (group,) = report.classes
    assert (group.hit, group.measured, group.tasks) == (True, 0, 10)
    assert not report.files
    assert not case.calls("tune") + case.calls("guard")
    assert [(rank.entries, rank.hits) for rank in report.ranks] == [(10, 10)] * 2


def test_retune_measures_again(case: Case) -> None:
    """`retune` ignores a hit, measures every task and puts a new table in place of the old one."""
    case.plant(*case.bed.nodes[:2])
    case.script(salt="another day")
    old = case.table(case.bed.nodes[0]).read_bytes()
    report = case.run(retune=True)
    assert report.ready, report.error
    assert (report.classes[0].hit, report.classes[0].measured) == (False, 10)
    new = {case.table(node).read_bytes() for node in case.bed.nodes[:2]}
    assert len(new) == 1
    assert old not in new


def test_a_node_without_the_table_gets_it_without_measuring(case: Case) -> None:
    """The table travels from the node that has it to the one that lost it; nothing is measured."""
    first, second = case.bed.nodes[:2]
    case.plant(second)
    report = case.run()
    assert report.ready, report.error
    assert (report.classes[0].hit, report.classes[0].measured) == (True, 0)
    assert not case.calls("tune")
    assert case.table(first).read_bytes() == case.table(second).read_bytes()
    assert {file.node_id for file in report.files} == {first.node_id}


def test_of_two_valid_tables_the_newest_wins_with_a_warning(case: Case) -> None:
    """Two nodes hold different guarded tables: the younger one is served by both, and a warning says so."""
    first, second = case.bed.nodes[:2]
    case.plant(first)
    case.plant(second, kind="younger", salt="younger")
    young = case.table(second).read_bytes()
    report = case.run()
    assert report.ready, report.error
    assert report.classes[0].measured == 0
    assert case.table(first).read_bytes() == case.table(second).read_bytes() == young
    assert any("holds another valid table" in warning and "rank 0" in warning for warning in report.warnings)


def test_a_guarded_table_wins_over_a_younger_unguarded_one(case: Case) -> None:
    """Proof beats age: the older table that passed the guard is served by both nodes."""
    first, second = case.bed.nodes[:2]
    case.plant(first)
    case.plant(second, kind="unguarded", salt="unguarded")
    guarded = case.table(first).read_bytes()
    report = case.run()
    assert report.ready, report.error
    assert case.table(second).read_bytes() == guarded
    assert any("holds another valid table" in warning and "rank 1" in warning for warning in report.warnings)


def test_an_unguarded_table_is_guarded_not_tuned_again(case: Case) -> None:
    """A table that nobody guarded is found, its winners are proven, and it is published as guarded."""
    case.plant(*case.bed.nodes[:2], kind="unguarded", salt="unguarded")
    report = case.run()
    assert report.ready, report.error
    (group,) = report.classes
    assert (group.measured, group.guard.state) == (0, "guarded")
    assert len(case.calls("guard")) == 10
    manifest = max(case.files(case.bed.nodes[0], "manifest.json"))
    assert json.loads(manifest.read_text())["guard"]["state"] == "guarded"


def test_a_table_of_another_environment_is_refused(case: Case) -> None:
    """A well-formed table with another FlashInfer's metadata under this very key is not loaded: it is tuned again."""
    first, second = case.bed.nodes[:2]
    case.plant(first, second, kind="foreign", metadata={"flashinfer_version": "0.0.1"})
    assert b"0.0.1" in case.table(first).read_bytes()
    report = case.run()
    assert report.ready, report.error
    assert (report.classes[0].hit, report.classes[0].measured) == (False, 10)
    assert b"0.0.1" not in case.table(first).read_bytes() + case.table(second).read_bytes()
