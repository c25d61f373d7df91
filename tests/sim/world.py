"""The modelled cluster of the simulation: processes, node directories, the depot. Time is not its business.

A process answers the machine's calls as `warmup.rank.process.RankProcess` would, from what it holds itself:
a fresh process holds nothing, a table exists only where one was published, an artifact only once adopted.
Every measurement is random, so two attempts at one task give different tables.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.sim.group import Group, module_digest
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
        chosen = {row["task_id"]: row["choice"]["tactic"] for row in results if row["outcome"] == "tuned"}
        chosen.update({row["task_id"]: row["choice"]["tactic"] for row in verdicts})
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
    lacks_files: bool = False
    """Its tables are found, but not where ranks load them."""
    tables: dict[str, Table] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    """Keys of classes whose modules are installed here."""
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
    last_words: Value | None = None
    """What its predecessor left in its black box."""
    budget: int | None = None
    """Memory that it was told to keep to."""
    packed: Table | None = None
    has_handed_over: bool = False
    uses_installed: bool = False
    """Finds the modules that are installed in its directory."""
    loaded: str | None = None
    has_replayed: bool = False
    has_warmed: bool = False


def make_row(tactic: int, rng: random.Random) -> Value:
    """One timed tactic."""
    return {"runner": "Fast", "tactic": tactic, "median_s": rng.random(), "spread_s": 0.0, "repeats": 5}


def make_result(task_id: str, outcome: str, rng: random.Random) -> Value:
    """A task's result with a short list of two, as another attempt would not find it."""
    is_tuned = outcome == "tuned"
    rows = [make_row(rng.getrandbits(32), rng) for _ in range(2)] if is_tuned else []
    return {
        "task_id": task_id,
        "op": "op",
        "bucket": 1,
        "outcome": outcome,
        "choice": {"runner": "Fast", "tactic": rows[0]["tactic"]} if is_tuned else None,
        "default_runner": "First",
        "policy": None,
        "measurements": rows,
    }


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
        self.handed_over: set[str] = set()
        """Keys of classes whose modules were adopted."""
        self.workspaces: dict[str, set[str]] = {}
        """Node -> modules that were compiled on it."""
        self.ships_modules = True
        """Whether what one node compiled is of any use on another."""
        self.tunes = True
        """Whether there is anything to replay; engine warmups run without it too."""
        self.slow_ranks: dict[int, float] = {}
        self.slow_at_tasks: dict[int, float] | None = None
        """Rank -> times what its peers need for a task that all measure; None: every time is random."""
        self.tight_ranks: set[int] = set()
        """Ranks on whose device the largest task does not fit."""
        self.lost_nodes: set[str] = set()
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

    def replace(self, old: Process, number: int) -> Process:
        """A fresh process for a rank; it finds what the old one wrote last."""
        fresh = Process(old.rank, number, is_started=False)
        if old.task is not None:
            fresh.last_words = {
                "method": "tune",
                "task_id": old.task[0],
                "op": "op",
                "runner": self._rng.choice(("Fast", "")),
                "tactic": str(self._rng.getrandbits(32)),
                "stack": "",
                "is_fatal": self._rng.random() < 0.3,
            }
        self.processes[old.rank] = fresh
        return fresh

    def move(self, rank: int) -> None:
        """The rank's next process starts on a node that nobody has lost."""
        info = self.infos[rank]
        others = sorted({i.node_id for i in self.infos.values()} - self.lost_nodes)
        fresh = f"node{900 + len(self.lost_nodes):03d}"
        node = self._rng.choice([*others, fresh])
        self.infos[rank] = replace(info, node_id=node, address=f"10.1.0.{int(node[4:])}")

    def answer(self, process: Process, command: Call | Adopt, group: ClassState | None, now: float) -> Value | None:
        """What the process answers; None for an adoption. Raises RefusedError as the rank would raise."""
        if isinstance(command, Adopt):
            self._adopt(process, command)
            return None
        answer: Value = getattr(self, f"_{command.method}")(process, command, group, now)
        return answer

    def lacks(self, process: Process) -> list[str]:
        """Modules that the process would have to compile."""
        group = self.group(process.rank)
        if process.uses_installed and group.key in self.directory(process.rank).modules:
            return []
        there = self.workspaces.setdefault(self.infos[process.rank].node_id, set())
        return [name for name in group.modules if name not in there]

    def _adopt(self, process: Process, command: Adopt) -> None:
        if command.digests == (module_digest(command.key),):
            if not process.has_handed_over:
                raise RefusedError("StoreError", "it packed no modules")
            self.handed_over.add(command.key)
            return
        if process.packed is None or command.digests != (process.packed.digest,):
            raise RefusedError("StoreError", "blob is not part of the packed artifact")
        self.depot[command.key] = process.packed

    def _key(self, process: Process) -> str:
        """A replacement on another machine image has a key that nobody else has."""
        if process.number > 0 and process.rank in self.foreign_ranks:
            return f"f{process.rank:063x}"
        key = self.group(process.rank).key
        return key if process.budget is None else f"b{key[1:]}"

    def _probe(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        process.budget = call.args.get("budget_bytes")
        process.uses_installed = "modules" in call.args
        mine, key = self.group(process.rank), self._key(process)
        parts = mine.parts if key[1:] == mine.key[1:] else {**mine.parts, "torch": "another"}
        return {
            "key": key,
            "parts": parts,
            "tasks": mine.tasks if process.budget is None else mine.tasks[:-1],
            "skips": [],
            "directory": f"/cache/{key[:8]}",
            "device": "GPU",
            "backend": self._backend,
            "memory": {"free": 50 if process.rank in self.tight_ranks else 100},
            "needs_bytes": 60 if process.budget is None else 40,
            "warnings": [],
            "last_words": process.last_words,
            "tunes_engine": mine.tunes_engine,
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
            "on_disk": not directory.lacks_files,
            "warnings": ["no marker could be left"] if directory.is_read_only else [],
        }

    def _sees(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        markers = self.directory(process.rank).markers
        return {"tokens": [t for t in call.args["tokens"] if t in markers and self._rng.random() >= self.blindness]}

    def _survey(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        """Modules of an earlier run that are installed here are used again."""
        mine, directory = self.group(process.rank), self.directory(process.rank)
        process.uses_installed = mine.key in directory.modules
        modules = module_digest(mine.key) if process.uses_installed else None
        return {"missing": self.lacks(process), "modules": modules, "warnings": []}

    def _compile(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        built = self.lacks(process)
        self.workspaces[self.infos[process.rank].node_id].update(built)
        return {"built": built}

    def _hand_over(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        assert group is not None
        process.uses_installed |= call.args["modules"] is not None
        if self.lacks(process):
            raise RefusedError("StoreError", "it lacks modules itself")
        if not self.ships_modules:
            return {"digest": None, "blobs": [], "warnings": ["its modules are not shipped"]}
        process.has_handed_over = True
        digest = module_digest(group.key)
        return {"digest": digest, "manifest": "", "blobs": [{"sha256": digest}], "warnings": []}

    def _take(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        if call.artifact not in self.handed_over:
            raise RefusedError("CorruptArtifactError", "no modules were adopted")
        mine, directory = self.group(process.rank), self.directory(process.rank)
        if not self.lacks(process):
            return {"modules": None, "missing": [], "warnings": []}
        if directory.is_read_only:
            return {"modules": None, "missing": self.lacks(process), "warnings": ["Read-only file system"]}
        directory.modules.add(mine.key)
        process.uses_installed = True
        return {"modules": module_digest(mine.key), "missing": [], "warnings": []}

    def _activate(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        process.uses_installed = self.group(process.rank).key in self.directory(process.rank).modules
        return {"active": process.uses_installed}

    def _tune(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        assert call.task_id is not None
        if lacks := self.lacks(process):
            raise RefusedError("CompileError", f"it has not compiled {lacks}")
        return make_result(call.task_id, self.group(process.rank).outcome, self._rng)

    def _measure(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        """A vote: the short list with times of its own."""
        assert call.task_id is not None
        vote = make_result(call.task_id, "tuned", self._rng)
        vote["measurements"] = [make_row(tactic, self._rng) for _, tactic in call.args["shortlist"]]
        if self.slow_at_tasks is not None and len(vote["measurements"]) == 1:
            vote["measurements"][0]["median_s"] = self.slow_at_tasks.get(process.rank, 1.0)
        return vote

    def _guard(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        kept = self._rng.random() < 0.8
        choice = call.args["result"]["choice"] if kept else {"runner": "First", "tactic": -1}
        return {
            "task_id": call.task_id,
            "decision": "kept" if kept else "slower",
            "choice": choice,
            "ratio": 1.5 if kept else 1.0,
        }

    def _tune_engine(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        if lacks := self.lacks(process):
            raise RefusedError("CompileError", f"it has not compiled {lacks}")
        return {"tuned": [{"name": "decode.json", "content": self._key(process)}], "warnings": []}

    def _pack(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        args = call.args
        if group is not None and self.group(process.rank).tunes_engine and group.engine_tuned is None:
            raise RefusedError("PackError", "nothing was tuned with an engine's step, nor given up")
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
        directory.lacks_files = False
        return {"files": [], "degraded": None}

    def _load(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        if call.artifact is not None:
            table: Table | None = self._sent(call, group)
        else:
            directory = self.directory(process.rank)
            table = None if directory.lacks_files else directory.tables.get(self._key(process))
        if table is None or table.digest != call.args["digest"]:
            raise RefusedError("LoadError", "the file is not the table of this run")
        process.loaded, process.has_replayed, process.has_warmed = table.digest, False, False
        count = len(self.group(process.rank).tasks)
        return {"digest": table.digest, "entries": count, "hits": count, "misses": []}

    def _replay(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        if self.tunes and (lacks := self.lacks(process)):
            raise RefusedError("CompileError", f"it has not compiled {lacks}")
        process.has_replayed = True
        return {"calls": 1, "failed": [], "peak_bytes": 1}

    def _warm(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        process.has_warmed = process.has_replayed
        said = {"reason": "", "outcomes": [], "compiled": {}, "warnings": [], "failed": []}
        return said | {"verification": None}

    def _confirm(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        return {"digest": process.loaded}

    def _sent(self, call: Call, group: ClassState | None) -> Table:
        """The adopted artifact, checked against the header that goes along."""
        table = self.depot.get(call.artifact or "")
        header = None if group is None else group.header
        if table is None or header is None or header["digest"] != table.digest:
            raise RefusedError("CorruptArtifactError", "what was sent is not what its header says")
        return table
