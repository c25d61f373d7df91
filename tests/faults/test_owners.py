"""The coordinator or the driver dies: everything is given back within seconds, and a new run resumes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ray_warmup.actors.errors import CoordinatorLostError
from tests.cluster.test_interrupts import coordinator_pid, driver
from tests.fault_injection import FaultInjector
from tests.faults.moments import MOMENTS, assert_measured_once, assert_served, moment, prepare
from tests.testbed import GONE_WITHIN_S, Case, wait_until

pytestmark = pytest.mark.cluster

PHASES = ("PROBING", "TUNING", "PUSHING", "INSTALLING", "LOADING")


@pytest.mark.parametrize("phase", PHASES)
def test_coordinator_killed(case: Case, phase: str) -> None:
    """The driver is told at once, nothing remains, and the next run measures nothing that was finished."""
    prepare(case, phase)
    with FaultInjector(
        case, moment(phase, case.bed.nodes[0]), lambda line: os.kill(coordinator_pid(), signal.SIGKILL)
    ) as injector:
        with pytest.raises(CoordinatorLostError, match="run again to resume"):
            case.run()
        assert time.monotonic() - injector.at < GONE_WITHIN_S
    assert wait_until(lambda: not case.leftovers(), GONE_WITHIN_S), case.leftovers()
    resume(case, phase)


@pytest.mark.parametrize("phase", ["TUNING"])
def test_coordinator_stopped(case: Case, phase: str) -> None:
    """A coordinator that no longer answers does not hold the driver: lost within half a minute, and ended for good."""
    prepare(case, phase)
    with (
        FaultInjector(case, moment(phase, case.bed.nodes[0]), lambda line: os.kill(coordinator_pid(), signal.SIGSTOP)),
        pytest.raises(CoordinatorLostError, match="did not answer for 20 s"),
    ):
        case.run()
    assert wait_until(lambda: not case.leftovers(), GONE_WITHIN_S), case.leftovers()
    resume(case, phase)


@pytest.mark.parametrize("phase", ["TUNING", "INSTALLING", "LOADING"])
def test_driver_killed(case: Case, tmp_path: Path, phase: str) -> None:
    """Everything that the driver's job had is gone within 5 s; the next run resumes."""
    prepare(case, phase, pause_s=2.0)
    with driver(case, tmp_path) as process:
        assert wait_until(lambda: any(moment(phase, case.bed.nodes[0])(line) for line in case.lines()), 60)
        process.kill()
        assert wait_until(lambda: not case.leftovers(), GONE_WITHIN_S), case.leftovers()
    resume(case, phase)


def resume(case: Case, phase: str) -> None:
    """A second run is ready and measures again what was in flight, which is nothing outside of TUNING."""
    done = {line.task for line in case.calls("tune") if line.nth < MOMENTS["TUNING"][1] or phase != "TUNING"}
    case.script()
    report = case.run()
    assert_served(case, report)
    assert report.classes[0].hit or report.classes[0].reused >= len(done)
    assert_measured_once(case, at_most=1 if phase == "TUNING" else 0)
