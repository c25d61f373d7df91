"""`tests/REGISTRY_DEMANDS.md`: each demand is shown by tests and results that exist, or says that it is open."""

from __future__ import annotations

import re

import pytest

from tests.artifacts import ROOT
from tests.test_defects import test_the_tests_of_a_defect_exist as check_tests

PAGE = (ROOT / "tests" / "REGISTRY_DEMANDS.md").read_text()
LINES = [line for line in PAGE.splitlines() if re.match(r"\| [A-Z]\d", line)]
COUNTS = {"R": 13, "S": 5, "M": 6, "G": 5, "F": 9, "P": 4}
NUMBERS = [f"{part}{number}" for part, count in COUNTS.items() for number in range(1, count + 1)]


def test_every_number_has_a_line() -> None:
    """None is forgotten, and none stands twice."""
    assert [line.split("|")[1].strip() for line in LINES] == NUMBERS


@pytest.mark.parametrize("line", LINES, ids=NUMBERS)
def test_what_shows_a_demand_exists(line: str) -> None:
    """Tests assert something, files are there, and each line says how it stands."""
    cells = [cell.strip() for cell in line.split("|")]
    names = re.findall(r"`([^`]+)`", cells[3])
    assert cells[4].startswith(("holds", "open: "))
    assert names or cells[4].startswith("open: ")
    for name in names:
        assert "::" in name or (ROOT / name).is_file(), name
    if "::" in line:
        check_tests(line)
