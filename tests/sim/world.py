"""The modelled cluster of the simulation: processes, node directories, the depot. Time is not its business.

A process answers the machine's calls as `warmup.rank_process.RankProcess` would, from what it holds itself:
a fresh process holds nothing, a table exists only where one was published, an artifact only once adopted.
Every measurement is random, so two attempts at one task give different tables.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmup.machine.commands import Adopt, Call, Failure
from warmup.machine.state import ClassState
from warmup.ranks import RankInfo

Value = dict[str, Any]


class RefusedError(Exception):
    """A rank's method raises; `failure` is what the coordinator would be told."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message)


@dataclass(slots=True)
class Table:
    """A tuned table: its rows decide its digest."""

    digest: str
    results: list[Value]
    verdicts: list[Value]
    guarded: bool
    recorded_at: float

    @classmethod
    def of(cls, results: Sequence[Value], verdicts: Sequence[Value], guarded: bool, at: float) -> Table | None:
        """The table of these rows; None when no task was tuned."""
        chosen = {row["task_id"]: row["choice"] for row in results if row["outcome"] == "tuned"}
        chosen.update({row["task_id"]: row["choice"] for row in verdicts})
        if not chosen:
            return None
        text = ";".join(f"{task}={choice}" for task, choice in sorted(chosen.items()))
        return cls(hashlib.sha256(text.encode()).hexdigest(), list(results), list(verdicts), guarded, at)

    @property
    def header(self) -> Value:
        """What `pack` and `lookup` tell the machine."""
        return {"digest": self.digest, "manifest": "", "blobs": [{"sha256": self.digest, "bytes": 1, "kind": "t"}]}


@dataclass(slots=True)
class Directory:
    """One store; several nodes may share it."""

    is_read_only: bool = False
    tables: dict[str, Table] = field(default_factory=dict)
    partial: dict[str, list[Value]] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Process:
    """One process of a rank; `number` counts its predecessors."""

    rank: int
    number: int
    is_started: bool = True
    free_at: float = 0.0
    died_at: float | None = None
    hung_since: float | None = None
    is_silent: bool = False
    task: tuple[str, float] | None = None
    """What it measures and since when."""
    packed: Table | None = None
    loaded: str | None = None
    has_replayed: bool = False


@dataclass(slots=True)
class Group:
    """Ranks that will say the same key."""

    key: str
    parts: dict[str, str]
    tasks: list[Value]
    outcome: str = "tuned"


