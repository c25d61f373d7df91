"""Tuning one task: outcomes, the choice, quarantine, and what a task leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ray_warmup.warmup.codec import decode, encode
from ray_warmup.warmup.device import task_tuning
from ray_warmup.warmup.device.autotuner_seams import tuned_keys
from ray_warmup.warmup.device.task_tuning import TaskTuner
from ray_warmup.warmup.device.tuner import TunerOptions, Watch
from ray_warmup.warmup.device.tuning_request import Attempt
from ray_warmup.warmup.errors import DeadContextError, TuningError
from ray_warmup.warmup.families.library import AutoTuner, installed_family
from ray_warmup.warmup.tasks import Choice, TacticId, Task, TaskResult
from ray_warmup.warmup.workloads import cpu_gemm_op as op
from ray_warmup.warmup.workloads.base import builder_for
from tests.gemms import make_workload
from tests.tuner_options import tuner_options

Times = Callable[[Attempt], float]


def tune(task: Task, options: TunerOptions | None = None, watched: list[Watch] | None = None) -> TaskResult:
    """Tune on the CPU with the given options."""
    seen = [] if watched is None else watched
    tuner = TaskTuner("cpu", options or TunerOptions(), seen.append)
    return tuner.tune(task, lambda: builder_for(task.workload).build(task.workload, task.bucket, "cpu", 0))


def plant(monkeypatch: pytest.MonkeyPatch, seconds: Times) -> None:
    """Let `seconds` stand for the measured time of each tactic."""
    monkeypatch.setattr(task_tuning, "cpu_timer", lambda attempt, best: [seconds(attempt)])


def test_a_task_is_tuned_and_forgotten() -> None:
    """The result has choice, keys, policy and sorted times; the AutoTuner keeps nothing of it."""
    result = tune(Task(make_workload(), 4), tuner_options(shortlist=3, tie_band=0))
    assert result.outcome == "tuned"
    assert len([m for m in result.measurements if m.tactic != -1]) == 3
    assert sorted(m.median_s for m in result.measurements) == [m.median_s for m in result.measurements]
    assert result.choice in [Choice(m.runner, m.tactic) for m in result.measurements]
    assert set(result.keys) == {"DirectGemmRunner", "SwappedGemmRunner", "SplitGemmRunner"}
    policy = ("cuda_graph_profile_replays", None, "l2_cache_policy", "hot")
    assert result.policy == (policy if installed_family().entry_width == 3 else None)
    assert result.elapsed_s > 0
    assert decode(TaskResult, encode(result)) == result
    assert tuned_keys("cpu_gemm") == set()


def test_the_same_task_is_measured_again() -> None:
    """A second tune of a task measures: nothing in memory answers for it."""
    task = Task(make_workload(), 4)
    assert all(result.measurements for result in (tune(task), tune(task)))


def test_different_shapes_have_different_winners() -> None:
    """Really timed, the CPU runners win at different sizes."""
    workload = make_workload(k=512, n=2048, buckets=(1, 16, 32, 256))
    winners: set[str] = set()
    for _ in range(5):  # whatever runs beside it can change who wins once
        winners = {tune(Task(workload, bucket)).measurements[0].runner for bucket in workload.buckets}
        if len(winners) >= 2:
            break
    assert len(winners) >= 2


def test_the_default_is_timed_first_and_wins_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default tactic, which FlashInfer does not time, is a candidate, and preferred among equals."""
    order: list[tuple[str, Any]] = []

    def equal(attempt: Attempt) -> float:
        order.append((attempt.runner_name, attempt.tactic))
        return 1.0

    plant(monkeypatch, equal)
    assert tune(Task(make_workload(), 4)).choice == Choice("DirectGemmRunner", -1)
    assert order[0] == ("DirectGemmRunner", -1)


def test_only_the_first_runners_default_is_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first runner has no tactic for a shape, no other runner's default is taken for the op's."""
    monkeypatch.setattr(op.DirectGemmRunner, "get_valid_tactics", lambda *_: [])
    result = tune(Task(make_workload(), 4), tuner_options(shortlist=99))
    assert result.measurements
    assert -1 not in [m.tactic for m in result.measurements]


def test_a_clear_winner_beats_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside the tie band the fastest is chosen; inside it the fixed order."""
    planted = {("SplitGemmRunner", ("n", 4)): 0.90, ("SwappedGemmRunner", 1): 0.91}
    plant(monkeypatch, lambda a: planted.get((a.runner_name, a.tactic), 1.0))
    assert tune(Task(make_workload(), 4), tuner_options(tie_band=0.001)).choice == Choice("SplitGemmRunner", ("n", 4))
    assert tune(Task(make_workload(), 4), tuner_options(tie_band=0.2)).choice == Choice("DirectGemmRunner", -1)


