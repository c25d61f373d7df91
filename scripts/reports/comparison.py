"""Compare two runs: outcome, versions, seconds, winners, times of tasks, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_warmup.scripts.reports.page_document import outcome_of
from ray_warmup.scripts.reports.reading import Report
from ray_warmup.warmup.engines.reports.report import EngineReport
from ray_warmup.warmup.report import TaskReport, WarmupReport

SAME_WITHIN = 0.05
"""Times that differ by less are the same: a tactic's time varies so from one run to the next."""
SAME_S = 0.1
"""Phases that differ by less are the same."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs."""

    group: str
    """outcome, version, phase, task, class, size or engine."""
    name: str
    before: str
    after: str


def changes(before: Report, after: Report) -> list[Change]:
    """List what changed from one run to another, what matters most first.

    Raises ValueError where one is of the built-in engine and the other of a real one.
    """
    if isinstance(before, WarmupReport) and isinstance(after, WarmupReport):
        return [*_common(before, after), *_of_tables(before, after)]
    if isinstance(before, EngineReport) and isinstance(after, EngineReport):
        return [*_common(before, after), *_of_engines(before, after)]
    raise ValueError("one report is of the built-in engine and one of a real engine: nothing can be compared")


def _common(before: Report, after: Report) -> list[Change]:
    found = _differing("outcome", _outcome(before), _outcome(after))
    for name in {**before.phases, **after.phases}:
        old, new = before.phases.get(name, 0.0), after.phases.get(name, 0.0)
        if abs(new - old) >= SAME_S and abs(new - old) > SAME_WITHIN * max(old, new):
            found.append(Change("phase", str(name), f"{old:.2f} s", f"{new:.2f} s"))
    return found


def _outcome(report: Report) -> dict[str, str]:
    first = (report.error or "").split("\n", 1)[0]
    return {
        "ready": outcome_of(report.ready),
        "error": first,
        "warnings": str(len(report.warnings)),
    }


def _of_tables(before: WarmupReport, after: WarmupReport) -> list[Change]:
    found = _differing("version", _parts(before), _parts(after))
    found += _differing("class", _digests(before), _digests(after))
    old_tasks, new_tasks = _tasks(before), _tasks(after)
    for task in {**old_tasks, **new_tasks}:
        found += _of_task(task, old_tasks.get(task), new_tasks.get(task))
    return found + _differing("size", _sizes(before), _sizes(after))


def _of_task(task: str, old: TaskReport | None, new: TaskReport | None) -> list[Change]:
    if old is None:
        return [Change("task", task, "not there", "there")]
    if new is None:
        return [Change("task", task, "there", "not there")]
    found = []
    if (old.runner, old.tactic) != (new.runner, new.tactic):
        found.append(Change("task", f"{task} winner", _winner(old), _winner(new)))
    elif old.decision != new.decision:
        found.append(Change("task", f"{task} decision", old.decision, new.decision))
    if old.tuned_s and new.tuned_s and abs(new.tuned_s / old.tuned_s - 1) > SAME_WITHIN:
        found.append(Change("task", f"{task} time", f"{old.tuned_s * 1e6:.4g} us", f"{new.tuned_s * 1e6:.4g} us"))
    return found


def _winner(row: TaskReport) -> str:
    return f"{row.runner} {row.tactic} ({row.decision})"


def _of_engines(before: EngineReport, after: EngineReport) -> list[Change]:
    found = _differing("engine", _engine_facts(before), _engine_facts(after))
    return found + _differing("size", _entries(before), _entries(after))


def _engine_facts(report: EngineReport) -> dict[str, str]:
    facts = {}
    if report.recorded_engine_s is not None:
        facts["engine with empty caches"] = f"{report.recorded_engine_s:.1f} s"
    for node in report.nodes:
        name = f"node {node.address}"
        facts[f"{name} proven"] = node.proven
        facts[f"{name} artifact"] = node.key_sha256[:12]
        if node.engine_s is not None:
            facts[f"{name} warm engine"] = f"{node.engine_s:.1f} s"
    return facts


def _entries(report: EngineReport) -> dict[str, str]:
    """Entries carried by kind: every rank of every node says the same of its artifact."""
    found = {}
    for node in report.nodes:
        for kind in node.kinds:
            found[f"{kind.kind} entries"] = str(kind.carried)
    return found


def _parts(report: WarmupReport) -> dict[str, str]:
    """Parts of the keys of all classes: versions, device, model, settings."""
    values: dict[str, set[str]] = {}
    for group in report.classes:
        for name, value in group.parts.items():
            values.setdefault(name, set()).add(value)
    return {name: " and ".join(sorted(found)) for name, found in values.items()}


def _digests(report: WarmupReport) -> dict[str, str]:
    return {f"table of leader rank {group.leader}": (group.digest or "-")[:12] for group in report.classes}


def _tasks(report: WarmupReport) -> dict[str, TaskReport]:
    several = len(report.classes) > 1
    found = {}
    for group in report.classes:
        for row in group.task_reports:
            name = row.task
            if several:
                name = f"{row.task} (leader rank {group.leader})"
            found[name] = row
    return found


def _sizes(report: WarmupReport) -> dict[str, str]:
    sizes: dict[str, int] = {}
    for group in report.classes:
        for kind in group.kinds:
            sizes[kind.kind] = sizes.get(kind.kind, 0) + kind.bytes
    # A kind of which there is nothing is no different from one that is not named.
    return {kind: f"{total} bytes" for kind, total in sizes.items() if total}


def _differing(group: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    found = []
    for name in {**old, **new}:
        before, after = old.get(name, "-"), new.get(name, "-")
        if before != after:
            found.append(Change(group, name, before, after))
    return found
