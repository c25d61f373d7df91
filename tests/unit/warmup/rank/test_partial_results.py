"""Rows of a partial result file: whole results of this rank's tasks are believed, nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.warmup.rank.partial_results import believed
from ray_warmup.warmup.tasks import Choice, Measurement, TaskResult

ROW: dict[str, Any] = json.loads(
    json.dumps(
        TaskResult(
            task_id="a@1",
            op="a",
            bucket=1,
            outcome="tuned",
            choice=Choice("Fast", (1, 2)),
            default_runner="First",
            keys={"Fast": "key"},
            policy=("l2", "hot"),
            measurements=(Measurement("Fast", (1, 2), 1e-4, 0.0, 3),),
        ).to_json()
    )
)


def test_whole_results_are_believed() -> None:
    """A tuned result and one without a valid tactic come through unchanged, a foreign task does not."""
    without = {**ROW, "outcome": "oom", "choice": None, "task_id": "b@1"}
    foreign = {**ROW, "task_id": "c@1"}
    assert believed([ROW, foreign, without], {"a@1", "b@1"}) == [ROW, without]


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": 1},
        {"task_id": ["a@1"]},
        {"outcome": "excellent"},
        {"outcome": "oom"},
        {"choice": None},
        {"choice": "Fast"},
        {"choice": {"runner": "Unknown", "tactic": 1}},
        {"keys": None},
        {"keys": "Fast"},
        {"measurements": [{"runner": "Fast"}]},
        {"measurements": 7},
        {"policy": 3},
        {"surprise": 1},
    ],
)
def test_a_broken_row_is_refused(change: dict[str, Any]) -> None:
    """A wrong type, an unknown value or field, or a choice that no key belongs to."""
    assert believed([{**ROW, **change}], {"a@1"}) == []


@pytest.mark.parametrize("name", ["task_id", "op", "bucket", "outcome", "choice", "default_runner", "policy"])
def test_a_missing_field_is_refused(name: str) -> None:
    """Without any of the fields that a table entry needs the task is measured again."""
    assert believed([{key: value for key, value in ROW.items() if key != name}], {"a@1"}) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*ROW, "other"]), json_values, max_size=4))
def test_no_row_crashes_the_reader(changes: dict[str, Any]) -> None:
    """Whatever JSON is in a row, it is believed or left out."""
    assert len(believed([{**ROW, **changes}], {"a@1"})) <= 1
