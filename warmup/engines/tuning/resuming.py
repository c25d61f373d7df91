"""LOOKUP of a tuning of recorded requests: what earlier attempts finished and what nobody may measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray_warmup.warmup import remedies
from ray_warmup.warmup.artifact.quarantine import is_served
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import Commands, Run
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
            group.quarantine = found.quarantine
            for result in found.results:
                if result.task_id in wanted and is_served(result.op, result.choice, found.quarantine):
                    group.results[result.task_id] = result
            for warning in found.warnings:
                run.warn(warning, remedies.STORE)
        return []
