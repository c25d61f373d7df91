"""Everything a run knows: its ranks, its classes, its phase. Changed by the machine alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.machine.commands import Adopt, Call, Command
from ray_warmup.warmup.machine.state.confirmations import Confirmations
from ray_warmup.warmup.machine.state.modules import ModuleState
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.pool import TaskPool
from ray_warmup.warmup.machine.state.rank import Place, RankState
from ray_warmup.warmup.machine.state.silences import Silences
from ray_warmup.warmup.machine.state.store_lookup import StoreLookup
from ray_warmup.warmup.messages.answers import Installed, Outlined, RecalledTable
from ray_warmup.warmup.messages.questions import AnyQuestion, Question, task_of
from ray_warmup.warmup.messages.values import Header, PoolTask, TextFile
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.remedies import with_remedy
from ray_warmup.warmup.report import FileReport
from ray_warmup.warmup.tasks import GuardVerdict, Skip, TacticId, TaskResult

Commands = list[Command]


@dataclass(slots=True)
class ClassState:
    """Ranks with one cache key, and what is known of their table."""

    key: str
    parts: dict[str, str]
    ranks: list[int]
    leader: int
    strategy: str
    tasks: tuple[PoolTask, ...]
    skips: tuple[Skip, ...] = ()
    slow: frozenset[int] = frozenset()
    """Ranks that do not lead while another can."""
    lookups: dict[int, StoreLookup] = field(default_factory=dict)
    """Writer rank -> what its node's store said; rows are among it only until LOOKUP is settled."""
    nodes: dict[str, list[int]] = field(default_factory=dict)
    """Node id -> ranks there; empty when it must be found out anew. Read it by `Run.nodes_of`."""
    is_settled: bool = False
    """Whether it is known if a table was found."""
    writers: dict[Place, int] = field(default_factory=dict)
    """One rank per directory; places that share a directory have the same rank."""
    source: int | None = None
    """The rank whose node has the table that was found."""
    is_covered: bool = True
    """Whether the found artifact carries what this run would compile besides modules."""
    needs_guard: bool = True
    results: dict[str, TaskResult] = field(default_factory=dict)
    verdicts: dict[str, GuardVerdict] = field(default_factory=dict)
    confirmations: Confirmations = field(default_factory=Confirmations)
    """Tasks with a verdict that further devices must share."""
    measured: int = 0
    pool: TaskPool | None = None
    hungry: deque[int] = field(default_factory=deque)
    """Ranks that may be given a task, and were not asked about yet: a large class is fed in several steps."""
    modules: ModuleState = field(default_factory=ModuleState)
    quarantine: tuple[TacticId, ...] = ()
    """Tactics that nobody measures."""
    deaths_in: dict[TacticId, int] = field(default_factory=dict)
    """Tactic -> processes that died while it ran, on any rank and in any task."""
    ballots: dict[int, TaskPool] = field(default_factory=dict)
    """Under `consensus`: what each voter still measures."""
    votes: dict[str, dict[int, TaskResult]] = field(default_factory=dict)
    """Task -> voter -> result."""
    shared_s: dict[int, float] | None = None
    """Under `sharded`: rank -> seconds for the one task that all of them measured; None until they were asked."""
    engine_tuned: tuple[TextFile, ...] | None = None
    """Files that were tuned with an engine's own step; None until that is known."""
    header: Header | None = None
    """The class's artifact; None until packed or found."""
    has_nothing: bool = False
    """It was packed, and nothing was tuned."""
    packer: int | None = None
    """The rank that packs, until its artifact is adopted."""
    adopted: bool = False
    installed: list[Installed] = field(default_factory=list)
    """What its writers published in this run."""
    in_memory: set[Place] = field(default_factory=set)
    """Places whose disk refused the files; their ranks load from memory."""

    @property
    def is_hit(self) -> bool:
        """Return True if a table was found on disk."""
        return self.source is not None

    @property
    def is_shared(self) -> bool:
        """Return True if every rank measures, not the leader alone."""
        return self.strategy in ("sharded", "consensus")

    @property
    def num_done(self) -> int:
        """Count the finished tasks of the pool.

        One that a further device must judge is not finished.
        """
        if self.pool is None:
            return 0
        return self.pool.num_done - len(self.confirmations.of_task)

    def tuned_tasks(self) -> list[PoolTask]:
        """Return the tasks for which a tactic was found."""
        found = []
        for task in self.tasks:
            result = self.results.get(task.task_id)
            if result is not None and result.outcome == "tuned":
                found.append(task)
        return found

    def unfinished_tasks(self) -> list[PoolTask]:
        """Return the tasks without a result."""
        return [task for task in self.tasks if task.task_id not in self.results]

    def add_rows(self, rows: RecalledTable) -> None:
        """Take over the results and verdicts of a found table."""
        for result in rows.results:
            self.results[result.task_id] = result
        for verdict in rows.verdicts:
            self.verdicts[verdict.task_id] = verdict

    def places_of(self, writer: int) -> set[Place]:
        """Return the places for which a writer is responsible."""
        return {place for place, rank in self.writers.items() if rank == writer}

    @property
    def needs_renewal(self) -> bool:
        """Return True if the found artifact carries less than this run has compiled or will compile."""
        return bool(self.modules.built) or not self.is_covered

    @property
    def digest(self) -> str | None:
        """Return the digest that every rank must load, or None if nothing was tuned."""
        if self.header is None:
            return None
        return self.header.digest


