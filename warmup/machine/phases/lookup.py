"""LOOKUP: find stored tables, recognize shared directories, and choose the writers.

Every writer answers with digests only. The rows of a table are asked of one node, and finished tasks of earlier runs
of one node for each directory, because a large model's rows weigh megabytes and most nodes have the same ones.
"""

from __future__ import annotations

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.rank import Place
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.machine.state.store_lookup import StoreLookup
from ray_warmup.warmup.machine.steps import recalling
from ray_warmup.warmup.machine.steps.leadership import unsigned
from ray_warmup.warmup.machine.steps.lineage import date
from ray_warmup.warmup.machine.steps.node_loss import keep_found
from ray_warmup.warmup.messages.answers import Answer, LookedUp, Markers, Missing, RecalledTable, RecalledTasks
from ray_warmup.warmup.messages.questions import FindMarkers, LookUp, RecallFinished, RecallTable

SHOWN_TASKS = 5
"""Of those that a found table lacks, in a warning."""


class Lookup(PhaseLogic):
    """Every candidate writer looks, leaves a marker and lists the markers it sees. Then rows are recalled."""

    phase = Phase.LOOKUP

    def enter(self, run: Run) -> Commands:
        for rank_class in run.classes.values():
            rank_class.writers = first_ranks(run, rank_class)
        if not keeps_files(run):
            return []
        commands: Commands = []
        for rank_class in run.classes.values():
            for rank in rank_class.writers.values():
                commands.append(self._look(run, rank))
        return commands

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        rank_class = run.class_of(call.rank)
        match value:
            case LookedUp():
                rank_class.lookups[call.rank] = StoreLookup.of(value)
                for warning in value.warnings:
                    run.warn(f"{run.ranks[call.rank].info}: {warning}", remedies.STORE)
            case Markers(tokens=tokens):
                rank_class.lookups[call.rank].seen = tokens
            case RecalledTable() | Missing():
                recalling.keep_table(run, rank_class, call.rank, value)
            case RecalledTasks(results=results):
                rank_class.lookups[call.rank].finished = results
        return self._next(run)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        run.class_of(rank).lookups.pop(rank, None)  # its replacement looks again
        return self._next(run)

    def joined(self, run: Run, rank: int) -> Commands:
        rank_class = run.class_of(rank)
        if keeps_files(run) and rank in rank_class.writers.values():
            return [self._look(run, rank)]
        return []

    def refusal(self, run: Run) -> str | None:
        return unsigned(run)

    def _look(self, run: Run, rank: int) -> Call:
        return run.call(rank, LookUp(token_of(run, rank), run.retune))

    def _next(self, run: Run) -> Commands:
        """Ask for markers once every writer has looked, then for rows, then settle."""
        if run.is_pending(LookUp, FindMarkers, RecallTable, RecallFinished):
            return []
        commands: Commands = []
        for rank_class in run.classes.values():
            writers = sorted(set(rank_class.writers.values()))
            if not rank_class.lookups.keys() >= set(writers):
                return []
            date(run, rank_class)
            commands += self._ask_for_markers(run, rank_class, writers)
        if not commands:
            for rank_class in run.classes.values():
                merge_writers(run, rank_class)
                commands += recalling.ask(run, rank_class)
        if not commands:
            self._settle(run)
        return commands

    def _ask_for_markers(self, run: Run, rank_class: ClassState, writers: list[int]) -> Commands:
        """In order of rank: the first one that a writer sees is all that it answers."""
        if len(writers) < 2:
            return []
        question = FindMarkers(tuple(token_of(run, rank) for rank in writers))
        return [run.call(rank, question) for rank in writers if rank_class.lookups[rank].seen is None]

    def _settle(self, run: Run) -> None:
        for rank_class in run.classes.values():
            if rank_class.is_settled:
                keep_found(run, rank_class)
            else:
                adopt_found(run, rank_class)
            rank_class.is_settled = True
            recalling.forget_rows(rank_class)


def keeps_files(run: Run) -> bool:
    """Return True if this run reads and writes node stores."""
    return run.config.cache.persistent and run.config.autotune.strategy != "independent"


def token_of(run: Run, rank: int) -> str:
    """Return the marker by which another node recognizes this rank's directory.

    It changes when the rank moves to another node.
    """
    return f"{run.run_id}-{rank}-{run.ranks[rank].moves}"


def first_ranks(run: Run, rank_class: ClassState) -> dict[Place, int]:
    """The lowest rank of every place."""
    writers: dict[Place, int] = {}
    for rank in rank_class.ranks:
        writers.setdefault(run.ranks[rank].place, rank)
    return writers


def merge_writers(run: Run, rank_class: ClassState) -> None:
    """Places that see one another's marker are one directory: the lowest rank among them writes."""
    rank_of = {token_of(run, rank): rank for rank in rank_class.writers.values()}
    for place, rank in list(rank_class.writers.items()):
        look = rank_class.lookups.get(rank)
        if look is not None and look.seen:
            rank_class.writers[place] = min(rank_of.get(token, rank) for token in [token_of(run, rank), *look.seen])


def adopt_found(run: Run, rank_class: ClassState) -> None:
    """Adopt the table whose rows were recalled, or else the finished tasks of earlier runs."""
    recalling.take_finished(rank_class)
    rank_class.source = rank_class.header = None
    accepted = recalling.accepted(rank_class)
    if accepted is None:
        return
    source, table, rows = accepted
    if lacking := lacks(rank_class, rows):
        _complete(run, rank_class, source, rows, lacking)
        return
    rank_class.is_covered = table.covers
    rank_class.source, rank_class.header = source, rows.header
    rank_class.results, rank_class.verdicts = {}, {}
    rank_class.add_rows(rows)
    rank_class.engine_tuned = rows.tuned
    rank_class.needs_guard = run.config.guard.enabled and not table.guarded
    if rank_class.needs_guard and len(rank_class.results) < len(rank_class.tasks):
        rank_class.needs_guard = False
        run.warn(
            f"{run.ranks[source].info}: its table is unguarded and lacks its timings; served as it is",
            "run again with --retune to measure and guard it",
        )
    if rank_class.needs_guard:
        rank_class.leader = source
        asked = {task.task_id for task in rank_class.tasks}
        for task_id in rank_class.results.keys() - asked:
            del rank_class.results[task_id]
    for rank, other in recalling.hits(rank_class).items():
        if other.digest != rank_class.digest:
            run.warn(
                f"{run.ranks[rank].info} holds another valid table; rank {source}'s replaces it",
                "nothing to do; `ray-warmup cache rollback --cluster` brings the older one back",
            )


def lacks(rank_class: ClassState, rows: RecalledTable) -> list[str]:
    """Return the class's tasks that a found table lacks for want of memory, or none for a table without timings."""
    known = {result.task_id for result in rows.results}
    if not known:
        return []
    return [task.task_id for task in rank_class.tasks if task.task_id not in known]


def _complete(run: Run, rank_class: ClassState, source: int, rows: RecalledTable, lacking: list[str]) -> None:
    """Keep the rows of an incomplete table as finished tasks.

    TUNING measures the rest, and everything is packed again.
    """
    rank_class.add_rows(rows)
    rank_class.engine_tuned = rows.tuned or None
    shown = ", ".join(lacking[:SHOWN_TASKS]) + (
        f" and {len(lacking) - SHOWN_TASKS} more" * (len(lacking) > SHOWN_TASKS)
    )
    run.warn(
        f"{run.ranks[source].info}: its table was made with less memory and lacks {len(lacking)} of "
        f"{len(rank_class.tasks)} tasks, which are measured now: {shown}",
        remedies.MEMORY,
    )
