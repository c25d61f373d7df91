"""A rank's process dies at any moment: the run completes, and no finished work is repeated."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.fault_injection import FaultInjector, kill_on, rank_on
from tests.faults.moments import MOMENTS, WITHIN_S, assert_served, moment, prepare
from tests.testbed import Case, Line

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    ("victim", "phase"),
    [(0, phase) for phase in MOMENTS] + [(1, phase) for phase in MOMENTS if phase not in ("GUARDING", "PUSHING")],
)
def test_killed(case: Case, victim: int, phase: str) -> None:
    """SIGKILL of leader or follower in the middle of any phase: ready all the same, the dead rank and phase named."""
    struck_at_leader = victim == 0 or phase in ("TUNING", "GUARDING", "PUSHING")
    prepare(case, phase)
    node = case.bed.nodes[victim]
    with FaultInjector(
        case, moment(phase, case.bed.nodes[0 if struck_at_leader else 1]), kill_on(case, node)
    ) as injector:
        report = case.run()
    assert injector.seconds_since() < WITHIN_S
    assert_served(case, report)
    name = f"rank {victim} on node {node.node_id[:8]} (127.0.0.1) died in {phase}"
    assert any(warning.startswith(name) for warning in report.warnings), report.warnings
    if victim == 0 and phase in ("TUNING", "GUARDING", "PUSHING"):
        assert any(text.startswith("rank 0 led its class and died; rank 1 takes over") for text in report.warnings)


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("COMPILING", signal.SIGTERM),
        ("TUNING", signal.SIGSEGV),
        ("GUARDING", signal.SIGABRT),
        ("LOADING", signal.SIGILL),
        ("REPLAYING", signal.SIGBUS),
    ],
)
def test_crashed(case: Case, phase: str, number: signal.Signals) -> None:
    """SIGTERM, a segmentation fault, an abort or an illegal instruction is a death like any other."""
    prepare(case, phase)
    node = case.bed.nodes[0]
    with FaultInjector(case, moment(phase, node), kill_on(case, node, number)):
        report = case.run()
    assert_served(case, report)
    assert any(f"rank 0 on node {node.node_id[:8]} (127.0.0.1) died in {phase}" in text for text in report.warnings)


@pytest.mark.parametrize("phase", ["TUNING", "INSTALLING"])
def test_every_rank_killed_at_once(case: Case, phase: str) -> None:
    """With no process left, fresh ones take over: nothing that was finished is measured again."""
    prepare(case, phase)

    def strike(line: Line) -> None:
        for pid in [rank_on(case, node) for node in case.bed.nodes[:2]]:
            os.kill(pid, signal.SIGKILL)

    with FaultInjector(case, moment(phase, case.bed.nodes[0]), strike):
        report = case.run()
    assert_served(case, report)


def test_killed_again_and_again(case: Case) -> None:
    """A rank that dies each time it loads ends the run as failed, with its name, the phase and how often it died."""
    node = case.bed.nodes[1]
    case.script(node, fault={"method": "load", "kind": "exit"})
    report = case.run()
    assert not report.ready
    assert report.error is not None
    assert f"rank 1 on node {node.node_id[:8]}" in report.error
    assert "died 3 times" in report.error
    assert "phase LOADING" in report.error


def test_tasks_that_kill_their_process_do_not_fail_the_run(case: Case) -> None:
    """Every process dies in its first task: the tactics are quarantined by name, and the run completes."""
    case.script(fault={"method": "tune", "kind": "exit"})
    report = case.run()
    assert report.ready, report.error
    assert len({rank.digest for rank in report.ranks}) == 1
    assert any(text.startswith("quarantined ") and "killed in task cpu_gemm" in text for text in report.warnings)


@pytest.mark.parametrize("kind", ["segv", "context"])
def test_a_tactic_that_crashes_is_not_served_for_tasks_that_it_had_won(case: Case, kind: str) -> None:
    """A segmentation fault or a dead CUDA context in the fifth task costs one process; its tactic, which earlier tasks
    chose, is nowhere."""
    salt = "3089"  # with which the tactic wins 7 of 10 tasks
    case.script(salt=salt)
    case.script(case.bed.nodes[0], salt=salt, fault={"method": "tune", "nth": 5, "kind": kind})
    report = case.run()
    assert_served(case, report)
    assert len(case.calls("created")) == 3
    assert any(text.startswith("quarantined FastRunner tactic 3 of cpu_gemm: it killed") for text in report.warnings)
    entries = json.loads(case.table(case.bed.nodes[0]).read_bytes())
    assert ["FastRunner", 3] not in [entry[:2] for entry in entries.values() if isinstance(entry, list)]
    assert case.run().ready, "the next run meets table and quarantine together"


@pytest.mark.alone
@pytest.mark.parametrize("phase", ["TUNING", "LOADING"])
def test_a_death_is_known_within_a_second(case: Case, phase: str) -> None:
    """From SIGKILL to the warning that the driver prints: less than a second."""
    prepare(case, phase)
    heard: list[float] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "warning" and "died in" in event["text"]:
            heard.append(time.monotonic())

    node = case.bed.nodes[0]
    with FaultInjector(case, moment(phase, node), kill_on(case, node)) as injector:
        report = case.run(on_event=on_event)
    assert_served(case, report)
    assert heard[0] - injector.at < 1.0


@pytest.mark.alone
@pytest.mark.parametrize("phase", ["TUNING", "GUARDING"])
def test_a_short_freeze_is_survived(case: Case, phase: str) -> None:
    """A rank that stands still for a second, less than its deadline, is neither replaced nor failed."""
    prepare(case, phase)
    node = case.bed.nodes[0]

    def strike(line: Line) -> None:
        os.kill(line.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(line.pid, signal.SIGCONT)

    with FaultInjector(case, moment(phase, node), strike):
        report = case.run(case.config(timeouts={"heartbeat": 2.0}))
    assert_served(case, report)
    assert not report.warnings
    assert len(case.calls("created")) == 2
