"""`tests/ENGINE_DEMANDS.md`: each demand on an engine is shown by tests and results that exist, or says it is open."""

from __future__ import annotations

import pytest

from tests.demands import check_demand, lines_of, number_of, numbers_of

LINES = lines_of("ENGINE_DEMANDS.md")
COUNTS = {"A": 11, "B": 13, "C": 7, "D": 3, "E": 8, "F": 3, "G": 1, "R": 3, "T": 6, "U": 2, "S": 4, "M": 3, "N": 2}
NUMBERS = numbers_of(COUNTS)


def test_every_number_has_a_line() -> None:
    """None is forgotten, and none stands twice."""
    assert [number_of(line) for line in LINES] == NUMBERS


@pytest.mark.parametrize("line", LINES, ids=NUMBERS)
def test_what_shows_a_demand_exists(line: str) -> None:
    """Tests assert something, files are there, and each line says how it stands."""
    check_demand(line)
