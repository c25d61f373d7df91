"""A whole tune with the newest release of each older family, and the last recorded result of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_warmup.warmup.families.seam_set import SeamSet
from tests.engines.flashinfer_family import FAMILIES_RUN, record, result_of


def check(result: dict[str, Any], family: SeamSet) -> None:
    """Every task was hit on both nodes under one digest, the table was found again, and it has the family's form."""
    steps = result["steps"]
    for step in steps.values():
        assert step["hits"] == step["tasks"] > 0
        assert step["problems"] == []
    assert len({step["digest"] for step in steps.values()}) == 1
    assert [steps[name]["found_before"] for name in ("tune", "join", "return")] == [False, False, True]
    assert result["table"]["columns"] == [family.entry_width]
    assert result["table"]["metadata"] == sorted(family.metadata_fields)
    assert result["versions"]["flashinfer-python"] == family.versions[-1]
    assert " passed" in result["unit_tests"]
    assert "failed" not in result["unit_tests"]


@pytest.mark.parametrize("family", FAMILIES_RUN, ids=lambda family: family.versions[-1])
def test_the_last_result_of_each_family(family: SeamSet) -> None:
    """The committed result, whose command is in its module, says that everything worked."""
    check(json.loads(result_of(family.versions[-1]).read_text()), family)


@pytest.mark.family
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", FAMILIES_RUN, ids=lambda family: family.versions[-1])
def test_a_whole_tune_with_an_older_flashinfer(family: SeamSet) -> None:
    """Tune, publish, load and hit; then find the table and hit again (`./scripts/test -m family tests/engines`)."""
    check(record(family.versions[-1]), family)
