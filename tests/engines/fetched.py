"""Source of a fetched wheel for a test, which is skipped without it."""

from __future__ import annotations

import pytest

from tests.engines.fetch import wheel_of
from tests.engines.wheel_source import WheelSource


def source_of(requirement: str) -> WheelSource:
    """Return the source of a requirement's wheel."""
    found = wheel_of(requirement)
    if found is None:
        pytest.skip(f"the wheel is not here: python -m tests.engines.fetch {requirement}")
    return WheelSource(found)
