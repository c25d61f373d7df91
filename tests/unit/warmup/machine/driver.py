"""Steps `WarmupMachine` by hand: holds what is in flight and answers when told to, from the simulation's world."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray_warmup.configs import parse_config
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.reports.summary import summarize
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import ClassState, Commands
from ray_warmup.warmup.messages.answers import Answer
from ray_warmup.warmup.messages.values import PoolTask
from ray_warmup.warmup.ranks import ActorLocation, assign_ranks
from ray_warmup.warmup.report import WarmupReport
from ray_warmup.warmup.tasks import TaskOutcome
from tests.sim.model_class import ModelClass
from tests.sim.model_state import Process, RefusedError, Table
from tests.sim.world import World, make_result, make_verdict

Changes = dict[tuple[str, int], dict[str, Any]]


class Driver:
    """A run of `nodes` times `per_node` ranks, all of one class unless `classes` says otherwise."""

    def __init__(
        self,
        *,
        nodes: int = 2,
        per_node: int = 2,
        tasks: int = 3,
        classes: int = 1,
        strategy: str = "leader",
        shared: bool = False,
        retune: bool = False,
        outcome: TaskOutcome = "tuned",
        modules: tuple[str, ...] = (),
        tunes_engine: bool = False,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        given: dict[str, Any] = {name: dict(values) for name, values in (sections or {}).items()}
        given["autotune"] = {"strategy": strategy, **given.get("autotune", {})}
        given["cluster"] = {"world_size": nodes * per_node, **given.get("cluster", {})}
        config = parse_config({"model": {"name": "llama-3.1-8b"}, **given})
        places = [
            ActorLocation(node * per_node + gpu, f"node{node}", (str(gpu),), f"10.0.0.{node}")
            for node in range(nodes)
            for gpu in range(per_node)
        ]
        infos = assign_ranks(places, "node0")
        made = [make_class(index, tasks, outcome, modules) for index in range(classes)]
        modelled = [replace(rank_class, tunes_engine=tunes_engine) for rank_class in made]
        self.world = World(
            infos,
            modelled,
            lambda rank: infos[rank].node_rank % classes,
            lambda node: 0 if shared else int(node[4:]),
            random.Random(1),
        )
        self.world.slow_at_tasks = {}
        self.world.build_at_once = len(modules) or None
        self.machine = WarmupMachine(config, infos, "run-1", retune=retune)
        self.now = 0.0
        self.flying: dict[int, Call | Adopt] = {}
        self.replacing: list[Replace] = []
        self.log: list[Command] = []
        self.changes: Changes = {}
        """(question, rank) -> fields that are different in every such answer."""

    @property
    def phase(self) -> Phase:
        """Where the machine is."""
        return self.machine.phase

    @property
    def report(self) -> WarmupReport:
        """The report as it stands."""
        return summarize(self.machine.run)

    def rank_class(self, rank: int = 0) -> ClassState:
        """The class of a rank."""
        return self.machine.run.class_of(rank)

    def store(self, node: int, number: int, *, guarded: bool = True, at: float = 1.0, class_index: int = 0) -> Table:
        """Put a table on a node; its choices follow from `number`."""
        rank_class = self.world.classes[class_index]
        rows = [make_result(task.task_id, "tuned", random.Random(number)) for task in rank_class.tasks]
        verdicts = [make_verdict(row) for row in rows] if guarded else []
        table = Table.of(rows, verdicts, guarded, at)
        assert table is not None
        self.world.directory(self._rank_on(node)).tables[rank_class.key] = table
        return table

    def begin(self) -> Driver:
        """Enter PROBING."""
        self._take(self.machine.begin(self.now))
        return self

    def until(self, phase: Phase) -> Driver:
        """Answer everything, in order, until the machine is in `phase`."""
        if not self.log:
            self.begin()
        while self.phase is not phase:
            assert self.flying, f"{self.phase}: nothing is in flight, {phase} is out of reach: {self.machine.run.error}"
            self.answer(next(iter(self.flying.values())))
        return self

    def finish(self) -> WarmupReport:
        """Answer everything and bring every lost rank back, until the run is over."""
        if not self.log:
            self.begin()
        while not self.machine.is_over:
            if self.replacing:
                self.bring_back()
            elif self.flying:
                self.answer(next(iter(self.flying.values())))
            else:
                raise AssertionError(f"{self.phase}: the run waits for nothing")
        return self.report

    def answer(self, command: Call | Adopt) -> None:
        """One command is carried out and answered."""
        process = self.world.processes[command.rank]
        rank_class = self.machine.run.class_of(command.rank) if self.machine.run.classes else None
        del self.flying[command.call_id]
        try:
            value = self.world.answer(process, command, rank_class, self.now)
        except RefusedError as refusal:
            self._take(self.machine.raised(command.call_id, refusal.failure, self.now))
            return
        if isinstance(command, Adopt):
            self._take(self.machine.adopted(command.call_id, self.now))
        else:
            assert value is not None, "a call is answered"
            answer = changed(value, self.changes.get((command.name, command.rank), {}))
            self._take(self.machine.returned(command.call_id, answer, 0.5, self.now))

    def fails(
        self, command: Call | Adopt, kind: str = "TuningError", message: str = "bad", traceback: str = ""
    ) -> None:
        """One command raises in its rank."""
        del self.flying[command.call_id]
        self._take(self.machine.raised(command.call_id, Failure(kind, message, traceback), self.now))

    def kill(self, rank: int) -> None:
        """The rank's process is gone; what it had in flight is never answered."""
        process = self.world.processes[rank]
        process.died_at = self.now
        self.flying = {i: c for i, c in self.flying.items() if c.rank != rank}
        self._take(self.machine.died(rank, "exit code 137", self.now, process.number))

    def lose_node(self, node: str) -> None:
        """A node and every process on it are gone."""
        ranks = [rank for rank, state in self.machine.run.ranks.items() if state.info.node_id == node]
        self.flying = {i: c for i, c in self.flying.items() if c.rank not in ranks}
        self.replacing = [c for c in self.replacing if c.rank not in ranks]
        for rank in ranks:
            self.world.processes[rank].died_at = self.now
        self.world.lost_nodes.add(node)
        self._take(self.machine.node_lost(node, self.now))

    def bring_back(self) -> int:
        """The first replacement that was asked for comes up; returns its rank."""
        command = self.replacing.pop(0)
        self.world.processes[command.rank] = Process(command.rank, command.process)
        if command.elsewhere:
            self.world.move(command.rank)
        self._take(self.machine.replaced(self.world.infos[command.rank], self.now))
        return command.rank

    def finish_replacing(self) -> None:
        """Bring everyone back, as far as describing themselves."""
        while self.replacing:
            self.bring_back()
        for call in self.in_flight("probe"):
            self.answer(call)

    def tick(
        self,
        seconds: float,
        statuses: Mapping[int, Status] | None = None,
        *,
        silent: Mapping[int, Status] | None = None,
    ) -> None:
        """Time passes, a second at a time; every rank beats, and says what `statuses` has of it.

        Those of `silent` do not beat: what is there was heard before.
        """
        end = self.now + seconds
        while self.now < end and not self.machine.is_over:
            self.now = min(end, self.now + 1.0)
            beats = {rank: Status(since=self.now) for rank in self.machine.run.ranks} | dict(statuses or {})
            heard = {rank: replace(status, heard=self.now) for rank, status in beats.items()}
            self._take(self.machine.tick(self.now, heard | dict(silent or {})))

    def quiet(self, *ranks: int) -> dict[int, Status]:
        """Ranks of which nothing is heard from now on."""
        return {rank: Status("idle", since=self.now, heard=self.now) for rank in ranks}

    def in_flight(self, method: str, rank: int | None = None) -> list[Call | Adopt]:
        """Unanswered calls of a method (`adopt` for adoptions)."""
        return [c for c in self.flying.values() if name_of(c) == method and rank in (None, c.rank)]

    def asked(self, method: str) -> list[int]:
        """The ranks that were asked for a method, in order."""
        return [c.rank for c in self.log if name_of(c) == method]

    def measured(self) -> list[str]:
        """Tasks that were given to a rank to tune, in order."""
        return [c.task_id for c in self.log if isinstance(c, Call) and c.name == "tune" and c.task_id]

    def _take(self, commands: Commands) -> None:
        self.log += commands
        for command in commands:
            if isinstance(command, Replace):
                self.replacing.append(command)
            elif not isinstance(command, Release):
                self.flying[command.call_id] = command

    def _rank_on(self, node: int) -> int:
        return next(rank for rank, info in self.world.infos.items() if info.node_id == f"node{node}")


def changed(answer: Answer, changes: Mapping[str, Any]) -> Answer:
    """An answer with other fields; those that it has not itself are its table's, its result's or its verdict's."""
    own = {name: value for name, value in changes.items() if hasattr(answer, name)}
    inner = {name: value for name, value in changes.items() if name not in own}
    if inner:
        (part,) = (name for name in ("table", "result", "verdict") if hasattr(answer, name))
        own[part] = replace(getattr(answer, part), **inner)
    different: Answer = replace(answer, **own)
    return different


def name_of(command: Command) -> str:
    """What a call asks, else the kind of command."""
    return command.name if isinstance(command, Call) else type(command).__name__.lower()


def make_class(index: int, tasks: int, outcome: TaskOutcome = "tuned", modules: tuple[str, ...] = ()) -> ModelClass:
    """One class of tasks `c0t0`, `c0t1`, ... of two op shapes."""
    rows = tuple(PoolTask(f"c{index}t{n}", f"op{n % 2}", 1.0 + n) for n in range(tasks))
    return ModelClass(
        f"{index:x}" * 64, {"gpu": f"GPU {index}", "torch": "2.13", "tasks": "same"}, rows, outcome, modules
    )
