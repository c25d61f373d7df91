"""What is used of SGLang, read in the released wheels: `python -m tests.engines.fetch sglang` fetches them."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.engines.sglang.versions import SGLANG
from tests.engines.fetch import requirements
from tests.engines.fetched import source_of
from tests.engines.wheel_source import WheelSource


@pytest.fixture(params=requirements("sglang"))
def wheel(request: pytest.FixtureRequest) -> WheelSource:
    """One released SGLang."""
    return source_of(request.param)


def test_what_is_used_is_as_it_was_read(wheel: WheelSource) -> None:
    """Functions with their parameters and every word stand in SGLang's own source."""
    assert SGLANG.differences(wheel.version, wheel.text_or_none) == ()


def test_what_a_release_lacks_is_not_there(wheel: WheelSource) -> None:
    """A word that a release is said to lack does not stand in it."""
    for file, words in SGLANG.absent.get(wheel.version, {}).items():
        assert [word for word in words if word in wheel.text(file)] == []
