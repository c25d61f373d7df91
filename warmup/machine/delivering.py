"""PUSHING, INSTALLING, LOADING and REPLAYING: one table, from the rank that packs it to every rank."""

from __future__ import annotations

from ray_warmup.warmup.artifact.quarantine import verdict_without_quarantined, without_quarantined
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.leadership import take_over
from ray_warmup.warmup.machine.lineage import parent_of
from ray_warmup.warmup.machine.logic import PhaseLogic
from ray_warmup.warmup.machine.lookup import keeps_files
from ray_warmup.warmup.machine.naming import span
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.state import ClassState, Commands, Run
from ray_warmup.warmup.machine.warming import judge, warm
from ray_warmup.warmup.messages.answers import Answer, Confirmed, Installed, Loaded, Packed, Replayed, Surveyed
from ray_warmup.warmup.messages.questions import Confirm, Install, Load, Pack, PackStored, Replay, Survey


class Pushing(PhaseLogic):
    """The leader packs, the coordinator takes the blobs over. A table that is everywhere already is not pushed."""

    phase = Phase.PUSHING

    def enter(self, run: Run) -> Commands:
        for group in run.classes.values():
            drop_quarantined(group)
        return [call for group in run.classes.values() for call in self._pack(run, group)]

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        if not isinstance(value, Packed):
            return []
        group = run.class_of(call.rank)
        group.header = value.header
        if value.header is None:
            group.packer, group.has_nothing = None, True
            reason = "no tunable op" if not group.tasks else f"none of {len(group.tasks)} tasks has a valid tactic"
            run.warn(f"ranks {span(group.ranks)}: nothing was tuned ({reason}); they serve default tactics")
            return []
        for op in value.collisions:
            run.warn(f"op {op}: two winners share one file key; it keeps its default tactics")
        for warning in value.warnings:
            run.warn(f"{run.ranks[call.rank].info}: {warning}")
        return [run.adopt(call.rank, group, value.header)]

    def adopted(self, run: Run, adopt: Adopt) -> Commands:
        group = run.classes[adopt.key]
        group.adopted, group.packer = True, None
        return []

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        group = run.class_of(rank)
        take_over(run, group, rank)
        if group.packer != rank:
            return []
        group.packer = None
        return self._pack(run, group)

    def joined(self, run: Run, rank: int) -> Commands:
        return self._pack(run, run.class_of(rank))

    def _pack(self, run: Run, group: ClassState) -> Commands:
        """Ask the leader to pack, or a rank beside the found table.

        None if that is under way or not needed.
        """
        if group.adopted or group.packer is not None or not needs_push(group):
            return []
        stored = group.is_hit and not group.needs_guard
        able = ranks_in_source_directory(run, group) if stored else [r for r in run.alive(group) if r == group.leader]
        if not able:
            return []
        group.packer = able[0]
        if stored:
            return [run.call(group.packer, PackStored(renew=group.needs_renewal))]
        question = Pack(
            results=tuple(group.results.values()),
            verdicts=tuple(group.verdicts.values()),
            strategy=group.strategy,
            guarded=run.config.guard.enabled,
            tuned=group.engine_tuned or (),
            after=parent_of(group),
        )
        return [run.call(group.packer, question)]


def drop_quarantined(group: ClassState) -> None:
    """Replace quarantined winners in results and verdicts, so that table and report agree."""
    if group.quarantine:
        group.verdicts = {
            task_id: verdict_without_quarantined(verdict, group.results[task_id], group.quarantine)
            for task_id, verdict in group.verdicts.items()
        }
        group.results = {
            task_id: without_quarantined(result, group.quarantine) for task_id, result in group.results.items()
        }


def needs_push(group: ClassState) -> bool:
    """Return True if a table must be pushed: a new one, or a found one that other directories lack or that carries
    less."""
    if group.is_hit and not group.needs_guard:
        return bool(lacking(group))
    return not group.has_nothing


def ranks_in_source_directory(run: Run, group: ClassState) -> list[int]:
    """Live ranks that read the directory in which the table was found, the one that found it first."""
    source = group.source
    assert source is not None, "asked for a found table only"
    state = run.ranks.get(source)
    writer = None if state is None else group.writers.get(state.place)
    if writer is None:
        return []  # it left with its node, or is on another now: LOOKUP, to which the run goes back, finds another copy
    places = {place for place, rank in group.writers.items() if rank == writer}
    near = [rank for rank in run.alive(group) if run.ranks[rank].place in places]
    return sorted(near, key=lambda rank: (rank != source, rank))


def lacking(group: ClassState) -> list[int]:
    """Writers whose directory does not hold the class's table as its newest, in the file that ranks load.

    All of them where something is compiled that what they hold does not carry.
    """
    writers = sorted(set(group.writers.values()))
    return [rank for rank in writers if group.needs_renewal or not _holds(group, rank)]


