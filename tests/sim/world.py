"""The modelled cluster of the simulation: processes, node directories, the depot. Time is not its business.

A process answers the machine's calls as `ray_warmup.warmup.rank.process.RankProcess` would, from what it holds itself:
a fresh process holds nothing, a table exists only where one was published, an artifact only once adopted.
Every measurement is random, so two attempts at one task give different tables.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.machine.state.run import ClassState
from ray_warmup.warmup.messages import answers, questions
from ray_warmup.warmup.messages.answers import Answer, FinishedTasks, FoundTable
from ray_warmup.warmup.messages.values import CrashRecord, Header, PoolTask, TextFile
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.report import EngineReport
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement, TaskOutcome, TaskResult
from tests.sim.model_class import ModelClass, are_modules
from tests.sim.model_state import Process, RefusedError, Table
from tests.sim.modules_model import ModulesModel

NOW = 1_800_000_000.0
"""What every node's clock says when a store is looked at, in seconds since 1970."""


def make_row(tactic: int, rng: random.Random) -> Measurement:
    """One timed tactic."""
    return Measurement("Fast", tactic, median_s=rng.random(), spread_s=0.0, repeats=5)


def make_result(task_id: str, outcome: TaskOutcome, rng: random.Random) -> TaskResult:
    """A task's result with a short list of two, as another attempt would not find it."""
    is_tuned = outcome == "tuned"
    rows = tuple(make_row(rng.getrandbits(32), rng) for _ in range(2)) if is_tuned else ()
    return TaskResult(
        task_id=task_id,
        op="op",
        bucket=1,
        outcome=outcome,
        choice=Choice("Fast", rows[0].tactic) if is_tuned else None,
        default_runner="First",
        measurements=rows,
    )


def make_verdict(result: TaskResult, choice: Choice | None = None) -> GuardVerdict:
    """The winner is kept, or `choice` serves in its place."""
    kept = choice or result.choice
    assert kept is not None, "only a tuned task is judged"
    ratio = 1.5 if choice is None else 1.0
    return GuardVerdict(result.task_id, "kept" if choice is None else "slower", kept, ratio, 1.5, 1e-4, 15)


def digest_of(rows: Sequence[TaskResult]) -> FinishedTasks:
    """How many finished tasks there are, and which."""
    text = repr(sorted(row.task_id for row in rows)) + repr([row.measurements for row in rows])
    return FinishedTasks(len(rows), hashlib.sha256(text.encode()).hexdigest())


