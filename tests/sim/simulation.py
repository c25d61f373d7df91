"""Steps `WarmupMachine` through one schedule on a simulated clock, as the coordinator would on a real one.

A rank works on its calls one after the other; an answer that is under way when its process dies still
arrives; a death is noticed late, and perhaps more than once. `properties.py` looks at every step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import Commands
from tests.sim.model_state import Process, RefusedError
from tests.sim.properties import Properties
from tests.sim.schedule import PHASE_LIMIT_S, STRUCK_AS, TASK_LIMIT_S, Schedule, Shape, Strike, build, draw

TICK_S = 1.0
DURATIONS: dict[str, tuple[float, float]] = {
    "probe": (1.0, 6.0),
    "outline": (0.01, 0.5),
    "look_up": (0.01, 0.5),
    "recall_table": (0.01, 0.5),
    "recall_finished": (0.01, 0.5),
    "find_markers": (0.01, 0.2),
    "survey": (0.01, 2.0),
    "compile": (0.0, 20.0),
    "pack_modules": (0.1, 1.0),
    "install_modules": (0.01, 2.0),
    "activate_modules": (0.001, 0.1),
    "tune_engine": (0.5, 60.0),
    "pack": (0.01, 0.3),
    "pack_stored": (0.01, 0.3),
    "adopt": (0.01, 0.5),
    "install": (0.01, 2.0),
    "load": (0.1, 2.0),
    "replay": (0.5, 5.0),
    "warm": (0.5, 10.0),
    "confirm": (0.0, 0.1),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one schedule ended."""

    seed: int
    phase: Phase
    simulated_s: float
    events: int
    deaths: int
    violations: tuple[str, ...]


def simulate(seed: int, shape: Shape | None = None) -> Outcome:
    """Run one schedule to its end."""
    return Simulation(draw(seed, shape)).run()


class Heartbeats(Mapping[int, Status]):
    """What each rank does, made only when it is asked for."""

    def __init__(self, processes: Mapping[int, Process], now: float) -> None:
        self._processes = processes
        self._now = now

    def __getitem__(self, rank: int) -> Status:
        process = self._processes[rank]
        heard = self._now if process.died_at is None else process.died_at
        if process.is_silent and process.hung_since is not None:
            heard = min(heard, process.hung_since)
        task_id, since = process.task or ("", 0.0)
        if since > heard:
            task_id = ""  # it stopped before it could say so
        return Status("tune", task_id, "Runner", "3", since, heard)

    def __iter__(self) -> Iterator[int]:
        return iter(self._processes)

    def __len__(self) -> int:
        return len(self._processes)


