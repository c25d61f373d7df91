"""What the tests' cluster says of a raylet that does not come up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.raylets import explained


def test_an_error_of_a_start_shows_the_newest_log(tmp_path: Path) -> None:
    """The one with the highest number, and of it the last lines."""
    for name, last in (("raylet.out", "head"), ("raylet.9.out", "older"), ("raylet.10.out", "newest")):
        (tmp_path / name).write_text("".join(f"line {number}\n" for number in range(9)) + last)
    head = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path))
    with (
        pytest.raises(RuntimeError, match=r"(?s)timed out\); raylet\.10\.out ends so: line 5\n.*newest$"),
        explained(head),
    ):
        raise ValueError("timed out")
