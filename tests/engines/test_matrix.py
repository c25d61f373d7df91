"""ENGINES.md is what the records say, and the records are of the releases and pins that are known."""

from __future__ import annotations

import json

from tests.engines import matrix
from tests.engines.contracts import CONTRACTS, RESULT, pins_of
from tests.engines.fetch import wheel_of


def test_the_page_is_up_to_date() -> None:
    """Page, JSON and README are what `./scripts/engine_matrix` writes."""
    assert matrix.stale() == []


def test_the_records_are_of_every_release() -> None:
    """Each release of a contract was read, without a difference, and pins a FlashInfer of a known family."""
    rows = json.loads(RESULT.read_text())["rows"]
    read = {(row["engine"], row["version"]) for row in rows if not row["differences"]}
    assert read == {(name, version) for name, contract in CONTRACTS.items() for version in contract.versions}
    assert all(row.family != "unknown" for row in matrix.engine_rows())


def test_pins_are_those_of_the_wheels_that_are_here() -> None:
    """A pin that a wheel's own metadata says otherwise makes the record stale."""
    for row in json.loads(RESULT.read_text())["rows"]:
        wheel = wheel_of(f"{row['engine']}=={row['version']}")
        assert wheel is None or pins_of(wheel) == row["pins"]


def test_a_stale_page_is_found(monkeypatch: object, tmp_path: object) -> None:
    """The comparison can fail."""
    page = tmp_path / "ENGINES.md"
    page.write_text("old\n")
    monkeypatch.setattr(matrix, "PAGE", page)
    assert matrix.stale() == ["ENGINES.md"]


def test_nine_released_engines_resolve_beside_the_wheel() -> None:
    """At least nine releases resolve and pass their contract."""
    rows = [row for row in matrix.engine_rows() if row.resolves.startswith("yes") and row.contract.startswith("passes")]
    assert len(rows) >= 9