class Simulation:
    """One schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._world, infos, self._rng = build(schedule)
        self._machine = WarmupMachine(schedule.config, infos, f"run{schedule.seed}", retune=schedule.retune)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._now = 0.0
        self._counts: dict[str, int] = {}
        self._strikes: dict[tuple[str, int], Strike] = {(s.method, s.nth): s for s in schedule.strikes}
        self._events = 0
        self._deaths = 0
        self._properties = Properties(self._machine, self._world)
        tasks = max(1, schedule.shape.tasks)
        self._task_s = min(2.0, 120.0 / tasks)

    def run(self) -> Outcome:
        """To the machine's end; a machine that raises has broken the first property, that it ends in a phase."""
        try:
            ended = self._run()
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, AssertionError) as error:
            ended = self._now
            self._properties.violations.append(f"the machine raised {type(error).__name__}: {error}")
        return Outcome(
            self._schedule.seed,
            self._machine.phase,
            ended,
            self._events,
            self._deaths,
            tuple(self._properties.violations),
        )

    def _run(self) -> float:
        """Until the machine is over, then a little longer: nothing may follow. Returns when it was over."""
        for at, rank in self._schedule.deaths_at:
            self._at(at, lambda rank=rank: self._die(self._world.processes[rank]))  # type: ignore[misc]
        self._feed(lambda: self._machine.begin(0.0))
        next_tick = TICK_S
        while not self._machine.is_over and self._now < 20 * PHASE_LIMIT_S:
            if self._queue and self._queue[0][0] <= next_tick:
                self._now, _, event = heapq.heappop(self._queue)
                event()
            else:
                self._now = next_tick
                self._tick()
                next_tick = self._now + (TICK_S if self._queue else TASK_LIMIT_S / 4)
        ended = self._now
        while self._queue and self._queue[0][0] < ended + 10:
            self._now, _, event = heapq.heappop(self._queue)
            event()
        self._properties.ended(ended)
        return ended

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (max(time, self._now), self._sequence, event))

    def _feed(self, step: Callable[[], Commands]) -> None:
        """One event of the machine, with every property looked at before and after."""
        self._events += 1
        was_over, before = self._machine.is_over, self._machine.phase
        commands = step()
        self._properties.stepped(before, was_over, commands, self._now)
        for command in commands:
            self._carry_out(command)

    def _tick(self) -> None:
        beats = Heartbeats(self._world.processes, self._now)
        self._feed(lambda: self._machine.tick(self._now, beats))

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Release):
            return
        if isinstance(command, Replace):
            self._replace(command)
            return
        process = self._world.processes[command.rank]
        if process.died_at is not None or process.hung_since is not None:
            return  # a dead process says nothing; its death is reported by itself
        name = command.name if isinstance(command, Call) else "adopt"
        began = max(self._now, process.free_at)
        took = self._duration(name)
        process.free_at = began + took
        strike = self._struck(name)
        if strike is None:
            self._at(began, lambda: self._begin(process, command, began))
            self._at(began + took + self._delay(), lambda: self._arrive(process, command, began + took, took))
        else:
            self._strike(strike, process, command, began, took)

    def _struck(self, name: str) -> Strike | None:
        name = STRUCK_AS.get(name, name)
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._strikes.get((name, self._counts[name]))

    def _strike(self, strike: Strike, process: Process, command: Call | Adopt, began: float, took: float) -> None:
        end = began + took
        if strike.kind == "hangs":
            is_silent = self._rng.random() < 0.5
            self._at(began, lambda: self._hang(process, command, began, is_silent))
            return
        if strike.kind in ("raises", "context_dies"):
            kind = "DeadContextError" if strike.kind == "context_dies" else "RuntimeError"
            failure = Failure(kind, "planted failure")
            self._at(end, lambda: self._arrive(process, command, end, took, failure))
            return
        if strike.kind == "dies_after":
            self._at(end + self._delay(), lambda: self._arrive(process, command, end, took))
            self._at(end, lambda: self._die(process))
            return
        victims, node = [process], self._world.infos[process.rank].node_id
        if strike.kind == "node_lost":
            self._at(end + self._rng.uniform(0.0, 5.0), lambda: self._lose_node(node))
        if strike.kind in ("node_dies", "node_lost"):
            victims = [p for r, p in self._world.processes.items() if self._world.infos[r].node_id == node]
        for victim in victims:
            self._at(began + took / 2, lambda victim=victim: self._die(victim))  # type: ignore[misc]

    def _begin(self, process: Process, command: Call | Adopt, began: float) -> None:
        if isinstance(command, Call) and command.task_id is not None:
            process.task = (command.task_id, began)

    def _hang(self, process: Process, command: Call | Adopt, began: float, is_silent: bool) -> None:
        if process.died_at is None:
            self._begin(process, command, began)
            process.is_silent = is_silent
            process.hung_since = began
            self._properties.hung(process, command)

    def _arrive(
        self, process: Process, command: Call | Adopt, ended: float, took: float, failure: Failure | None = None
    ) -> None:
        if process.died_at is not None and process.died_at < ended:
            return
        if process.hung_since is not None and process.hung_since < ended:
            return
        if command.rank in self._machine.run.removed:
            return
        rank_class = self._machine.run.class_of(command.rank) if self._machine.run.classes else None
        # an adoption of which the machine hears after it gave the rank up is not counted: nobody will be sent there
        is_void = isinstance(command, Adopt) and command.call_id not in self._machine.run.calls
        try:
            value = None if failure or is_void else self._world.answer(process, command, rank_class, ended)
        except RefusedError as refusal:
            failure = refusal.failure
            self._properties.refused(process, command, failure)
        if failure is not None:
            problem = failure
            self._properties.raising(process, command, problem)
            self._feed(lambda: self._machine.raised(command.call_id, problem, self._now))
        elif isinstance(command, Adopt):
            self._feed(lambda: self._machine.adopted(command.call_id, self._now))
        else:
            assert value is not None, "a call is answered"
            answer = value
            self._properties.answered(command, answer)
            self._feed(lambda: self._machine.returned(command.call_id, answer, took, self._now))

    def _die(self, process: Process) -> None:
        if process.died_at is not None:
            return
        process.died_at = self._now
        self._deaths += 1
        known = self._now + self._rng.uniform(0.0, self._schedule.slow_notice_s)
        self._at(known, lambda: self._notice(process))
        if self._schedule.echoes:
            for _ in range(3):
                self._at(known + self._rng.expovariate(1 / 8.0), lambda: self._notice(process))

    def _lose_node(self, node: str) -> None:
        self._world.lost_nodes.add(node)
        self._properties.losing(node)
        for process in list(self._world.processes.values()):
            if self._world.infos[process.rank].node_id == node:
                self._die(process)
        self._feed(lambda: self._machine.node_lost(node, self._now))

    def _notice(self, process: Process) -> None:
        self._properties.dying(process)
        self._feed(lambda: self._machine.died(process.rank, "exit code 137", self._now, process.number))

    def _replace(self, command: Replace) -> None:
        old = self._world.processes[command.rank]
        self._die(old)  # what is left of it is killed
        fresh = self._world.replace(old, command.process)
        if command.elsewhere:
            self._world.move(command.rank)
        ready = self._now + self._rng.uniform(1.0, 8.0)
        if self._rng.random() < self._schedule.fresh_deaths:
            self._at(ready + self._rng.uniform(-1.0, 3.0), lambda: self._die(fresh))
        self._at(ready, lambda: self._started(fresh))

    def _started(self, fresh: Process) -> None:
        if fresh.died_at is None:
            fresh.is_started = True
            info = self._world.infos[fresh.rank]
            self._feed(lambda: self._machine.replaced(info, self._now))

    def _duration(self, name: str) -> float:
        if name in ("tune", "guard", "compare", "vote"):
            return self._task_s * self._rng.uniform(0.2, 1.0)
        low, high = DURATIONS[name]
        return self._rng.uniform(low, high)

    def _delay(self) -> float:
        return self._rng.uniform(0.0, 0.2) if self._rng.random() < 0.9 else self._rng.uniform(0.0, 3.0)
