"""A rank that does not go on: the deadline ends the run and names rank, node, phase, task and the setting."""

from __future__ import annotations

import signal

import pytest

from ray_warmup.warmup.report import WarmupReport
from tests.fault_injection import FaultInjector, kill_on
from tests.faults.moments import MOMENTS, WITHIN_S, assert_served, moment, prepare
from tests.testbed import Case

pytestmark = pytest.mark.cluster

LIMIT_S = 3.0


def run_with_limit(case: Case, phase: str) -> WarmupReport:
    """A run in which the phase, or a task of it, may take LIMIT_S."""
    name = "task" if phase in WITH_TASKS else phase.lower()
    return case.run(case.config(timeouts={name: LIMIT_S}))


def assert_blamed(case: Case, report: WarmupReport, phase: str, rank: int) -> None:
    """The error says who, where, what and which setting; the phase ended soon after its limit."""
    assert not report.ready
    assert report.error is not None
    assert f"rank {rank} on node {case.bed.nodes[rank].node_id[:8]} (127.0.0.1" in report.error
    assert f"phase {phase}" in report.error
    assert "[Scripted Device]" in report.error or phase == "PROBING"
    assert f"{LIMIT_S:g} s allowed (timeouts.{phase.lower()})" in report.error
    assert f"rank {1 - rank} on" not in report.error
    assert LIMIT_S <= report.phases[phase] < LIMIT_S + 3


def assert_survived(case: Case, report: WarmupReport, phase: str, setting: str) -> None:
    """A fresh process took over; the warning says who, where, what, for how long and which setting."""
    assert_served(case, report)
    (warning,) = [text for text in report.warnings if f"({setting})" in text]
    assert warning.startswith(f"rank 0 on node {case.bed.nodes[0].node_id[:8]} (127.0.0.1) died in {phase}")
    assert "cpu_gemm:cpu:float32:k=" in warning, warning
    assert report.phases[phase] < LIMIT_S + 15


WITH_TASKS = ("TUNING", "GUARDING")


@pytest.mark.parametrize(
    ("phase", "victim"),
    [
        ("PROBING", 1),
        ("LOOKUP", 0),
        ("COMPILING", 0),
        ("PUSHING", 0),
        ("INSTALLING", 1),
        ("LOADING", 1),
        ("REPLAYING", 0),
    ],
)
def test_stopped(case: Case, phase: str, victim: int) -> None:
    """SIGSTOP, and no time left for a replacement: the deadline ends the run, and the stopped process is gone."""
    prepare(case, phase)
    node = case.bed.nodes[victim]
    with FaultInjector(case, moment(phase, node), kill_on(case, node, signal.SIGSTOP)) as injector:
        report = run_with_limit(case, phase)
    assert injector.seconds_since() < WITHIN_S
    assert_blamed(case, report, phase, victim)


@pytest.mark.parametrize(("phase", "victim"), [("COMPILING", 1), ("REPLAYING", 1)])
def test_stuck(case: Case, phase: str, victim: int) -> None:
    """A call that does not return while the process still answers: blamed the same way, with its last heartbeat."""
    method, nth = MOMENTS[phase]
    case.script(case.bed.nodes[victim], modules=["one", "two"], pause_s={method: {str(nth): 60}})
    report = run_with_limit(case, phase)
    assert_blamed(case, report, phase, victim)
    assert "last heard" in str(report.error)
    assert "Thread 0x" not in str(report.error)
    assert "tests/script.py" in report.ranks[victim].stack


@pytest.mark.parametrize("phase", WITH_TASKS)
def test_a_task_in_which_the_process_stops(case: Case, phase: str) -> None:
    """SIGSTOP in the middle of a task: replaced after the silence, banned is nothing, what was finished is kept."""
    prepare(case, phase)
    node = case.bed.nodes[0]
    with FaultInjector(case, moment(phase, node), kill_on(case, node, signal.SIGSTOP)):
        report = case.run(case.config(timeouts={"silence": LIMIT_S}))
    assert_survived(case, report, phase, "timeouts.silence")
    assert not [text for text in report.warnings if "quarantined" in text]
    assert not list(case.cache(node).rglob("quarantine/*"))


@pytest.mark.parametrize("phase", WITH_TASKS)
def test_a_task_that_does_not_return(case: Case, phase: str) -> None:
    """A task that hangs costs its process; the run completes, and the warning has runner and tactic."""
    method, nth = MOMENTS[phase]
    case.script(case.bed.nodes[0], pause_s={method: {str(nth): 60}})
    report = run_with_limit(case, phase)
    assert_survived(case, report, phase, "timeouts.task")
    assert any(f"of {LIMIT_S:g} s allowed (timeouts.task)" in text for text in report.warnings)
    assert phase != "TUNING" or any("runner FastRunner, tactic 3" in text for text in report.warnings)
