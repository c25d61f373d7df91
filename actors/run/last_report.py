"""The report that a run always ends with, whatever summing it up raises."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence

from ray_warmup.configs import WarmupConfig
from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.reports.summary import summarize
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.remedies import with_remedy
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

SUMMING_UP = "summing up the run failed (internal error, please report)"


def sum_up(
    run_id: str, config: WarmupConfig, machine: WarmupMachine | None, reason: str | None, seconds: float
) -> WarmupReport:
    """Summarize the run as a report.

    Args:
        reason: set if something other than the machine ended the run.
        seconds: duration of a run that never had a machine.
    """
    try:
        if machine is not None:
            if reason is not None:
                machine.fail(reason, time.monotonic())
            return summarize(machine.run)
    except Exception as error:  # the driver is owed a report
        logger.exception("summing up failed")
        said = reason or f"the run ended as {Phase.FAILED}"
        if machine is not None:
            said = machine.run.error or reason or f"the run ended as {machine.phase}"
        reason = f"{said}\n{SUMMING_UP}: {type(error).__name__}: {error}"
    phases: dict[str, float] = {}
    if machine is None:
        phases[str(Phase.PLACING)] = seconds
    return WarmupReport(
        run_id=run_id,
        config=config.model_dump(mode="json"),
        phases=phases,
        error=clean(reason or "no reason was given"),
    )


def as_json(report: WarmupReport, problems: Sequence[str]) -> str:
    """The report with what went wrong after it, as text that always is valid."""
    try:
        warnings = tuple(map(clean, (*report.warnings, *remedied(problems))))
        error = None
        if report.error is not None:
            error = clean(report.error)
        return report.model_copy(update={"warnings": warnings, "error": error}).to_json()
    except Exception as failed:  # what cannot be written must not be missing altogether
        logger.exception("the report could not be written")
        return minimal(report.run_id, f"{report.error or ''}\n{SUMMING_UP}: {type(failed).__name__}".strip())


def remedied(problems: Iterable[str]) -> list[str]:
    """Give each problem of a run's end its remedy."""
    return [with_remedy(problem, remedies.TIDYING) for problem in problems]


def minimal(run_id: str, error: str) -> str:
    """Return a failed report that holds only the error.

    Cannot raise.
    """
    return json.dumps({"run_id": run_id, "config": {}, "error": clean(error)})


def clean(text: str) -> str:
    """Text without half surrogates, which are bytes of somebody's file name and no characters."""
    return text.encode("utf-8", "backslashreplace").decode()
