"""Processes that stand still for long, as a paused machine leaves them: replaced in time, and gone for sure.

Ray ends a process that was stopped for a second or two, not one that was stopped for long with calls under way, so
short freezes prove nothing. These take most of a minute each: one belongs to every run of the tests, the others have a
command of their own (`README.md`).
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.fault_injection import FaultInjector, kill_on, rank_on
from tests.faults.moments import assert_served, moment, prepare
from tests.testbed import Case, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SILENCE_S = 20.0
RECOVERS_WITHIN_S = 45.0
"""From the end of the silence: SIGKILL on its node, a fresh process, what was in flight once more."""


def stopped(pid: int) -> bool:
    """Whether a process is there, table_state still or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("phase", "victim"),
    [
        ("TUNING", 1),
        *(
            pytest.param(phase, victim, marks=pytest.mark.long)
            for phase, victim in [
                ("PROBING", 1),
                ("LOOKUP", 0),
                ("TUNING", 0),
                ("GUARDING", 0),
                ("PUSHING", 0),
                ("INSTALLING", 1),
                ("LOADING", 1),
                ("REPLAYING", 0),
            ]
        ),
    ],
)
def test_a_long_freeze_is_survived(case: Case, phase: str, victim: int) -> None:
    """Leader, writer or idle follower stops for good: ready all the same, the stopped process is dead at the end."""
    prepare(case, phase)
    node, pids = case.bed.nodes[victim], list[int]()
    leads = phase in ("TUNING", "GUARDING", "PUSHING")

    def strike(line: Any) -> None:
        pids.append(rank_on(case, node))
        kill_on(case, node, signal.SIGSTOP)(line)

    with FaultInjector(case, moment(phase, case.bed.nodes[0 if leads else victim]), strike) as injector:
        report = case.run(case.config(timeouts=with_silence(SILENCE_S)))
    assert injector.seconds_since() < SILENCE_S + RECOVERS_WITHIN_S
    assert any("given up after 20 s (timeouts.silence)" in text for text in report.warnings), report.warnings
    assert_served(case, report)
    assert wait_until(lambda: not stopped(pids[0]), 5.0)
    assert not list(case.cache(node).rglob("quarantine/*"))


@pytest.mark.long
def test_at_the_default_timeouts_a_stopped_writer_is_replaced(case: Case) -> None:
    """INSTALLING has 120 s, the silence 30: the run is ready, and says every ten seconds whom it waits for."""
    prepare(case, "INSTALLING")
    node, said = case.bed.nodes[1], list[str]()

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "waits":
            said.append(event["text"])

    config = case.config()
    defaults = type(config.timeouts)()
    with FaultInjector(case, moment("INSTALLING", node), kill_on(case, node, signal.SIGSTOP)):
        report = case.run(config.model_copy(update={"timeouts": defaults}), on_event=listen)
    assert_served(case, report)
    assert 30 <= report.phases["INSTALLING"] < 110
    assert said
    assert all(text.startswith("still INSTALLING after") and "rank 1 on node" in text for text in said)


def with_silence(seconds: float) -> dict[str, float]:
    """Deadlines that allow it."""
    phases = ("probing", "lookup", "compiling", "tuning", "guarding", "pushing", "installing", "loading", "replaying")
    return {**dict.fromkeys(phases, 5 * seconds), "task": 5 * seconds, "silence": seconds}