@dataclass(slots=True)
class Run:
    """The whole run."""

    config: WarmupConfig
    run_id: str
    ranks: dict[int, RankState]
    retune: bool = False
    classes: dict[str, ClassState] = field(default_factory=dict)
    phase: Phase = Phase.PROBING
    phase_began: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[int, Call | Adopt] = field(default_factory=dict)
    """In flight."""
    calls_of: dict[int, dict[int, Call | Adopt]] = field(default_factory=dict)
    """The same by rank, in the order in which the rank works on them."""
    call_began: dict[int, float] = field(default_factory=dict)
    """When a call was issued, or the call before it on the same rank was answered."""
    removed: dict[int, RankState] = field(default_factory=dict)
    """Ranks without which the run goes on, because their node was lost."""
    rewinds: int = 0
    """How often the run went back to LOOKUP because a node was lost."""
    outlines: dict[str, Outlined] = field(default_factory=dict)
    """Cache key -> what its ranks have in common: asked once for each key, because they weigh a megabyte."""
    silences: Silences = field(default_factory=Silences)
    warnings: list[str] = field(default_factory=list)
    files: list[FileReport] = field(default_factory=list)
    error: str | None = None
    overdue: tuple[int, ...] = ()
    """Ranks that the run was waiting for when it ended because of a deadline; their stacks belong to the error."""
    _next_call: int = 0
    _class_of: dict[int, ClassState] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _by_kind: dict[type[AnyQuestion], dict[int, Call]] = field(default_factory=dict)
    """Calls in flight by the kind of their question."""
    _counts: dict[tuple[str, type[AnyQuestion]], int] = field(default_factory=dict)
    """(class key, kind of question) -> how many are in flight."""

    def call(self, rank: int, question: Question) -> Call:
        """A new call to a rank."""
        self._next_call += 1
        # The number of restarts names the process, so that its death can be told from that of its successor.
        return Call(self._next_call, rank, question, self.ranks[rank].restarts, task_of(question))

    def ask_all(self, ranks: Iterable[int], question: Question) -> list[Call]:
        """Return one new call with the same question to each of these ranks."""
        return [self.call(rank, question) for rank in ranks]

    def each_class(self, step: Callable[[ClassState], Commands]) -> Commands:
        """Return the commands of a step that is taken for every class."""
        commands: Commands = []
        for rank_class in self.classes.values():
            commands += step(rank_class)
        return commands

    @property
    def all_alive(self) -> bool:
        """Return True if every rank has a process that answered its probe."""
        return all(state.is_alive for state in self.ranks.values())

    def adopt(self, rank: int, rank_class: ClassState, header: Header) -> Adopt:
        """A new request to take over the blobs that a rank packed for its class."""
        self._next_call += 1
        return Adopt(self._next_call, rank, rank_class.key, header.digests, self.ranks[rank].restarts)

    def set_classes(self, classes: dict[str, ClassState]) -> None:
        """Take over what PROBING found."""
        self.classes = classes
        self._class_of = {}
        for rank_class in classes.values():
            # An index, because a class of thousands of ranks is asked for at every answer.
            self._class_of.update(dict.fromkeys(rank_class.ranks, rank_class))

    def class_of(self, rank: int) -> ClassState:
        """Return a rank's class.

        Raises KeyError before PROBING is over.
        """
        return self._class_of[rank]

    def remove(self, rank: int) -> None:
        """Remove a rank from the run, and a class without ranks as well."""
        self.removed[rank] = self.ranks.pop(rank)
        rank_class = self._class_of.pop(rank, None)
        if rank_class is None:
            return
        rank_class.ranks.remove(rank)
        rank_class.nodes.clear()
        rank_class.ballots.pop(rank, None)
        if not rank_class.ranks:
            del self.classes[rank_class.key]

    def open(self, command: Call | Adopt, now: float) -> None:
        """A call goes out."""
        self.calls[command.call_id] = command
        self.calls_of.setdefault(command.rank, {})[command.call_id] = command
        self.call_began[command.call_id] = now
        if isinstance(command, Call):
            self._file(command)

    def close(self, call_id: int, now: float) -> Call | Adopt | None:
        """Close an answered or lost call, or return None if it was closed before.

        The rank's next call begins now.
        """
        call = self.calls.pop(call_id, None)
        if call is None:
            return None
        del self.call_began[call_id]
        if isinstance(call, Call):
            self._unfile(call)
        others = self.calls_of[call.rank]
        del others[call_id]
        # A rank works on one call at a time, so the next one's time begins with this answer.
        for other in others:
            self.call_began[other] = now
        if not others:
            del self.calls_of[call.rank]
        return call

    def pending(self, *kinds: type[AnyQuestion]) -> list[Call]:
        """Calls in flight with such questions."""
        calls: list[Call] = []
        for kind in kinds:
            calls += self._by_kind.get(kind, {}).values()
        return calls

    def is_pending(self, *kinds: type[AnyQuestion]) -> bool:
        """Return True if a call with such a question is in flight."""
        return any(self._by_kind.get(kind) for kind in kinds)

    def num_asked(self, rank_class: ClassState, kind: type[AnyQuestion]) -> int:
        """How many such questions are in flight to ranks of a class."""
        return self._counts.get((rank_class.key, kind), 0)

    def nodes_of(self, rank_class: ClassState) -> dict[str, list[int]]:
        """The ranks of a class by node, in order. Not to be changed."""
        if not rank_class.nodes:
            for rank in rank_class.ranks:
                rank_class.nodes.setdefault(self.ranks[rank].info.node_id, []).append(rank)
        return rank_class.nodes

    def move(self, info: RankInfo) -> None:
        """A rank's process is another one, perhaps elsewhere."""
        self.ranks[info.rank].info = info
        if (rank_class := self._class_of.get(info.rank)) is not None:
            rank_class.nodes.clear()

    def alive(self, rank_class: ClassState) -> list[int]:
        """Ranks of a class that have a process and answered its probe."""
        return [rank for rank in rank_class.ranks if self.ranks[rank].is_alive]

    def warn(self, text: str, remedy: str) -> None:
        """Keep a warning for the report, once: what happened, and what to do about it."""
        message = with_remedy(text, remedy)
        # A set beside the list, since thousands of ranks may say the same.
        if message not in self._warned:
            self._warned.add(message)
            self.warnings.append(message)

    def _file(self, call: Call) -> None:
        """Count a call by its class.

        Classes are formed while no call is in flight, so a call is uncounted from the same class.
        """
        self._by_kind.setdefault(type(call.question), {})[call.call_id] = call
        place = self._place_of(call)
        self._counts[place] = self._counts.get(place, 0) + 1

    def _unfile(self, call: Call) -> None:
        del self._by_kind[type(call.question)][call.call_id]
        self._counts[self._place_of(call)] -= 1

    def _place_of(self, call: Call) -> tuple[str, type[AnyQuestion]]:
        rank_class = self._class_of.get(call.rank)
        if rank_class is None:
            return "", type(call.question)
        return rank_class.key, type(call.question)
