"""Replicas that may measure tasks of a recorded one: the other starts of its class, while their devices are idle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ray_warmup.warmup.engines.machine.state import EngineRun
from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.messages.engine import RecordEngine


@dataclass(frozen=True, slots=True)
class Measurer:
    """One replica that measures for a recorded one."""

    recorder: int
    """Rank of the launcher whose engine is recorded."""
    recorder_process: int
    """Number of its process: a successor records anew."""
    launcher: int
    """Rank of the launcher of the replica that measures."""
    process: int
    replica: int
    """Its number among the replicas of the class, from 1."""
    bundles: tuple[int, ...]


def measurers(run: EngineRun) -> Iterator[Measurer]:
    """Yield the replicas that may measure now: of a class whose engine is being recorded, and asked nothing else."""
    busy = run.busy()
    recorded: set[int] = set()
    for call in run.calls.values():
        if isinstance(call, Call) and isinstance(call.question, RecordEngine):
            recorded.add(call.rank)
    for group in run.classes.values():
        if group.recorder is None or group.recorder not in recorded:
            continue
        others = [replica for replica in run.starts_of(group) if replica[0] != group.recorder]
        for number, replica in enumerate(others, start=1):
            state = run.ranks[replica[0]]
            if replica[0] not in busy and not state.is_starting:
                yield Measurer(
                    recorder=group.recorder,
                    recorder_process=run.ranks[group.recorder].restarts,
                    launcher=replica[0],
                    process=state.restarts,
                    replica=number,
                    bundles=run.bundles_of(replica),
                )
