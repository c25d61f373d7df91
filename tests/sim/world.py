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
from ray_warmup.warmup.machine.state import ClassState
from ray_warmup.warmup.ranks import RankInfo
from tests.sim.group import Group, are_modules
from tests.sim.holdings import Process, RefusedError, Table, Value
from tests.sim.workshop import Workshop

NOW = 1_800_000_000.0
"""What every node's clock says when a store is looked at, in seconds since 1970."""


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


def digest_of(rows: Sequence[Value]) -> Value:
    """How many finished tasks there are, and which."""
    text = repr(sorted(row["task_id"] for row in rows)) + repr([row["measurements"] for row in rows])
    return {"count": len(rows), "digest": hashlib.sha256(text.encode()).hexdigest()}


class World(Workshop):
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
        super().__init__(infos, lambda rank: groups[group_of(rank)], directory_of, rng)
        self.groups = list(groups)
        self._backend = backend
        self.depot: dict[str, Table] = {}
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
            fresh.last_words = {
                "method": "tune",
                "task_id": old.task[0],
                "op": "op",
                "runner": runner,
                "tactic": str(self.won[drawn // 4 % len(self.won)] if self.won and drawn & 2 else drawn),
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
        return self.group(process.rank).key

    def _probe(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        process.budget = call.args.get("budget_bytes")
        process.uses_installed = "modules" in call.args
        mine, key = self.group(process.rank), self._key(process)
        parts = mine.parts if key[1:] == mine.key[1:] else {**mine.parts, "torch": "another"}
        return {
            "key": key,
            "parts": parts,
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

    def _task_ids(self, process: Process) -> set[str]:
        outline = self._outline(process)
        return {row["task_id"] for row in outline["tasks"]}

    def _outline(self, process: Process, *_: object) -> Value:
        tasks = self.group(process.rank).tasks
        return {"tasks": tasks if process.budget is None else tasks[:-1], "skips": [], "shrunk": []}

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
            "now": NOW,
            "digest": None if found is None else found.digest,
            "artifact": None if found is None else found.header["artifact"],
            "blobs": 0 if found is None else 1,
            "is_complete": found is None or {row["task_id"] for row in found.results} >= self._task_ids(process),
            "finished": digest_of([] if call.args["retune"] else directory.partial.get(key, [])),
            "covers": found is None or not found.is_poor,
            "on_disk": not directory.lacks_files,
            "warnings": ["no marker could be left"] if directory.is_read_only else [],
        }

    def _recall_table(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        """What this very process found; it reads nothing again."""
        found = process.packed
        if found is None:
            return {"hit": False, "reason": "this process has found no table"}
        rows = {"results": found.results, "verdicts": found.verdicts, "header": found.header}
        return {"hit": True, "reason": "", **rows}

    def _recall_finished(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        return {"partial": self.directory(process.rank).partial.get(self._key(process), [])}

    def _sees(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        markers, tokens = self.directory(process.rank).markers, call.args["tokens"]
        seen = (token for token in tokens if token in markers and self._rng.random() >= self.blindness)
        return {"tokens": list(islice(seen, 1))}

    def _tune(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        assert call.task_id is not None
        if lacks := self.lacks(process):
            raise RefusedError("CompileError", f"it has not compiled {lacks}")
        result = make_result(call.task_id, self.group(process.rank).outcome, self._rng)
        if result["choice"] is not None:
            self.won.append(result["choice"]["tactic"])
        return result

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
        banned = {(entry["runner"], entry["tactic"]) for entry in (group.quarantine if group is not None else ())}
        served = [row["choice"] for row in (*args["results"], *args["verdicts"]) if row["choice"] is not None]
        if any((choice["runner"], str(choice["tactic"])) in banned for choice in served):
            raise RefusedError("PackError", "a quarantined tactic is served")
        process.packed = Table.of(args["results"], args["verdicts"], args["guarded"], now)
        return {"digest": None, "blobs": []} if process.packed is None else process.packed.header

    def _pack_stored(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        if process.packed is None:
            process.packed = self.directory(process.rank).tables.get(self._key(process))
        if process.packed is None:
            raise RefusedError("StoreError", "no artifact was found")
        if call.args["renew"]:
            process.packed = replace(process.packed, is_poor=False)
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
        directory = self.directory(process.rank)
        table = None if directory.lacks_files else directory.tables.get(self._key(process))
        return {"digest": process.loaded, "stored": None if table is None else table.digest}

    def _sent(self, call: Call, group: ClassState | None) -> Table:
        """The adopted artifact, checked against the header that goes along."""
        table = self.depot.get(call.artifact or "")
        header = None if group is None else group.header
        if table is None or header is None or header["digest"] != table.digest:
            raise RefusedError("CorruptArtifactError", "what was sent is not what its header says")
        return table
