"""LOOKUP of a tuning of recorded requests: what earlier attempts finished and what nobody may measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.state import Commands, Run
from ray_warmup.warmup.tasks import TacticId, TaskResult


@dataclass(frozen=True, slots=True)
class Earlier:
    """Results and bans that a class's earlier attempts left."""

    results: tuple[TaskResult, ...] = ()
    quarantine: tuple[TacticId, ...] = ()
    warnings: tuple[str, ...] = ()


class Resuming(PhaseLogic):
    """Takes over finished tasks of earlier attempts. Asks no rank."""

    phase = Phase.LOOKUP

    def __init__(self, earlier: Callable[[str], Earlier]) -> None:
        """`earlier` returns what is known of a class by its key."""
        self._earlier = earlier

    def enter(self, run: Run) -> Commands:
        for group in run.classes.values():
            found = self._earlier(group.key)
            wanted = {task.task_id for task in group.tasks}
            banned = {(tactic.op, tactic.runner, tactic.tactic) for tactic in found.quarantine}
            group.quarantine = found.quarantine
            for result in found.results:
                if result.task_id in wanted and not _names(result, banned):
                    group.results[result.task_id] = result
            for warning in found.warnings:
                run.warn(warning, remedies.STORE)
        return []


def _names(result: TaskResult, banned: set[tuple[str, str, str]]) -> bool:
    """Return True if a result chose a tactic that is banned by now."""
    choice = result.choice
    return choice is not None and (result.op, choice.runner, str(choice.tactic)) in banned
