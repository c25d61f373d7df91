"""Results to table: one entry per task, explicit defaults, and no dependence on order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.table import Entry, parse_table
from ray_warmup.warmup.device.compose import compose
from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.tasks import Choice, GuardVerdict, TaskResult

METADATA = dict.fromkeys(METADATA_FIELDS, "1")
POLICY = ("l2_cache_policy", "cold")


def make_result(m: int = 8, choice: Choice | None = None, task_id: str | None = None) -> TaskResult:
    """A tuned task of op `g` with runners A (the first) and B."""
    keys = {runner: f"('g', {runner!r}, (({m}, 4),), ())" for runner in ("A", "B")}
    return TaskResult(
        task_id=task_id or f"g@{m}",
        op="g",
        bucket=m,
        outcome="tuned",
        choice=choice or Choice("B", 3),
        default_runner="A",
        keys=keys,
        policy=POLICY,
    )


def make_verdict(task_id: str, choice: Choice) -> GuardVerdict:
    """The guard's decision for a task."""
    return GuardVerdict(task_id, "slower", choice, 1.0, 0.9, 1e-6, 7)


def entries(*results: TaskResult, verdicts: tuple[GuardVerdict, ...] = ()) -> dict[str, Entry]:
    """The entries of the composed table."""
    table = compose(results, verdicts, METADATA)
    return {} if table is None else table.entries


def test_the_choice_is_the_entry() -> None:
    """The entry stands under the chosen runner's key, with the policy."""
    result = make_result()
    assert entries(result) == {result.keys["B"]: Entry("B", 3, POLICY)}


def test_a_verdict_moves_the_entry_to_its_own_key() -> None:
    """When the guard brings the default back, the loser's key is gone."""
    result = make_result()
    found = entries(result, verdicts=(make_verdict(result.task_id, Choice("A", -1)),))
    assert found == {result.keys["A"]: Entry("A", -1, POLICY)}


@pytest.mark.parametrize("outcome", ["oom", "no_valid_tactic", "collision"])
def test_what_was_not_tuned_keeps_an_explicit_default(outcome: str) -> None:
    """A task without a winner gets the default's entry: no miss at the next start."""
    result = replace(make_result(), outcome=outcome, choice=None)
    assert entries(result) == {result.keys["A"]: Entry("A", -1, POLICY)}


def test_nothing_known_is_no_table() -> None:
    """No results, or results that never reached the AutoTuner, give no table."""
    assert compose([], [], METADATA) is None
    assert (
        compose([replace(make_result(), outcome="oom", choice=None, keys={}, default_runner="")], [], METADATA) is None
    )


def test_two_tasks_on_one_key_keep_the_default(caplog: pytest.LogCaptureFixture) -> None:
    """When two tasks share a key and disagree, the op keeps its default and both are named; agreement is fine."""
    caplog.set_level("INFO")
    one, two, three = (make_result(task_id=name, choice=Choice("B", t)) for name, t in (("x", 1), ("y", 2), ("z", 1)))
    assert entries(one, two) == {one.keys["A"]: Entry("A", -1, POLICY)}
    assert "x and y share" in caplog.text
    assert entries(one, two, three) == entries(one, two)
    assert entries(one, three) == {one.keys["B"]: Entry("B", 1, POLICY)}


def test_an_unknown_runner_is_refused() -> None:
    """A verdict that names a runner which the task does not have is an error with the task's name."""
    with pytest.raises(TuningError, match="g@8: runner C"):
        entries(make_result(), verdicts=(make_verdict("g@8", Choice("C", 0)),))


@given(
    tactics=st.dictionaries(st.integers(1, 64), st.tuples(st.sampled_from("AB"), st.integers(-1, 9)), min_size=1),
    data=st.data(),
)
def test_order_never_matters(tactics: dict[int, tuple[str, int]], data: st.DataObject) -> None:
    """Whatever the order of results, the bytes are equal and the table is one that we accept."""
    results = [make_result(m, Choice(*choice)) for m, choice in tactics.items()]
    shuffled = data.draw(st.permutations(results))
    one, two = compose(results, [], METADATA), compose(shuffled, [], METADATA)
    assert one is not None
    assert two is not None
    assert one.to_bytes() == two.to_bytes()
    assert len(parse_table(one.to_bytes()).entries) == len(results)