class World:
    """Every process and every directory of one run."""

    def __init__(
        self,
        infos: Sequence[RankInfo],
        groups: Sequence[Group],
        group_of: Callable[[int], int],
        directory_of: Callable[[str], int],
        rng: random.Random,
        *,
        backend: str = "cuda",
    ) -> None:
        self.infos = {info.rank: info for info in infos}
        self.groups = list(groups)
        self._group_of = group_of
        self._directory_of = directory_of
        self._rng = rng
        self._backend = backend
        self.processes = {info.rank: Process(info.rank, 0) for info in infos}
        self.directories: dict[int, Directory] = {}
        self.depot: dict[str, Table] = {}
        self.slow_ranks: dict[int, float] = {}
        self.blindness = 0.0
        """How often a marker in a shared directory is not seen yet."""
        self.foreign_ranks: set[int] = set()
        """Ranks whose replacement has another environment."""

    def group(self, rank: int) -> Group:
        """What the rank's class will be."""
        return self.groups[self._group_of(rank)]

    def directory(self, rank: int) -> Directory:
        """The store that the rank's node uses."""
        return self.directories.setdefault(self._directory_of(self.infos[rank].node_id), Directory())

    def answer(self, process: Process, command: Call | Adopt, group: ClassState | None, now: float) -> Value | None:
        """What the process answers; None for an adoption. Raises RefusedError as the rank would raise."""
        if isinstance(command, Adopt):
            self._adopt(process, command)
            return None
        answer: Value = getattr(self, f"_{command.method}")(process, command, group, now)
        return answer

    def _adopt(self, process: Process, command: Adopt) -> None:
        if process.packed is None or command.digests != (process.packed.digest,):
            raise RefusedError("StoreError", "blob is not part of the packed artifact")
        self.depot[command.key] = process.packed

    def _key(self, process: Process) -> str:
        """A replacement on another machine image has a key that nobody else has."""
        is_foreign = process.number > 0 and process.rank in self.foreign_ranks
        return f"f{process.rank:063x}" if is_foreign else self.group(process.rank).key

    def _probe(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        mine, key = self.group(process.rank), self._key(process)
        parts = mine.parts if key == mine.key else {**mine.parts, "torch": "another"}
        return {
            "key": key,
            "parts": parts,
            "tasks": mine.tasks,
            "skips": [],
            "directory": f"/cache/{key[:8]}",
            "device": "GPU",
            "backend": self._backend,
            "memory": {},
            "warnings": [],
            "reference_s": self.slow_ranks.get(process.rank, 1.0),
        }

    def _lookup(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        key, directory = self._key(process), self.directory(process.rank)
        if not directory.is_read_only:
            directory.markers.add(call.args["token"])
        found = directory.tables.get(key)
        process.packed = found
        return {
            "hit": found is not None,
            "reason": "" if found is not None else "nothing is stored",
            "guarded": found is not None and found.guarded,
            "recorded_at": 0.0 if found is None else found.recorded_at,
            "results": [] if found is None else found.results,
            "verdicts": [] if found is None else found.verdicts,
            "partial": [] if call.args["retune"] else directory.partial.get(key, []),
            "header": None if found is None else found.header,
            "warnings": ["no marker could be left"] if directory.is_read_only else [],
        }

    def _sees(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        markers = self.directory(process.rank).markers
        return {"tokens": [t for t in call.args["tokens"] if t in markers and self._rng.random() >= self.blindness]}

    def _compile(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        return {"built": []}

    def _tune(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        outcome = self.group(process.rank).outcome
        choice = self._rng.getrandbits(32) if outcome == "tuned" else None
        return {"task_id": call.task_id, "outcome": outcome, "choice": choice, "rank": process.rank}

    def _guard(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        kept = self._rng.random() < 0.8
        choice = call.args["result"]["choice"] if kept else -1
        return {
            "task_id": call.task_id,
            "decision": "kept" if kept else "slower",
            "choice": choice,
            "ratio": 1.5 if kept else 1.0,
        }

    def _pack(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        args = call.args
        process.packed = Table.of(args["results"], args["verdicts"], args["guarded"], now)
        return {"digest": None, "blobs": []} if process.packed is None else process.packed.header

    def _pack_stored(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        if process.packed is None:
            process.packed = self.directory(process.rank).tables.get(self._key(process))
        if process.packed is None:
            raise RefusedError("StoreError", "no artifact was found")
        return process.packed.header

    def _install(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        table, directory = self._sent(call, group), self.directory(process.rank)
        if directory.is_read_only:
            return {"files": [], "degraded": "Read-only file system"}
        directory.tables[self._key(process)] = table
        return {"files": [], "degraded": None}

    def _load(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        if call.artifact is not None:
            table: Table | None = self._sent(call, group)
        else:
            table = self.directory(process.rank).tables.get(self._key(process))
        if table is None or table.digest != call.args["digest"]:
            raise RefusedError("LoadError", "the file is not the table of this run")
        process.loaded, process.has_replayed = table.digest, False
        count = len(self.group(process.rank).tasks)
        return {"digest": table.digest, "entries": count, "hits": count, "misses": []}

    def _replay(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        process.has_replayed = True
        return {"calls": 1, "failed": [], "peak_bytes": 1}

    def _sent(self, call: Call, group: ClassState | None) -> Table:
        """The adopted artifact, checked against the header that goes along."""
        table = self.depot.get(call.artifact or "")
        header = None if group is None else group.header
        if table is None or header is None or header["digest"] != table.digest:
            raise RefusedError("CorruptArtifactError", "what was sent is not what its header says")
        return table
