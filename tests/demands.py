"""Pages of numbered demands: each is shown by tests and results that exist, or says that it is open."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.artifacts import ROOT
from tests.test_defects import test_the_tests_of_a_defect_exist as check_tests


def lines_of(page: str) -> list[str]:
    """Return the lines of a page below `tests/` that hold a demand."""
    return [line for line in (ROOT / "tests" / page).read_text().splitlines() if re.match(r"\| [A-Z]\d", line)]


def number_of(line: str) -> str:
    """Return the number of a line's demand."""
    return line.split("|")[1].strip()


def numbers_of(counts: Mapping[str, int]) -> list[str]:
    """Return the numbers of all demands by their count in each part of a page."""
    return [f"{part}{number}" for part, count in counts.items() for number in range(1, count + 1)]


def check_demand(line: str) -> None:
    """Fail unless a line's tests assert something, its files are there, and it says how it stands."""
    cells = [cell.strip() for cell in line.split("|")]
    names = re.findall(r"`([^`]+)`", cells[3])
    assert cells[4].startswith(("holds", "open: ")), number_of(line)
    assert names or cells[4].startswith("open: "), number_of(line)
    for name in names:
        assert "::" in name or (ROOT / name).is_file(), f"{number_of(line)}: {name}"
    if "::" in line:
        check_tests(line)
