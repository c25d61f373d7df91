"""What must hold at every step and at the end, judged from the outside.

Violations are collected, not raised, so that one broken schedule does not hide another. The books are kept
here, from the commands and answers that pass by; of the machine's own records only phase, error and
report are read.
"""

from __future__ import annotations

from collections import defaultdict

from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace
from ray_warmup.warmup.machine.failures.failure_window import GRACE_S
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.phases.lookup import keeps_files
from ray_warmup.warmup.machine.reports.summary import summarize
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import Commands
from ray_warmup.warmup.messages.answers import Answer, Compiled, Guarded, InstalledModules, PackedModules
from ray_warmup.warmup.messages.questions import (
    Compare,
    Compile,
    Guard,
    InstallModules,
    Pack,
    PackModules,
    PackStored,
    Tune,
    Vote,
)
from tests.sim.model_class import are_modules
from tests.sim.model_state import Process
from tests.sim.schedule import PHASE_LIMIT_S
from tests.sim.verdict_book import VerdictBook
from tests.sim.world import World

SLACK_S = 16.0
"""The simulated clock ticks at least this often while nothing else happens."""
MAX_PROCESSES = 3
"""A rank's first process and two replacements."""
MAX_MOVES = 2
"""A rank's node may be lost so often."""
TASKS = ("hangs in tune", "hangs in guard", "hangs in compare", "hangs in vote")
LEADS = Pack | PackStored | Tune | Guard