def _holds(group: ClassState, rank: int) -> bool:
    look = group.lookups.get(rank)
    return look is not None and group.header is not None and look.holds(group.header)


class Installing(PhaseLogic):
    """One writer per directory publishes.

    A node whose disk fails loads from memory.

    Other nodes on the same directory then put what is compiled into their own caches, which are not in it.
    """

    phase = Phase.INSTALLING

    def enter(self, run: Run) -> Commands:
        return [self._install(run, g, rank) for g in run.classes.values() for rank in self._writers(run, g)]

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        group = run.class_of(call.rank)
        if isinstance(value, Installed | Surveyed):
            for warning in value.warnings:
                run.warn(f"{run.ranks[call.rank].info}: {warning}")
        if not isinstance(value, Installed):
            return []
        run.files += value.files
        if value.degraded is not None:
            group.in_memory |= {place for place, rank in group.writers.items() if rank == call.rank}
            run.warn(f"{run.ranks[call.rank].info}: {value.degraded}; its ranks load from memory")
            return []
        return [run.call(rank, Survey()) for rank in other_nodes_on_directory(run, group, call.rank)]

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        """A node that cannot put it into its own caches compiles for itself."""
        if not isinstance(call, Call) or not isinstance(call.question, Survey):
            return None
        run.warn(f"{run.ranks[call.rank].info}: {failure.kind}: {failure.message}; its node compiles for itself")
        return []

    def joined(self, run: Run, rank: int) -> Commands:
        group = run.class_of(rank)
        return [self._install(run, group, rank)] if rank in self._writers(run, group) else []

    def _writers(self, run: Run, group: ClassState) -> list[int]:
        if not keeps_files(run) or group.digest is None or not group.adopted:
            return []
        everyone = sorted(set(group.writers.values()))
        found = group.is_hit and not group.needs_guard
        return lacking(group) if found or run.rewinds else everyone

    def _install(self, run: Run, group: ClassState, rank: int) -> Call:
        assert group.header is not None, "what is installed was packed"
        return run.call(rank, Install(group.header))


def other_nodes_on_directory(run: Run, group: ClassState, writer: int) -> list[int]:
    """One live rank of every other node that shares this writer's directory."""
    nodes = {place[0] for place, rank in group.writers.items() if rank == writer}
    ranks_on = run.nodes_of(group)
    beside = []
    for node in sorted(nodes - {run.ranks[writer].info.node_id}):
        beside += [rank for rank in ranks_on.get(node, ()) if run.ranks[rank].is_alive][:1]
    return beside


class Loading(PhaseLogic):
    """Every rank, the leader too: clear, load, count, look every task up, and give the digest back."""

    phase = Phase.LOADING

    def enter(self, run: Run) -> Commands:
        return [call for rank in run.ranks for call in load(run, rank)]

    def joined(self, run: Run, rank: int) -> Commands:
        return load(run, rank)


def load(run: Run, rank: int) -> Commands:
    """Return the call that loads a rank, from its node's file or from memory, or none if nothing was tuned."""
    group = run.class_of(rank)
    if group.header is None:
        return []
    from_file = keeps_files(run) and run.ranks[rank].place not in group.in_memory
    return [run.call(rank, Load(group.header.digest, None if from_file else group.header))]


class Replaying(PhaseLogic):
    """Every rank runs every loaded task once and what an engine warms, so that the first request builds nothing.

    At the end every rank is asked once more what it holds: one that was lost meanwhile, and not missed yet, must not
    be called ready.
    """

    phase = Phase.REPLAYING

    def enter(self, run: Run) -> Commands:
        for state in run.ranks.values():
            state.is_confirmed = False
        return [run.call(rank, Replay()) for rank in run.ranks]

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        match value:
            case Loaded():
                return [run.call(call.rank, Replay())]
            case Replayed():
                return [warm(run, call.rank)]
            case Confirmed():
                run.ranks[call.rank].is_confirmed = True
        return self._confirm(run)

    def joined(self, run: Run, rank: int) -> Commands:
        judge(run, run.ranks[rank])
        run.ranks[rank].is_confirmed = False
        return load(run, rank) or [run.call(rank, Replay())]

    def is_complete(self, run: Run) -> bool:
        return super().is_complete(run) and all(state.is_confirmed for state in run.ranks.values())

    def _confirm(self, run: Run) -> Commands:
        """Once nothing else is under way."""
        if run.calls or not all(state.is_alive for state in run.ranks.values()):
            return []
        return [run.call(rank, Confirm()) for rank, state in run.ranks.items() if not state.is_confirmed]
