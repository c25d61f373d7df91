"""`tests/ENGINE_DEMANDS.md`: each demand on an engine is shown by tests and results that exist, or says it is open."""

from __future__ import annotations

import re

import pytest

from tests.artifacts import ROOT
from tests.test_defects import test_the_tests_of_a_defect_exist as check_tests

LINES = [line for line in (ROOT / "tests/ENGINE_DEMANDS.md").read_text().splitlines() if re.match(r"\| [A-Z]\d", line)]
COUNTS = {"A": 11, "B": 13, "C": 6, "D": 3, "E": 8, "F": 3, "G": 1, "R": 3, "T": 4, "U": 2, "S": 4, "M": 3, "N": 2}
NUMBERS = [f"{part}{number}" for part, count in COUNTS.items() for number in range(1, count + 1)]


def shown_by(line: str) -> list[str]:
    """Every test and file that a line names."""
    return re.findall(r"`([^`]+)`", line.split("|")[3])


def test_every_number_has_a_line() -> None:
    """None is forgotten, and none stands twice."""
    assert [line.split("|")[1].strip() for line in LINES] == NUMBERS


@pytest.mark.parametrize("line", LINES, ids=NUMBERS)
def test_what_shows_a_demand_exists(line: str) -> None:
    """Tests assert something, files are there, and each line says how it stands."""
    number, state = line.split("|")[1].strip(), line.split("|")[4].strip()
    assert state.startswith(("holds", "open: ")), number
    assert shown_by(line), number
    for name in shown_by(line):
        assert "::" in name or (ROOT / name).is_file(), f"{number}: {name}"
    if "::" in line:
        check_tests(line)