class World(ModulesModel):
    """Every process and every directory of one run."""

    def __init__(
        self,
        infos: Sequence[RankInfo],
        classes: Sequence[ModelClass],
        class_of: Callable[[int], int],
        directory_of: Callable[[str], int],
        rng: random.Random,
        *,
        backend: str = "cuda",
    ) -> None:
        super().__init__(infos, lambda rank: classes[class_of(rank)], directory_of, rng)
        self.classes = list(classes)
        self._backend = backend
        self.depot: dict[str, Table] = {}
        self.tunes = True
        """Whether there is anything to replay; engine warmups run without it too."""
        self.slow_ranks: dict[int, float] = {}
        self.slow_at_tasks: dict[int, float] | None = None
        """Rank -> times what its peers need for a task that all measure; None: every time is random."""
        self.tight_ranks: set[int] = set()
        """Ranks on whose device the largest task does not fit."""
        self.keyless: set[int] = set()
        """Ranks that could not sign what they pack, where signatures are required."""
        self.lost_nodes: set[str] = set()
        self.blindness = 0.0
        """How often a marker in a shared directory is not seen yet."""
        self.won: list[int] = []
        """Tactics that some task chose: the one that a process dies of may be among them."""
        self.foreign_ranks: set[int] = set()
        """Ranks whose replacement has another environment."""

    def replace(self, old: Process, number: int) -> Process:
        """A fresh process for a rank; it finds what the old one wrote last."""
        fresh = Process(old.rank, number, is_started=False)
        if old.task is not None:
            drawn = self._rng.getrandbits(33)
            runner = "Fast" if drawn & 1 else ""
            tactic = str(self.won[drawn // 4 % len(self.won)] if self.won and drawn & 2 else drawn)
            stack = "Fatal Python error: Aborted" if self._rng.random() < 0.3 else ""
            fresh.last_words = CrashRecord("tune", old.task[0], "op", runner, tactic, stack)
        self.processes[old.rank] = fresh
        return fresh

    def move(self, rank: int) -> None:
        """The rank's next process starts on a node that nobody has lost."""
        info = self.infos[rank]
        others = sorted({i.node_id for i in self.infos.values()} - self.lost_nodes)
        fresh = f"node{900 + len(self.lost_nodes):03d}"
        node = self._rng.choice([*others, fresh])
        self.infos[rank] = replace(info, node_id=node, address=f"10.1.0.{int(node[4:])}")

    def answer(
        self, process: Process, command: Call | Adopt, rank_class: ClassState | None, now: float
    ) -> Answer | None:
        """What the process answers; None for an adoption. Raises RefusedError as the rank would raise."""
        if isinstance(command, Adopt):
            self._adopt(process, command)
            return None
        match command.question:
            case questions.Probe() as asked:
                return self._probe(process, asked)
            case questions.Outline():
                return self._outline(process)
            case questions.LookUp() as asked:
                return self._look_up(process, asked)
            case questions.RecallTable():
                return self._recall_table(process)
            case questions.RecallFinished():
                return answers.RecalledTasks(tuple(self.directory(process.rank).partial.get(self._key(process), ())))
            case questions.FindMarkers() as asked:
                return self._find_markers(process, asked)
            case questions.Survey():
                return self._survey(process, rank_class)
            case questions.Compile():
                return self._compile(process, rank_class)
            case questions.PackModules() as asked:
                return self._pack_modules(process, asked, rank_class)
            case questions.InstallModules() as asked:
                return self._install_modules(process, asked, rank_class)
            case questions.ActivateModules():
                return self._activate_modules(process)
            case _:
                return self._answer_later(process, command.question, rank_class, now)

    def _answer_later(
        self, process: Process, question: questions.AnyQuestion, rank_class: ClassState | None, now: float
    ) -> Answer:
        """The phases after COMPILING."""
        match question:
            case questions.Tune() as asked:
                return self._tune(process, asked)
            case questions.Compare() as asked:
                return self._compare(process, asked)
            case questions.Vote() as asked:
                return self._vote(process, asked)
            case questions.Guard() as asked:
                return self._guard(asked)
            case questions.TuneEngine():
                return self._tune_engine(process)
            case questions.Pack() as asked:
                return self._pack(process, asked, rank_class, now)
            case questions.PackStored() as asked:
                return self._pack_stored(process, asked)
            case questions.Install() as asked:
                return self._install(process, asked, rank_class)
            case questions.Load() as asked:
                return self._load(process, asked, rank_class)
            case questions.Replay():
                return self._replay(process)
            case questions.Warm():
                process.has_warmed = process.has_replayed
                return answers.Warmed(EngineReport())
            case questions.Confirm():
                return self._confirm(process, rank_class)
        raise AssertionError(f"nobody asks {question} in a run")

    def _adopt(self, process: Process, command: Adopt) -> None:
        if are_modules(command.digests):
            self._adopt_modules(process, command)
            return
        if process.packed is None or command.digests != (process.packed.digest,):
            raise RefusedError("StoreError", "blob is not part of the packed artifact")
        self.depot[command.key] = process.packed

    def _key(self, process: Process) -> str:
        """A replacement on another machine image has a key that nobody else has."""
        if process.number > 0 and process.rank in self.foreign_ranks:
            return f"f{process.rank:063x}"
        return self.rank_class(process.rank).key

    def _probe(self, process: Process, asked: questions.Probe) -> answers.Probed:
        process.budget = asked.budget_bytes
        process.uses_installed = asked.modules is not None
        mine, key = self.rank_class(process.rank), self._key(process)
        return answers.Probed(
            key=key,
            parts=mine.parts if key[1:] == mine.key[1:] else {**mine.parts, "torch": "another"},
            directory=f"/cache/{key[:8]}",
            device="GPU",
            backend=self._backend,
            free_bytes=50 if process.rank in self.tight_ranks else 100,
            needs_bytes=60 if process.budget is None else 40,
            tunes_engine=mine.tunes_engine,
            reference_s=self.slow_ranks.get(process.rank, 1.0),
            last_words=process.last_words,
            cannot_sign="cache.signing_key: is not set" if process.rank in self.keyless else "",
        )

    def _tasks(self, process: Process) -> tuple[PoolTask, ...]:
        tasks = self.rank_class(process.rank).tasks
        return tasks if process.budget is None else tasks[:-1]

    def _outline(self, process: Process) -> answers.Outlined:
        return answers.Outlined(self._tasks(process))

    def _look_up(self, process: Process, asked: questions.LookUp) -> answers.LookedUp:
        key, directory = self._key(process), self.directory(process.rank)
        if not directory.is_read_only:
            directory.markers.add(asked.token)
        process.packed = found = directory.tables.get(key)
        return answers.LookedUp(
            table=None if found is None else self._found(process, found, on_disk=not directory.lacks_files),
            reason="" if found is not None else "nothing is stored",
            now=NOW,
            finished=digest_of([] if asked.retune else directory.partial.get(key, [])),
            warnings=("no marker could be left",) if directory.is_read_only else (),
        )

    def _found(self, process: Process, table: Table, *, on_disk: bool) -> FoundTable:
        wanted = {task.task_id for task in self._tasks(process)}
        return FoundTable(
            digest=table.digest,
            artifact=table.header.artifact,
            guarded=table.guarded,
            recorded_at=table.recorded_at,
            num_blobs=1,
            on_disk=on_disk,
            covers=not table.is_poor,
            is_complete={row.task_id for row in table.results} >= wanted,
        )

    def _recall_table(self, process: Process) -> answers.RecalledTable | answers.Missing:
        """What this very process found; it reads nothing again."""
        found = process.packed
        if found is None:
            return answers.Missing("this process has found no table")
        return answers.RecalledTable(found.header, found.results, found.verdicts)

    def _find_markers(self, process: Process, asked: questions.FindMarkers) -> answers.Markers:
        markers = self.directory(process.rank).markers
        seen = (token for token in asked.tokens if token in markers and self._rng.random() >= self.blindness)
        return answers.Markers(tuple(islice(seen, 1)))

    def _tune(self, process: Process, asked: questions.Tune) -> answers.Tuned:
        if lacks := self.lacks(process):
            raise RefusedError("CompileError", f"it has not compiled {lacks}")
        result = make_result(asked.task_id, self.rank_class(process.rank).outcome, self._rng)
        if result.choice is not None:
            self.won.append(result.choice.tactic)
        return answers.Tuned(result)

    def _compare(self, process: Process, asked: questions.Compare) -> answers.Compared:
        make_result(asked.task_id, "tuned", self._rng)  # a measurement draws as many numbers as any
        seconds = make_row(asked.choice.tactic, self._rng).median_s
        slow = self.slow_at_tasks
        return answers.Compared(seconds if slow is None else slow.get(process.rank, 1.0))

    def _vote(self, process: Process, asked: questions.Vote) -> answers.Voted:
        """The short list with times of its own."""
        vote = make_result(asked.task_id, "tuned", self._rng)
        return answers.Voted(replace(vote, measurements=tuple(make_row(c.tactic, self._rng) for c in asked.shortlist)))

    def _guard(self, asked: questions.Guard) -> answers.Guarded:
        is_kept = self._rng.random() < 0.8
        return answers.Guarded(make_verdict(asked.result, None if is_kept else Choice("First", -1)))

    def _tune_engine(self, process: Process) -> answers.EngineTuned:
        if lacks := self.lacks(process):
            raise RefusedError("CompileError", f"it has not compiled {lacks}")
        return answers.EngineTuned((TextFile("decode.json", self._key(process)),))

    def _pack(
        self, process: Process, asked: questions.Pack, rank_class: ClassState | None, now: float
    ) -> answers.Packed:
        if rank_class is not None and self.rank_class(process.rank).tunes_engine and rank_class.engine_tuned is None:
            raise RefusedError("PackError", "nothing was tuned with an engine's step, nor given up")
        banned = {
            (tactic.runner, tactic.tactic) for tactic in (rank_class.quarantine if rank_class is not None else ())
        }
        served = [row.choice for row in asked.results if row.choice is not None]
        served += [row.choice for row in asked.verdicts]
        if any((choice.runner, str(choice.tactic)) in banned for choice in served):
            raise RefusedError("PackError", "a quarantined tactic is served")
        process.packed = Table.of(asked.results, asked.verdicts, asked.guarded, now)
        return answers.Packed(None if process.packed is None else process.packed.header)

    def _pack_stored(self, process: Process, asked: questions.PackStored) -> answers.Packed:
        if process.packed is None:
            process.packed = self.directory(process.rank).tables.get(self._key(process))
        if process.packed is None:
            raise RefusedError("StoreError", "no artifact was found")
        if asked.renew:
            process.packed = replace(process.packed, is_poor=False)
        return answers.Packed(process.packed.header)

    def _install(self, process: Process, asked: questions.Install, rank_class: ClassState | None) -> answers.Installed:
        table, directory = self._sent(asked.header, rank_class), self.directory(process.rank)
        if directory.is_read_only:
            return answers.Installed(degraded="Read-only file system")
        directory.tables[self._key(process)] = table
        directory.lacks_files = False
        return answers.Installed()

    def _load(self, process: Process, asked: questions.Load, rank_class: ClassState | None) -> answers.Loaded:
        if asked.header is not None:
            table: Table | None = self._sent(asked.header, rank_class)
        else:
            directory = self.directory(process.rank)
            table = None if directory.lacks_files else directory.tables.get(self._key(process))
        if table is None or table.digest != asked.digest:
            raise RefusedError("LoadError", "the file is not the table of this run")
        process.loaded, process.has_replayed, process.has_warmed = table.digest, False, False
        count = len(self.rank_class(process.rank).tasks)
        return answers.Loaded(table.digest, count, count, ())

    def _replay(self, process: Process) -> answers.Replayed:
        if self.tunes and (lacks := self.lacks(process)):
            raise RefusedError("CompileError", f"it has not compiled {lacks}")
        process.has_replayed = True
        return answers.Replayed(calls=1, peak_bytes=1)

    def _confirm(self, process: Process, rank_class: ClassState | None) -> answers.Confirmed:
        directory = self.directory(process.rank)
        table = None if directory.lacks_files else directory.tables.get(self._key(process))
        return answers.Confirmed(process.loaded, None if table is None else table.digest)

    def _sent(self, header: Header, rank_class: ClassState | None) -> Table:
        """The adopted artifact, checked against the header that goes along."""
        table = None if rank_class is None else self.depot.get(rank_class.key)
        if table is None or header.digest != table.digest:
            raise RefusedError("CorruptArtifactError", "what was sent is not what its header says")
        return table
