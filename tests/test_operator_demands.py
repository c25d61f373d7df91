"""`tests/OPERATOR_DEMANDS.md`: each demand is shown by tests and results that exist, or says that it is open."""

from __future__ import annotations

import pytest

from tests.demands import check_demand, lines_of, number_of, numbers_of

LINES = lines_of("OPERATOR_DEMANDS.md")
COUNTS = {"T": 5, "C": 8, "G": 5, "P": 5, "D": 5, "M": 8, "B": 6}
NUMBERS = numbers_of(COUNTS)


def test_every_number_has_a_line() -> None:
    """None is forgotten, and none stands twice."""
    assert [number_of(line) for line in LINES] == NUMBERS


@pytest.mark.parametrize("line", LINES, ids=NUMBERS)
def test_what_shows_a_demand_exists(line: str) -> None:
    """Tests assert something, files are there, and each line says how it stands."""
    check_demand(line)