def test_choice_and_default_stay_beside_the_short_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default takes no place of the short list, and a choice that ties push out of it is kept."""
    planted = {-1: 9.0, ("n", 4): 1.0, ("k", 4): 1.01, ("k", 2): 1.02}
    plant(monkeypatch, lambda a: planted.get(a.tactic, 5.0))
    result = tune(Task(make_workload(), 4), tuner_options(shortlist=1, tie_band=0.1))
    assert result.choice == Choice("SplitGemmRunner", ("k", 2))
    assert [m.tactic for m in result.measurements] == [("n", 4), ("k", 2), -1]


def test_a_given_short_list_alone_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """For consensus a rank times what it is told and keeps every timing, whatever its own short list is."""
    plant(monkeypatch, lambda a: 2.0 if a.tactic == ("n", 4) else 1.0)
    wanted = [Choice("SplitGemmRunner", ("n", 4)), Choice("SwappedGemmRunner", 1)]
    task = Task(make_workload(), 4)
    tuner = TaskTuner("cpu", tuner_options(shortlist=1), lambda _: None)
    result = tuner.tune(task, lambda: builder_for(task.workload).build(task.workload, 4, "cpu", 0), wanted)
    assert {Choice(m.runner, m.tactic) for m in result.measurements} == set(wanted)
    assert result.choice == wanted[1]


def test_quarantined_tactics_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarantined tactic is not timed and not chosen; the others are."""
    ran: list[Any] = []
    plant(monkeypatch, lambda a: ran.append(a.tactic) or (0.1 if a.tactic == ("n", 4) else 1.0))
    assert tune(Task(make_workload(), 4)).choice == Choice("SplitGemmRunner", ("n", 4))
    ran.clear()
    options = TunerOptions(quarantine=(TacticId("cpu_gemm", "SplitGemmRunner", '["n", 4]'),))
    assert tune(Task(make_workload(), 4), options).choice == Choice("DirectGemmRunner", -1)
    assert ("n", 4) not in ran
    assert ("k", 2) in ran


def test_a_tactic_that_takes_the_context_with_it_is_the_last_one_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashInfer skips a tactic that raises and goes on; in a dead context every other one would fail, too."""
    ran: list[Any] = []

    def lose(attempt: Attempt) -> float:
        ran.append(attempt.tactic)
        if attempt.tactic == ("k", 2) or ("k", 2) in ran:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return 1.0

    plant(monkeypatch, lose)
    monkeypatch.setattr(task_tuning, "is_dead", lambda device: ("k", 2) in ran)
    with pytest.raises(
        DeadContextError, match=r'SplitGemmRunner tactic \["k", 2\] left a dead CUDA context.*illegal'
    ) as lost:
        tune(Task(make_workload(), 4))
    assert lost.value.details == {"op": "cpu_gemm", "runner": "SplitGemmRunner", "tactic": '["k", 2]'}
    assert ran[-1] == ("k", 2)

    ran.clear()
    monkeypatch.setattr(task_tuning, "is_dead", lambda device: False)
    assert tune(Task(make_workload(), 4)).choice == Choice("DirectGemmRunner", -1)
    assert ran[-1] != ("k", 2), "a tactic that only fails is skipped"


def test_the_watch_names_what_is_timed() -> None:
    """While a tactic runs the watch names op, task, runner and tactic; afterwards it is empty."""
    watched: list[Watch] = []
    task = Task(make_workload(), 4)
    tune(task, watched=watched)
    assert Watch("cpu_gemm", task.task_id, "SplitGemmRunner", '["k", 2]') in watched
    assert watched[-1] == Watch()


def test_a_foreign_bucket_is_refused() -> None:
    """A size that serving would round elsewhere is not tuned in vain."""
    with pytest.raises(TuningError, match="5 is not a bucket of cpu_gemm, serving would look 8 up"):
        tune(Task(make_workload(buckets=(5,)), 5))


def test_out_of_memory_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time it fails for memory it is repeated; the second time it is the outcome, with its keys."""
    asked: list[int] = []

    def no_memory(*_: Any) -> Any:
        asked.append(1)
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(op.DirectGemmRunner, "get_valid_tactics", no_memory)
    result = tune(Task(make_workload(), 4))
    assert (result.outcome, result.choice, len(asked)) == ("oom", None, 2)
    assert result.default_runner == "DirectGemmRunner"


def test_without_memory_for_the_inputs_the_keys_are_those_of_the_call_without_values() -> None:
    """The table has its explicit default all the same; where not even that fits, the result has no key."""
    task = Task(make_workload(), 4)
    tuner = TaskTuner("cpu", TunerOptions(), lambda _: None)

    def outline(values: bool = False) -> Any:
        return builder_for(task.workload).build(task.workload, 4, "cpu", 0, values=values)

    def no_memory() -> Any:
        raise MemoryError

    found, tuned = tuner.tune(task, no_memory, outline=outline), tuner.tune(task, outline)
    assert (found.outcome, found.choice, found.default_runner) == ("oom", None, "DirectGemmRunner")
    assert (found.keys, found.policy) == (tuned.keys, tuned.policy)
    assert tuner.tune(task, no_memory, outline=no_memory).keys == {}


def test_memory_that_comes_back_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repetition may succeed."""
    original = op.DirectGemmRunner.get_valid_tactics
    asked: list[int] = []

    def once(*args: Any) -> Any:
        asked.append(1)
        if len(asked) == 1:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(op.DirectGemmRunner, "get_valid_tactics", once)
    assert tune(Task(make_workload(), 4)).outcome == "tuned"


def test_no_valid_tactic_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every tactic fails, and nothing is short of memory, the outcome says so."""

    def fail(attempt: Attempt) -> float:
        raise RuntimeError("planted")

    plant(monkeypatch, fail)
    assert tune(Task(make_workload(), 4)).outcome == "no_valid_tactic"


def test_runners_with_one_key_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runners of one class cannot be told apart by a table."""
    monkeypatch.setattr(op, "RUNNERS", (op.DirectGemmRunner(), op.DirectGemmRunner()))
    result = tune(Task(make_workload(), 4))
    assert (result.outcome, result.choice) == ("collision", None)


def test_a_failing_call_is_an_error_with_the_task() -> None:
    """An op that cannot be called at all is no outcome, but an error that names the task."""
    task = Task(make_workload(), 4)

    def build() -> Any:
        raise RuntimeError("planted")

    tuner = TaskTuner("cpu", TunerOptions(), lambda _: None)
    with pytest.raises(TuningError, match=r"k=64,n=96@4: RuntimeError: planted"):
        tuner.tune(task, build)
    assert not AutoTuner.get().is_tuning_mode
