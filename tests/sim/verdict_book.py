"""Verdicts of a run as they pass by: how many devices judged a tactic, and what is published of it."""

from __future__ import annotations

from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.messages.questions import Guard, Pack
from ray_warmup.warmup.tasks import Choice, GuardVerdict
from tests.sim.world import World

Device = tuple[str, tuple[str, ...]]


class VerdictBook:
    """Every verdict that reached the machine, by class and task."""

    def __init__(self, machine: WarmupMachine, world: World) -> None:
        self._machine, self._world = machine, world
        self._found: dict[tuple[str, str], dict[Device, Choice]] = {}

    def device_of(self, rank: int) -> Device:
        """Where a rank measures."""
        info = self._world.infos[rank]
        return info.node_id, info.gpu_ids

    def note(self, call: Call, verdict: GuardVerdict) -> None:
        """A verdict is about to reach the machine."""
        key = self._machine.run.class_of(call.rank).key
        self._found.setdefault((key, verdict.task_id), {})[self.device_of(call.rank)] = verdict.choice

    def faults(self, call: Call) -> list[str]:
        """What is wrong with a question, in words."""
        if isinstance(call.question, Guard):
            return self._faults_of_guard(call, call.question)
        if isinstance(call.question, Pack):
            return self._faults_of_pack(call, call.question)
        return []

    def _faults_of_guard(self, call: Call, asked: Guard) -> list[str]:
        """A further judge is asked while one is wanted, about the tactic of the first one alone."""
        found = list(self._found.get((self._machine.run.class_of(call.rank).key, asked.task_id), {}).values())
        faults = []
        if len(found) >= self._judges:
            faults.append(f"guard {asked.task_id} is asked of judge {len(found) + 1} of {self._judges}")
        listed = [Choice(row.runner, row.tactic) for row in asked.result.measurements]
        if found and (asked.result.choice != found[0] or listed not in ([], [found[0]])):
            faults.append(f"guard {asked.task_id} is asked about {listed}, the first verdict was {found[0]}")
        return faults

    def _faults_of_pack(self, call: Call, asked: Pack) -> list[str]:
        """A tactic that is published has no verdict against it, and one of every device that was to judge it."""
        rank_class = self._machine.run.class_of(call.rank)
        devices = {self.device_of(rank) for rank in rank_class.ranks}
        faults = []
        for verdict in asked.verdicts:
            found = self._found.get((rank_class.key, verdict.task_id))
            if verdict.decision not in ("kept", "replaced") or found is None:
                continue
            if set(found.values()) != {verdict.choice}:
                faults.append(f"{verdict.task_id} has a verdict against its tactic")
            is_shared = rank_class.strategy in ("sharded", "consensus")
            if is_shared and len(found) < self._judges and devices - found.keys():
                faults.append(f"{verdict.task_id} was judged by {len(found)} devices only")
        return faults

    @property
    def _judges(self) -> int:
        return self._machine.run.config.guard.judges
