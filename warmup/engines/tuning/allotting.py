"""Tasks of a recorded replica that ranks of other replicas measure, and what comes back from them.

Only requests with a recipe are shared out, and of these only those that the other replica makes again exactly. What is
lent is never waited for: once nothing else is left, the replica's own ranks measure it themselves, and whoever is
first counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ray_warmup.warmup.artifact.quarantine import is_served, without_quarantined
from ray_warmup.warmup.machine.state.pool import TaskPool
from ray_warmup.warmup.machine.state.run import ClassState
from ray_warmup.warmup.messages.allotting import Lot, SharedRecording, TasksMeasured
from ray_warmup.warmup.tasks import GuardVerdict, TaskResult
from ray_warmup.warmup.workloads.recipes import reason_to_stay
from ray_warmup.warmup.workloads.recorded_request import RecordedRequest, Recording, recording_of

logger = logging.getLogger(__name__)

SHARE = 2
"""A replica is given this part of what waits, divided by all ranks that measure: lots become smaller to the end."""


@dataclass(frozen=True, slots=True)
class Sharable:
    """Requests of all classes of a replica that have a recipe, and the reason for each other one."""

    requests: tuple[RecordedRequest, ...]
    staying: tuple[str, ...]

    @classmethod
    def of(cls, recordings: Iterable[Recording]) -> Sharable:
        """Sort the requests of some recordings, each once."""
        found: dict[str, RecordedRequest] = {}
        staying: dict[str, None] = {}
        for recording in recordings:
            for request in recording.requests:
                if reason := reason_to_stay(request):
                    staying[f"{request.op} {request.shapes()} stays with the replica that recorded it: {reason}"] = None
                else:
                    found.setdefault(request.digest, request)
        return cls(tuple(found.values()), tuple(staying))


class Allotting:
    """Part of a conductor: which replica measures what."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._shapes: dict[int, tuple[str, ...]] = {}
        """Replica -> shapes of the requests that it has made again; of one that is gone, none."""
        self._requests: dict[str, RecordedRequest] = {}
        self.measured: dict[int, int] = {}
        """Replica -> tasks of it that counted."""
        self.notes: list[str] = []
        """What a reader of the report must know."""

    def work(
        self, recordings: Sequence[Recording], states: Mapping[str, str], groups: Iterable[ClassState]
    ) -> SharedRecording | None:
        """Return what another replica needs to begin, or None if no request has a recipe.

        The others are named in `notes`.
        """
        sharable = Sharable.of(recordings)
        self._note(*sharable.staying)
        self._requests = {request.digest: request for request in sharable.requests}
        for group in groups:
            facts = tuple((name, text) for name, text in sorted(group.parts.items()) if name != "recording")
            break
        if not self._requests:
            return None
        shared = recording_of(self._requests.values())
        known = tuple((digest, states[digest]) for digest in self._requests if digest in states)
        return SharedRecording(shared.to_bytes().decode(), facts, known)

    def take(self, replica: int, measured: TasksMeasured, groups: Sequence[ClassState]) -> list[tuple[str, TaskResult]]:
        """Take over what a replica has measured, and return the (class, result) that counted."""
        self._note(*(f"replica {replica}: {text}" for text in measured.warnings))
        if replica not in self._shapes and measured.stage in ("idle", "busy"):
            self._began(replica, measured)
        counted: list[tuple[str, TaskResult]] = []
        for group in groups:
            group.quarantine = tuple(dict.fromkeys((*group.quarantine, *measured.quarantine)))
            counted += self._settled(replica, measured, group)
            if group.pool is not None and measured.stage in ("idle", "ended"):
                group.pool.give_back(replica)
        self.measured[replica] = self.measured.get(replica, 0) + len(counted)
        if measured.stage == "ended":
            self._ended(replica, measured.error, groups)
        return counted

    def lot(self, replica: int, groups: Sequence[ClassState], *, guards: bool) -> Lot | None:
        """Return the next tasks for a replica that has nothing to do, or None if nothing waits that it can do.

        `guards`: the winners of these classes are guarded now, and their results go along.
        """
        shapes = self._shapes.get(replica, ())
        for group in groups:
            if group.pool is None:
                continue
            tasks = self._lent(replica, group.pool, shapes)
            if tasks:
                known: tuple[TaskResult, ...] = ()
                if guards:
                    known = tuple(without_quarantined(group.results[task], group.quarantine) for task in tasks)
                return Lot(tasks, known, group.quarantine)
        return None

    def _lent(self, replica: int, pool: TaskPool, shapes: Sequence[str]) -> tuple[str, ...]:
        workers = self._world_size * (1 + len(self._shapes))
        most = self._world_size * max(1, pool.num_waiting // (SHARE * workers))
        tasks: list[str] = []
        while len(tasks) < most and (task_id := pool.lend(replica, shapes)) is not None:
            tasks.append(task_id)
        return tuple(tasks)

    def _began(self, replica: int, measured: TasksMeasured) -> None:
        """Note what a replica can measure, and why not the rest."""
        able = [self._requests[digest] for digest in measured.able if digest in self._requests]
        self._shapes[replica] = tuple(request.workload().identity for request in able)
        for digest, reason in measured.refused:
            request = self._requests.get(digest)
            if request is not None:
                self._note(f"replica {replica} does not measure {request.op} {request.shapes()}: {reason}")

    def _settled(self, replica: int, measured: TasksMeasured, group: ClassState) -> list[tuple[str, TaskResult]]:
        """Keep the rows of one class that nobody else has made or is making."""
        if group.pool is None:
            return []
        verdicts = {verdict.task_id: verdict for verdict in measured.verdicts}
        results = {result.task_id: result for result in measured.results}
        mine = {task.task_id for task in group.tasks}
        counted: list[tuple[str, TaskResult]] = []
        for task_id in dict.fromkeys((*results, *verdicts)):
            result, verdict = results.get(task_id), verdicts.get(task_id)
            if task_id not in mine or not _may_be_served(group, result or group.results.get(task_id), verdict):
                continue
            if not group.pool.settle(task_id):
                continue
            if result is not None:
                result = replace(result, rank=self._number(replica, result.rank))
                group.measured += task_id not in group.results
                group.results[task_id] = result
                counted.append((group.key, result))
            if verdict is not None:
                group.verdicts[task_id] = replace(verdict, rank=self._number(replica, verdict.rank))
        return counted

    def _number(self, replica: int, rank: int) -> int:
        """Number a rank of another replica after those of this one."""
        return self._world_size * replica + rank

    def _ended(self, replica: int, reason: str, groups: Sequence[ClassState]) -> None:
        """A replica measures nothing more: its shapes are free."""
        self._shapes[replica] = ()
        for group in groups:
            if group.pool is not None:
                group.pool.lose(-replica)
        if reason:
            self._note(f"replica {replica} measures nothing more, and the rest is tuned without it: {reason}")

    def _note(self, *texts: str) -> None:
        for text in texts:
            if text not in self.notes:
                self.notes.append(text)
                logger.info("%s", text)


def _may_be_served(group: ClassState, result: TaskResult | None, verdict: GuardVerdict | None) -> bool:
    """Return True if a task's rows are whole and choose no tactic that is banned by now."""
    if result is None or not is_served(result.op, result.choice, group.quarantine):
        return False
    return verdict is None or is_served(result.op, verdict.choice, group.quarantine)