class Properties:
    """The judge of one schedule."""

    def __init__(self, machine: WarmupMachine, world: World) -> None:
        self.violations: list[str] = []
        self._machine = machine
        self._world = world
        self._in_flight: dict[int, Call | Adopt] = {}
        self._of_rank: dict[int, set[int]] = defaultdict(set)
        self._leading: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._builders: dict[str, set[str]] = defaultdict(set)
        """Class -> nodes that were asked to compile."""
        self._held_before: dict[tuple[int, int], frozenset[str]] = {}
        """Process -> modules that had been handed over when it began to build."""
        self._build_alone = False
        """Something went wrong with handing modules over, so nodes may build for themselves."""
        self._finished: set[tuple[str, str, str]] = set()
        self._verdicts = VerdictBook(machine, world)
        self._gone: set[tuple[int, int]] = set()
        """Processes whose death the machine was told of."""
        self._excuses: dict[int, str] = {}
        """Rank -> why the run may end as FAILED because of it."""
        self._must_fail = False
        self._policy = machine.run.config.cluster.on_node_loss
        self._lost_nodes: list[str] = []
        self._node_to_blame: str | None = None
        self._charged: dict[int, int] = defaultdict(int)
        """Rank -> deaths that were not the loss of its node."""
        self._moves: dict[int, int] = defaultdict(int)
        self._phase_began = 0.0

    def stepped(self, before: Phase, was_over: bool, commands: Commands, now: float) -> None:
        """The machine took a step."""
        phase = self._machine.phase
        if was_over and (commands or phase is not before):
            self._broken(f"{len(commands)} commands after the end in {before}, now {phase}")
        if phase is not before:
            self._left(before, now)
        if not was_over:
            for command in commands:
                self._issued(command)

    def answered(self, call: Call, value: Answer) -> None:
        """An answer is about to reach the machine."""
        if isinstance(value, Compiled | PackedModules | InstalledModules):
            self._look_at_modules(call, value)
        if call.call_id in self._in_flight and call.task_id is not None and not self._machine.is_over:
            self._finished.add(self._task(call))
            if isinstance(value, Guarded):
                self._verdicts.note(call, value.verdict)
        self._close(call)

    def raising(self, process: Process, command: Call | Adopt, failure: Failure) -> None:
        """An exception is about to reach the machine."""
        if command.call_id in self._in_flight and not self._machine.is_over:
            if failure.kind == "DeadContextError":
                self._count_death(process)
            elif self._may_refuse(command):
                self._build_alone = True
            elif not self._is_comparison(command):
                self._excuses[process.rank] = failure.message
                self._must_fail = True
        self._close(command)

    def refused(self, process: Process, command: Call | Adopt, failure: Failure) -> None:
        """A process could not do what it was asked; with honest neighbours that is the machine's mistake."""
        if command.call_id in self._in_flight and not self._machine.is_over:
            name = command.name if isinstance(command, Call) else "adopt"
            self._broken(f"rank {process.rank} was asked for {name} which it cannot do: {failure.message}")

    def hung(self, process: Process, command: Call | Adopt) -> None:
        """A process stopped in the middle of a call, alive."""
        if command.call_id in self._in_flight:
            name = command.name if isinstance(command, Call) else "adopt"
            self._excuses[process.rank] = f"hangs {'silently' if process.is_silent else 'in ' + name}"

    def dying(self, process: Process) -> None:
        """The machine is about to be told of a death."""
        if not self._machine.is_over:
            self._count_death(process)

    def losing(self, node: str) -> None:
        """The machine is about to be told that a node is gone for good."""
        ranks = [r for r, state in self._machine.run.ranks.items() if state.info.node_id == node]
        if self._machine.is_over or not ranks:
            return
        self._lost_nodes.append(node)
        everyone = len(ranks) == len(self._machine.run.ranks)
        if self._policy == "fail" or (self._policy == "shrink" and everyone):
            self._node_to_blame = node
        if self._policy == "replace" and max(self._moves[rank] for rank in ranks) >= MAX_MOVES:
            self._node_to_blame = node
        for rank in ranks:
            self._moves[rank] += 1
            self._gone.add((rank, self._world.processes[rank].number))
            for call_id in list(self._of_rank[rank]):
                self._close(self._in_flight[call_id])
            if self._excuses.get(rank, "").startswith("hangs"):
                del self._excuses[rank]
            if rank in self._world.foreign_ranks and self._policy == "replace":
                self._excuses[rank] = "its replacement has another key"

    def ended(self, now: float) -> None:
        """The run is over, or should be."""
        run, phase = self._machine.run, self._machine.phase
        if not phase.is_final:
            self._broken(f"no end within all deadlines: {phase} since {run.phase_began:.0f} s at {now:.0f} s")
            return
        report = summarize(run)
        if report.ready is not (phase is Phase.READY):
            self._broken(f"the report says ready={report.ready} in {phase}")
        if phase is Phase.READY:
            self._check_ready()
        else:
            self._check_failed(report.error or "")

    def _may_refuse(self, command: Call | Adopt) -> bool:
        """Whether a node that is refused this can still compile for itself."""
        if isinstance(command, Adopt):
            return self._machine.phase is Phase.COMPILING
        return isinstance(command.question, PackModules | InstallModules)

    def _is_comparison(self, command: Call | Adopt) -> bool:
        """Whether a rank was to be compared with its peers, which it need not be."""
        return isinstance(command, Call) and isinstance(command.question, Compare)

    def _look_at_modules(self, call: Call, value: Compiled | PackedModules | InstalledModules) -> None:
        """Nobody builds what was handed over, unless something went wrong with handing over."""
        held = self._held(call)
        built = value.built if isinstance(value, Compiled) else ()
        again = self._held_before.get((call.rank, call.process), frozenset()).intersection(built)
        if again and keeps_files(self._machine.run) and not self._build_alone:
            self._broken(f"rank {call.rank} built {sorted(again)}, which were handed over")
        is_refused = isinstance(value, InstalledModules) and held.intersection(value.missing)
        if is_refused or (isinstance(value, PackedModules) and value.header is None):
            self._build_alone = True

    def _held(self, call: Call) -> frozenset[str]:
        """Modules of the call's class that the coordinator has."""
        return frozenset(self._world.handed_over.get(self._machine.run.class_of(call.rank).key, ()))

    def _check_builders(self) -> None:
        """One node of a class compiles, unless nothing is kept on disk or handing over went wrong."""
        ships = keeps_files(self._machine.run) and not self._build_alone
        for key, asked in self._builders.items():
            nodes = asked - set(self._lost_nodes)
            if ships and len(nodes) > 1:
                self._broken(f"nodes {sorted(nodes)} all compiled for class {key[:8]}")

    def _check_ready(self) -> None:
        self._check_builders()
        if self._must_fail or self._node_to_blame is not None:
            self._broken(f"READY although {self._excuses}, {self._node_to_blame}")
        removed = self._machine.run.removed
        if removed.keys() and self._policy != "shrink":
            self._broken(f"READY without ranks {sorted(removed)}, which nobody allowed")
        for rank, state in self._machine.run.ranks.items():
            if state.info.node_id in self._lost_nodes:
                self._broken(f"READY with rank {rank} on the lost {state.info.node_id}")
        digests: dict[str, set[str | None]] = defaultdict(set)
        for rank, process in self._world.processes.items():
            if rank in removed:
                continue
            if (rank, process.number) in self._gone:
                self._broken(f"READY with rank {rank} dead")
            if not process.has_replayed and self._machine.run.config.autotune.is_enabled:
                self._broken(f"READY, but rank {rank} has not replayed what it holds")
            if not process.has_warmed and self._machine.run.config.engine.enabled is not False:
                self._broken(f"READY, but rank {rank} has not warmed its engine after that")
            if self._holds_less(process):
                self._broken(f"READY, but the node of rank {rank} keeps less than was compiled")
            digests[self._machine.run.class_of(rank).key].add(process.loaded)
        for key, held in digests.items():
            if len(held) != 1:
                self._broken(f"READY with {len(held)} digests in class {key[:8]}")

    def _holds_less(self, process: Process) -> bool:
        """Whether what the rank's directory keeps of its table is not all that another run would need."""
        directory, key = self._world.directory(process.rank), self._machine.run.class_of(process.rank).key
        table = directory.tables.get(key) if keeps_files(self._machine.run) and not directory.is_read_only else None
        return table is not None and table.digest == process.loaded and table.is_poor

    def _check_failed(self, error: str) -> None:
        if self._node_to_blame is not None:
            if f"node {self._node_to_blame} (" not in error:
                self._broken(f"FAILED does not name {self._node_to_blame}: {error[:300]}")
        elif not self._excuses:
            self._broken(f"FAILED without a reason: {error[:300]}")
        elif not any(f"rank {rank} on node" in error for rank in self._excuses):
            self._broken(f"FAILED names none of ranks {sorted(self._excuses)}: {error[:300]}")

    def _issued(self, command: Command) -> None:
        if isinstance(command, Release):
            if command.rank not in self._machine.run.removed:
                self._broken(f"rank {command.rank} is released, and still takes part")
            return
        process = self._world.processes[command.rank]
        gone = (command.rank, process.number) in self._gone
        if isinstance(command, Replace):
            if not gone and command.is_hung and self._excuses.get(command.rank, "").startswith("hangs"):
                self._count_death(process)  # given up: the machine need not be told
            elif not gone:
                self._broken(f"rank {command.rank} is replaced, but nothing said that it is dead")
            return
        if gone:
            self._broken(f"a call to rank {command.rank}, which is known to be dead")
        if not process.is_started:
            self._broken(f"a call to rank {command.rank}, whose fresh process has not started")
        if isinstance(command, Call) and command.task_id is not None and self._task(command) in self._finished:
            self._broken(f"{command.name} {command.task_id} is finished and dealt again")
        if isinstance(command, Call) and isinstance(command.question, Compile):
            self._builders[self._machine.run.class_of(command.rank).key].add(self._world.infos[command.rank].node_id)
            if not process.building:
                self._held_before[command.rank, command.process] = self._held(command)
        if isinstance(command, Call):
            self.violations += self._verdicts.faults(command)
        self._in_flight[command.call_id] = command
        self._of_rank[command.rank].add(command.call_id)
        if (key := self._led_class(command)) is not None:
            leading = self._leading[key]
            leading[command.rank] += 1
            leaders = [rank for rank, count in leading.items() if count > 0]
            if len(leaders) > 1:
                self._broken(f"class {key[:8]} is led by ranks {leaders} at once")

    def _task(self, call: Call) -> tuple[str, str, str]:
        """What may be done once: a task by a class, a vote by a rank, a verdict by a device."""
        by = self._machine.run.class_of(call.rank).key
        if isinstance(call.question, Compare | Vote):
            by = f"rank {call.rank}"
        elif isinstance(call.question, Guard):
            by += f" on {self._verdicts.device_of(call.rank)}"
        return by, call.name, call.task_id or ""

    def _led_class(self, command: Call | Adopt) -> str | None:
        """The class for which only a leader may be asked this."""
        if isinstance(command, Call) and not isinstance(command.question, LEADS):
            return None
        rank_class = self._machine.run.class_of(command.rank)
        if isinstance(command, Adopt) and are_modules(command.digests):
            return None  # whichever node has them
        if isinstance(command, Call) and command.task_id is not None and rank_class.strategy != "leader":
            return None
        return rank_class.key

    def _count_death(self, process: Process) -> None:
        if (process.rank, process.number) in self._gone:
            return
        self._gone.add((process.rank, process.number))
        for call_id in list(self._of_rank[process.rank]):
            self._close(self._in_flight[call_id])
        if self._excuses.get(process.rank, "").startswith("hangs"):
            del self._excuses[process.rank]
        self._charged[process.rank] += 1
        if self._charged[process.rank] >= MAX_PROCESSES:
            self._excuses[process.rank] = "died too often"
            self._must_fail = True
        elif process.rank in self._world.foreign_ranks:
            self._excuses[process.rank] = "its replacement has another key"

    def _close(self, command: Call | Adopt) -> None:
        if self._in_flight.pop(command.call_id, None) is None:
            return
        self._of_rank[command.rank].discard(command.call_id)
        if (key := self._led_class(command)) is not None:
            self._leading[key][command.rank] -= 1

    def _left(self, phase: Phase, now: float) -> None:
        took, self._phase_began = now - self._phase_began, now
        limit = (PHASE_LIMIT_S + GRACE_S + SLACK_S) * (1 + len(self._lost_nodes))  # LOOKUP may begin again
        if took > limit:
            self._broken(f"{phase} lasted {took:.0f} s of {limit:.0f} s")
        hanging = {why for why in self._excuses.values() if why.startswith("hangs")}
        error = self._machine.run.error or ""
        if hanging and hanging <= {"hangs silently", *TASKS} and phase.setting in error:
            self._broken(
                f"a rank hung in a task, or without a heartbeat, and only the phase's deadline saw it: {error[:200]}"
            )

    def _broken(self, what: str) -> None:
        self.violations.append(what)
