"""Runs a rank's engine warmups in order: gates, deadlines, severities, one report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ray_warmup.warmup.engines.builtin.runner.errors import MissingCapabilityError
from ray_warmup.warmup.engines.builtin.runner.protocol import lacking
from ray_warmup.warmup.engines.builtin.warmups.envelope import leave_no_trace
from ray_warmup.warmup.engines.builtin.warmups.outcome import EngineWarmupReport
from ray_warmup.warmup.engines.builtin.warmups.spec import (
    EngineWarmup,
    Notes,
    Severity,
    Shape,
    WarmupContext,
    gate_of,
    severity_of,
)
from ray_warmup.warmup.errors import DeadContextError, EngineWarmupTimeoutError
from ray_warmup.warmup.report import EngineWarmupEntry

logger = logging.getLogger(__name__)

Outcome = tuple[EngineWarmupEntry, Notes]
"""What one warmup came to, and what later ones need to know of it."""


def run_engine_warmups(
    context: WarmupContext,
    warmups: Sequence[EngineWarmup],
    *,
    announce: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> EngineWarmupReport:
    """Run all warmups. A failure ends its own warmup only, unless the device is lost.

    Args:
        context: the rank's surroundings.
        warmups: in the order of their stages.
        announce: told each warmup's name before it begins.
        clock: seconds.

    Raises:
        ValueError: the warmups are not in the order of their stages.
        DeadContextError: the device no longer answers; the process must be replaced.
    """
    stages = [warmup.stage for warmup in warmups]
    if stages != sorted(stages):
        raise ValueError(f"engine warmups out of order: {[f'{w.stage.name}:{w.name}' for w in warmups]}")
    outcomes, notes = [], Notes()
    for warmup in warmups:
        if announce is not None:
            announce(warmup.name)
        outcome, added = _run_one(replace(context, consumed=context.consumed | notes.consumed), warmup, clock)
        notes = _joined((notes, added))
        outcomes.append(outcome)
    return EngineWarmupReport(tuple(outcomes), notes.tuned)


def _run_one(context: WarmupContext, warmup: EngineWarmup, clock: Callable[[], float]) -> Outcome:
    severity = severity_of(warmup, context.options)
    if (kept_out := _kept_out(context, warmup, severity)) is not None:
        return kept_out, Notes()
    started, done, notes = clock(), list[str](), Notes()
    failure = ""
    if (reason := lacking(context.runner, *warmup.uses)) is not None:
        notes = Notes((f"{reason}: what needs it stays cold",))
    try:
        with leave_no_trace(context):
            for shape in warmup.shapes(context):
                notes = _joined((notes, warmup.run(context, shape)))
                _check_deadline(context, warmup, shape, clock() - started)
                done.append(str(shape))
    except MissingCapabilityError as missing:
        logger.info("engine warmup %s skipped: %s", warmup.name, missing.message)
        warnings = (*notes.warnings, missing.message)
        return (
            _entry(
                warmup,
                severity,
                "skipped",
                seconds=clock() - started,
                shapes=tuple(done),
                reason=missing.message,
                warnings=warnings,
            ),
            notes,
        )
    # The border of this rank's work: whatever an engine's runner raises must become an outcome with a name.
    except Exception as error:
        failure = f"{type(error).__name__}: {error} (after {', '.join(done[-1:]) or 'no shape'})"
        logger.exception("engine warmup %s (%s) failed after %s", warmup.name, severity, done[-1:] or "no shape")
        _probe(context, warmup, error)
    seconds = clock() - started
    for warning in notes.warnings:
        logger.info("engine warmup %s: %s", warmup.name, warning)
    logger.info("engine warmup %s: %d shapes in %.2f s", warmup.name, len(done), seconds)
    outcome = _entry(
        warmup,
        severity,
        "failed" if failure else "done",
        seconds=seconds,
        shapes=tuple(done),
        reason=failure,
        warnings=notes.warnings,
    )
    return outcome, notes


def _kept_out(context: WarmupContext, warmup: EngineWarmup, severity: Severity) -> EngineWarmupEntry | None:
    """Return the outcome of a warmup whose gate is closed or raised, or None if it may run."""
    try:
        skip = gate_of(context, warmup)
    # The border again: a gate asks an engine's runner and the libraries that are installed.
    except Exception as error:
        logger.exception("the gate of engine warmup %s (%s) failed", warmup.name, severity)
        return _entry(warmup, severity, "failed", reason=f"its gate: {type(error).__name__}: {error}")
    if skip is None:
        return None
    logger.log(logging.WARNING if skip.warn else logging.INFO, "engine warmup %s skipped: %s", warmup.name, skip.reason)
    warnings = (skip.reason,) if skip.warn else ()
    return _entry(warmup, severity, "skipped", reason=skip.reason, warnings=warnings)


def _entry(warmup: EngineWarmup, severity: Severity, state: str, **rest: Any) -> EngineWarmupEntry:
    return EngineWarmupEntry(name=warmup.name, state=state, severity=severity, **rest)


def _check_deadline(context: WarmupContext, warmup: EngineWarmup, shape: Shape, elapsed: float) -> None:
    allowed = context.options.deadlines.get(warmup.name, float("inf"))
    if elapsed > allowed:
        raise EngineWarmupTimeoutError(
            f"{warmup.name} took {elapsed:.1f} s up to {shape}, its deadline is {allowed:.1f} s; "
            f"raise engine.deadlines.{warmup.name}",
            warmup=warmup.name,
            elapsed_s=elapsed,
        )


def _probe(context: WarmupContext, warmup: EngineWarmup, error: Exception) -> None:
    """Raise DeadContextError if the device no longer synchronizes, because every later warmup would fail too."""
    try:
        context.synchronize()
    except RuntimeError as lost:
        raise DeadContextError(
            f"the device does not answer after engine warmup {warmup.name} failed with {type(error).__name__}: {lost}",
            warmup=warmup.name,
        ) from error


def _joined(parts: tuple[Notes, Notes]) -> Notes:
    first, second = parts
    return Notes(first.warnings + second.warnings, first.consumed | second.consumed, first.tuned + second.tuned)
