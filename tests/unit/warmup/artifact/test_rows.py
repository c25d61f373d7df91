"""Rows of files that others wrote: whole ones are believed, and every other costs its own task alone, by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.warmup.artifact.artifact import Content, sha256, table_content
from ray_warmup.warmup.artifact.rows import TimingRow, read_bans, read_results, read_timing_rows
from ray_warmup.warmup.artifact.timings import check_timings, read_timings, timings_content
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.device.compose import compose
from ray_warmup.warmup.errors import CorruptArtifactError
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement
from tests.artifacts import file_key, make_artifact, make_result, table_bytes
from tests.fakes import METADATA

ROW: dict[str, Any] = json.loads(json.dumps(encode(make_result())))
VERDICT = GuardVerdict("a@1", "kept", Choice("Fast", (1, 2)), 1.1, 1.1, 1e-4, 7)
TIMING: dict[str, Any] = json.loads(json.dumps(encode(TimingRow(make_result(), VERDICT))))
MEASURED = ROW["measurements"][0]


def test_whole_results_are_believed() -> None:
    """A tuned result and one without a valid tactic come through unchanged, a foreign task does not."""
    without = {**ROW, "outcome": "oom", "choice": None, "task_id": "b@1"}
    never_asked = {**without, "task_id": "d@1", "keys": {}, "default_runner": ""}
    found = read_results([ROW, {**ROW, "task_id": "c@1"}, without, never_asked], {"a@1", "b@1", "d@1"})
    assert [encode(row) for row in found.rows] == [ROW, without, never_asked]
    assert (found.rows[0], found.refused) == (make_result(), ())


REFUSED = [
    ({"task_id": 1}, "task_id: 1: Input should be a valid string"),
    ({"task_id": ["a@1"]}, "task_id: ['a@1']: "),
    ({"outcome": "excellent"}, "outcome: 'excellent': Input should be 'tuned'"),
    ({"outcome": "oom"}, "outcome: 'oom': a choice goes with 'tuned'"),
    ({"choice": None}, "outcome: 'tuned': a choice goes with 'tuned'"),
    ({"choice": "Fast"}, "choice: 'Fast': Input should be an object"),
    ({"choice": {"runner": "Unknown", "tactic": 1}}, "choice.runner: 'Unknown': must be one of those with a key"),
    ({"choice": {"runner": "Fast", "tactic": {"a": 1}}}, "choice.tactic: {...}: must be a number, text or nested"),
    ({"choice": {"runner": "Fast", "tactic": 1 << 70}}, "choice.tactic: 1180591620717411303424: must be a finite"),
    ({"default_runner": ["First"]}, "default_runner: ['First']: "),
    ({"default_runner": "Other"}, "default_runner: 'Other': must be one of those with a key"),
    ({"keys": None}, "keys: None: "),
    ({"keys": {"First": 5, "Fast": 6}}, "keys.First: 5: Input should be a valid string"),
    ({"keys": {"First": file_key("cpu_gemm", "First"), "Fast": "key"}}, "not a FlashInfer key"),
    ({"keys": {"First": file_key("cpu_gemm", "First"), "Fast": file_key("cpu_gemm", "First")}}, "keys.Fast: "),
    ({"op": "other_op"}, "must be a key of other_op and that runner"),
    ({"op": ["x"]}, "op: ['x']: "),
    ({"bucket": True}, "bucket: True: Input should be a valid integer"),
    ({"bucket": 0}, "bucket: 0: Input should be greater than or equal to 1"),
    ({"bucket": 1 << 40}, "bucket: 1099511627776: Input should be less than"),
    ({"measurements": [{"runner": "Fast"}]}, "measurements.0.tactic: Field required (3 more)"),
    (
        {"measurements": [{**MEASURED, "median_s": None}]},
        "measurements.0.median_s: None: Input should be a valid number",
    ),
    ({"measurements": [{**MEASURED, "median_s": 0.0}]}, "measurements.0.median_s: 0.0: Input should be greater than 0"),
    ({"measurements": [{**MEASURED, "median_s": float("nan")}]}, "measurements.0.median_s: nan: "),
    ({"measurements": [{**MEASURED, "median_s": 1e300}]}, "measurements.0.median_s: 1e+300: "),
    ({"measurements": [{**MEASURED, "spread_s": "0"}]}, "measurements.0.spread_s: '0': "),
    ({"measurements": 7}, "measurements: 7: "),
    ({"policy": 3}, "policy: 3: "),
    ({"elapsed_s": -1.0}, "elapsed_s: -1.0: "),
    ({"gpu": "\ud800"}, "Invalid JSON"),
    ({"surprise": 1}, "surprise: 1: Unexpected keyword argument"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_broken_row_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    """A wrong type, an absurd number, an unknown field or a contradiction; the row beside it is still believed."""
    found = read_results([{**ROW, **change}, {**ROW, "task_id": "b@1"}], {"a@1", "b@1"})
    assert [row.task_id for row in found.rows] == ["b@1"]
    (reason,) = found.refused
    assert words in reason
    assert found.warnings("partial") == (f"partial: 1 of 2 rows is refused and left out: {reason}",)


@pytest.mark.parametrize("row", [None, 3, "row", [], [ROW], {}])
def test_what_is_no_row_is_refused(row: Any) -> None:
    """Also where it is no object at all."""
    assert len(read_results([row], {"a@1"}).refused) == 1
    assert len(read_timing_rows([row]).refused) == 1
    assert len(read_bans([row]).refused) == 1


@pytest.mark.parametrize("name", ["task_id", "op", "bucket", "outcome", "choice", "default_runner"])
def test_a_missing_field_is_refused(name: str) -> None:
    """Without any of the fields that a table entry needs the task is measured again."""
    found = read_results([{key: value for key, value in ROW.items() if key != name}], {"a@1"})
    assert found.refused == (f"TaskResult: {name}: Field required",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"result": None}, "result: None"),
        ({"outcome": "v2"}, "outcome: 'v2': Unexpected"),
        ({"verdict": {**TIMING["verdict"], "task_id": "b@1"}}, "verdict.task_id: 'b@1': must be the result's 'a@1'"),
        ({"verdict": {**TIMING["verdict"], "ratio": 0}}, "verdict.ratio: 0: Input should be greater than 0"),
        ({"verdict": {**TIMING["verdict"], "ratio": float("inf")}}, "verdict.ratio: inf"),
        (
            {"verdict": {**TIMING["verdict"], "choice": {"runner": "Gone", "tactic": 1}}},
            "verdict.choice.runner: 'Gone'",
        ),
        ({"verdict": {**TIMING["verdict"], "decision": "liked"}}, "verdict.decision: 'liked'"),
        ({"verdict": {}}, "verdict.task_id: Field required"),
    ],
)
def test_a_broken_line_of_a_sidecar_is_refused(change: dict[str, Any], words: str) -> None:
    """By name; `cache verify` and `cache import` name it, who looks a table up goes on with the other lines."""
    table = table_bytes(1)
    whole = timings_content(sha256(table), [TimingRow(make_result("b@1"))])
    document = json.loads(whole.data)
    document["tasks"].append({**TIMING, **change})
    sidecar = Content("timings", "timings.json", json.dumps(document).encode())
    artifact = make_artifact(contents=[table_content(table), sidecar])
    found = read_timings(artifact)
    assert [row.result.task_id for row in found.rows] == ["b@1"]
    assert words in found.refused[0]
    check_timings(whole.data, artifact.manifest.table)
    with pytest.raises(CorruptArtifactError, match=r"timings.json: 1 of 2 rows is refused"):
        check_timings(sidecar.data, artifact.manifest.table)


def test_a_ban_is_kept_whatever_else_its_row_says() -> None:
    """Its three names count; a tactic that is no JSON text is none."""
    ban = {"op": "o", "runner": "R", "tactic": "[1, 2]"}
    found = read_bans([{**ban, "why": "hung"}, {**ban, "tactic": "[1"}, {**ban, "op": ""}])
    assert [encode(row) for row in found.rows] == [ban]
    assert ["tactic" in found.refused[0], "op" in found.refused[1]] == [True, True]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*ROW, "other"]), json_values, max_size=4))
def test_whatever_is_believed_can_be_used(changes: dict[str, Any]) -> None:
    """Any JSON in a row is believed or refused; of what is believed a table can be composed."""
    found = read_results([{**ROW, **changes}])
    assert len(found.rows) + len(found.refused) == 1
    for result in found.rows:
        table = compose([result], [], METADATA)
        assert table is None or table.to_bytes()
        assert all(isinstance(m, Measurement) and m.median_s > 0 for m in result.measurements)
