"""`tests/REGISTRY_DEMANDS.md`: each demand is shown by tests and results that exist, or says that it is open."""

from __future__ import annotations

import pytest

from tests.demands import check_demand, lines_of, number_of, numbers_of

LINES = lines_of("REGISTRY_DEMANDS.md")
COUNTS = {"R": 13, "S": 5, "M": 6, "G": 6, "F": 9, "P": 4}
NUMBERS = numbers_of(COUNTS)


def test_every_number_has_a_line() -> None:
    """None is forgotten, and none stands twice."""
    assert [number_of(line) for line in LINES] == NUMBERS


@pytest.mark.parametrize("line", LINES, ids=NUMBERS)
def test_what_shows_a_demand_exists(line: str) -> None:
    """Tests assert something, files are there, and each line says how it stands."""
    check_demand(line)


@pytest.mark.parametrize(
    "line",
    [
        "| R1 | a demand | `tests/nowhere.md` | holds |",
        "| R1 | a demand | `tests/test_defects.py::test_nowhere` | holds |",
        "| R1 | a demand | | holds |",
        "| R1 | a demand | `tests/DEFECTS.md` | perhaps |",
    ],
)
def test_a_demand_that_nothing_shows_is_found(line: str) -> None:
    """A file or test that is not there, none at all, and a line that does not say how it stands."""
    with pytest.raises(AssertionError):
        check_demand(line)
