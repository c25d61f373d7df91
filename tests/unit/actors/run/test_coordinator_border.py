"""The coordinator's border: a run ends with a report, whatever raises in summing up, concluding or giving back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import ray

from ray_warmup.actors.run import concluding, coordinator, coordinator_base
from ray_warmup.actors.run.coordinator import Coordinator
from ray_warmup.configs.loader import text_of_config
from ray_warmup.warmup.messages.answers import Concluded
from ray_warmup.warmup.messages.wire import to_bytes
from ray_warmup.warmup.report import WarmupReport
from tests.unit.warmup.machine.driver import Driver

LIMIT_S = 5.0


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracebacks of planted faults belong into no test's output; steps that hang are given up soon."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    monkeypatch.setattr(concluding, "GRACE_S", 0.2)
    monkeypatch.setattr(coordinator, "STACKS_S", 0.2)
    for name in ("CLOSE_S", "REMOVE_S"):
        monkeypatch.setattr(coordinator_base, name, 0.2)


def finished(change: Callable[[Any], Any] | None = None) -> Driver:
    """A run whose machine has ended READY, with a found table whose verdicts were changed."""
    driver = Driver(nodes=1, per_node=2)
    table = driver.store(0, 1)
    if change is not None:
        table.verdicts = tuple(map(change, table.verdicts))
    driver.begin()
    while not driver.machine.is_over:
        driver.answer(next(iter(driver.flying.values())))
    return driver


class Group:
    """Stands for placement group and ranks; fails as it is told."""

    def __init__(self, error: BaseException | None = None, hang_s: float = 0.0) -> None:
        self._error, self._hang_s = error, hang_s
        self.removed = self.closed = 0

    def remove(self) -> None:
        """Give back."""
        self.removed += 1
        time.sleep(self._hang_s)
        if self._error is not None:
            raise self._error

    async def close(self, *, may_kill: bool = True) -> None:
        """End the ranks."""
        self.closed += 1
        await asyncio.sleep(self._hang_s)
        if self._error is not None:
            raise self._error

    def call(self, *_: object) -> Any:
        """Leave a verdict."""
        if self._error is not None:
            raise self._error
        return asyncio.sleep(self._hang_s, (to_bytes(Concluded(None)), 0.0))


def report_of(
    driver: Driver, *, placement: Group | None = None, ranks: Group | None = None, drive: BaseException | None = None
) -> tuple[WarmupReport, str]:
    """The report that a driver gets, and what `wait` says to others."""

    async def follow() -> tuple[WarmupReport, str]:
        made = Coordinator(text_of_config(driver.machine.run.config), "run-1", None, "x:y", False, {})
        state: Any = made

        async def place() -> tuple[Any, Any]:
            state._machine, state._placement, state._ranks = driver.machine, placement, ranks
            return driver.machine, None

        async def driven(*_: object) -> None:
            if drive is not None:
                raise drive

        state._place, state._drive = place, driven
        async for event in made.run():
            if event["event"] == "report":
                return WarmupReport.from_json(event["report"]), await made.wait()
        raise AssertionError("no report")

    return asyncio.run(asyncio.wait_for(follow(), LIMIT_S))


def test_a_run_that_ends_well_says_so() -> None:
    """The positive control: nothing fails, the report is ready, and everything was given back once."""
    placement, ranks = Group(), Group()
    report, phase = report_of(finished(), placement=placement, ranks=ranks)
    assert (report.ready, phase, report.warnings) == (True, "READY", ())
    assert (placement.removed, ranks.closed) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: replace(row, ratio=0.0),
        lambda row: replace(row, ratio=None),
        lambda row: replace(row, ratio="fast"),
        lambda row: replace(row, ratio=-1.0),
        lambda row: replace(row, decision=None),
    ],
)
def test_rows_that_cannot_be_summed_up_end_in_a_report(change: Callable[[Any], Any]) -> None:
    """Whatever a verdict row holds: the driver hears of the end, and so does who waits for its turn."""
    report, phase = report_of(finished(change), placement=(placement := Group()), ranks=(ranks := Group()))
    assert (report.ready, phase) in ((True, "READY"), (False, "FAILED"))
    assert report.ready or "summing up the run failed" in str(report.error)
    assert (placement.removed, ranks.closed) == (1, 1)


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.RaySystemError("GCS is unavailable"),
        ray.exceptions.RpcError("GCS is unavailable"),
        ConnectionError("gone"),
        KeyError("x"),
        UnicodeError("caf\udce9"),
    ],
)
def test_what_cannot_be_given_back_is_a_warning(error: BaseException) -> None:
    """Each step of tidying is done whatever became of the one before, and a ready run stays ready."""
    placement, ranks = Group(error), Group(error)
    report, phase = report_of(finished(), placement=placement, ranks=ranks)
    assert (report.ready, phase) == (True, "READY")
    assert (placement.removed, ranks.closed) == (1, 1)
    assert len([text for text in report.warnings if " failed: " in text]) == 3, report.warnings


def test_what_hangs_at_the_end_is_given_up() -> None:
    """A placement group that is not taken back and ranks that do not close cost their limit, not the report."""
    report, _ = report_of(finished(), placement=Group(hang_s=1.0), ranks=Group(hang_s=30.0))
    assert report.ready
    assert [text for text in report.warnings if "did not end within" in text]


def test_a_reason_that_is_no_text_is_reported() -> None:
    """Half surrogates, which are bytes of somebody's path, reach the driver escaped."""
    report, phase = report_of(Driver(nodes=1, per_node=2), drive=OSError("cannot read caf\udce9"))
    assert phase == "FAILED"
    assert "caf\\udce9" in str(report.error)


def test_a_coordinator_that_is_torn_down_still_reports() -> None:
    """Even what no `except Exception` catches leaves a report in the queue."""
    report, phase = report_of(Driver(nodes=1, per_node=2), drive=asyncio.CancelledError())
    assert (report.ready, phase) == (False, "FAILED")
    assert "ended without a report" in str(report.error)


def test_any_number_may_wait_and_hears_the_end() -> None:
    """Waiting is one future: a thousand that wait hear of it, and one that gives up takes nothing from the others."""

    async def many() -> list[str]:
        made = Coordinator(text_of_config(Driver().machine.run.config), "run-1", None, "x:y", False, {})
        waiting = [asyncio.ensure_future(made.wait()) for _ in range(1000)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        made._over.set_result("READY")
        return await asyncio.gather(*waiting[1:])

    assert asyncio.run(asyncio.wait_for(many(), LIMIT_S)) == ["READY"] * 999
