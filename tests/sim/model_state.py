"""What a modelled process and a modelled directory hold, and the tables among it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.messages.values import BlobRow, CrashRecord, Header
from ray_warmup.warmup.tasks import GuardVerdict, TaskResult


class RefusedError(Exception):
    """A rank raises; `failure` is what the coordinator would be told."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message)


@dataclass(slots=True)
class Table:
    """A tuned table: its rows decide its digest."""

    digest: str
    results: tuple[TaskResult, ...]
    verdicts: tuple[GuardVerdict, ...]
    guarded: bool
    recorded_at: float
    is_poor: bool = False
    """Its artifact lacks what a run would compile besides modules."""

    @classmethod
    def of(
        cls, results: Sequence[TaskResult], verdicts: Sequence[GuardVerdict], guarded: bool, at: float
    ) -> Table | None:
        """The table of these rows; None when no task was tuned."""
        chosen = {row.task_id: row.choice.tactic for row in results if row.choice is not None}
        chosen.update({row.task_id: row.choice.tactic for row in verdicts})
        if not chosen:
            return None
        text = ";".join(f"{task}={choice}" for task, choice in sorted(chosen.items()))
        return cls(hashlib.sha256(text.encode()).hexdigest(), tuple(results), tuple(verdicts), guarded, at)

    @property
    def header(self) -> Header:
        """What is told of it before its blobs; a poor artifact is another one."""
        return Header(self.digest, f"poor={self.is_poor}", b"", (BlobRow(self.digest, 1, "t"),))


@dataclass(slots=True)
class Directory:
    """One store; several nodes may share it."""

    is_read_only: bool = False
    lacks_files: bool = False
    """Its tables are found, but not where ranks load them."""
    tables: dict[str, Table] = field(default_factory=dict)
    modules: dict[str, set[str]] = field(default_factory=dict)
    """Key of a class -> its modules that are installed here."""
    partial: dict[str, list[TaskResult]] = field(default_factory=dict)
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
    last_words: CrashRecord | None = None
    """Crash record that its predecessor left."""
    budget: int | None = None
    """Memory that it was told to keep to."""
    packed: Table | None = None
    packed_modules: set[str] = field(default_factory=set)
    building: list[str] = field(default_factory=list)
    """Modules whose build it began and did not tell the end of."""
    uses_installed: bool = False
    """Finds the modules that are installed in its directory."""
    loaded: str | None = None
    has_replayed: bool = False
    has_warmed: bool = False
