"""Answers of a rank. `returned` of a phase matches on these classes."""

from __future__ import annotations

from dataclasses import field

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.messages.values import Ancestor, CrashRecord, Header, PoolTask, TextFile
from ray_warmup.warmup.report import EngineReport, FileReport
from ray_warmup.warmup.tasks import Contender, Count, Duration, GuardVerdict, Skip, TacticId, TaskResult


@message
class Probed:
    """Description of a rank.

    `key` is "off" for a rank that tunes nothing.
    """

    key: str = "off"
    parts: dict[str, str] = field(default_factory=dict)
    directory: str = ""
    """Of its node's store."""
    device: str = ""
    backend: str = ""
    free_bytes: Count | None = None
    """Of its device's memory, where that is known."""
    needs_bytes: Count = 0
    """What its largest task needs."""
    tunes_engine: bool = False
    """Whether `TuneEngine` would tune anything here."""
    reference_s: Duration | None = None
    """Its time for a reference GEMM."""
    last_words: CrashRecord | None = None
    """What this rank's previous process wrote last."""
    warnings: tuple[str, ...] = ()
    cannot_sign: str = ""
    """Why it could not sign what it packs although signatures are required; empty where it can, or need not."""


@message
class Outlined:
    """Tasks and skipped workloads that all ranks of one key share."""

    tasks: tuple[PoolTask, ...] = ()
    skips: tuple[Skip, ...] = ()
    shrunk: tuple[str, ...] = ()
    """Buckets that a memory budget took away, in words."""


@message
class FoundTable:
    """A valid table in a node's store, without its rows."""

    digest: str
    artifact: str
    guarded: bool
    recorded_at: float
    num_blobs: Count
    on_disk: bool
    """It lies in the file that ranks load, too."""
    covers: bool
    """It carries all that a replay here would compile."""
    is_complete: bool
    """It has every task of this rank."""


@message
class FinishedTasks:
    """How many tasks earlier runs finished, and a digest of them: equal ones are asked of one node only."""

    count: Count
    digest: str


@message
class LookedUp:
    """Content of a node's store for one key."""

    table: FoundTable | None
    """None for a miss."""
    reason: str
    """Why it is a miss."""
    now: float
    """By the node's own clock."""
    finished: FinishedTasks
    lineage: Ancestor | None = None
    """Of the artifact that is there, also where it is no hit."""
    quarantine: tuple[TacticId, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def hit(self) -> bool:
        """Return True if there is a valid table."""
        return self.table is not None


@message
class Markers:
    """The first of the markers that this node's directory has."""

    tokens: tuple[str, ...]


@message
class RecalledTable:
    """A found table with its rows."""

    header: Header
    results: tuple[TaskResult, ...]
    verdicts: tuple[GuardVerdict, ...]
    tuned: tuple[TextFile, ...] = ()


@message
class Missing:
    """Absence of the requested rows."""

    reason: str


@message
class RecalledTasks:
    """Tasks that earlier runs finished."""

    results: tuple[TaskResult, ...]


@message
class Surveyed:
    """Modules that a node lacks."""

    missing: tuple[str, ...]
    modules: str | None
    """The installed set that this process uses."""
    warnings: tuple[str, ...] = ()


@message
class Compiled:
    """Modules that were finished, and what is still being built."""

    built: tuple[str, ...]
    missing: tuple[str, ...]


@message
class PackedModules:
    """Modules for other nodes.

    `header` is None without usable modules.
    """

    header: Header | None
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@message
class InstalledModules:
    """Result of installing another node's modules."""

    modules: str | None
    """The set that this process uses now."""
    missing: tuple[str, ...]
    """What is still to be compiled here."""
    warnings: tuple[str, ...] = ()


@message
class Activated:
    """Result of activating a set of modules."""

    active: bool


@message
class Tuned:
    """One task, measured."""

    result: TaskResult


@message
class Compared:
    """Seconds for the shared task, or None if its tactic did not run."""

    seconds: Duration | None
    peak_bytes: Count = 0


@message
class Voted:
    """The short list with this rank's own times."""

    result: TaskResult


@message
class EngineTuned:
    """Files that were tuned with an engine's step."""

    tuned: tuple[TextFile, ...]
    warnings: tuple[str, ...] = ()


@message
class Guarded:
    """One task, judged."""

    verdict: GuardVerdict
    contenders: tuple[Contender, ...] = ()
    """What the next judge may choose from, the chosen one among it; none where the default is published."""


@message
class Packed:
    """Artifact that the rank keeps until its blobs are fetched.

    `header` is None if nothing was tuned.
    """

    header: Header | None
    collisions: tuple[str, ...] = ()
    """Ops of which two winners share one file key."""
    warnings: tuple[str, ...] = ()


@message
class Installed:
    """Files that a writer published."""

    files: tuple[FileReport, ...] = ()
    degraded: str | None = None
    """Why its disk refused: the ranks of this directory load from memory."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was put into the node's own caches, by kind."""
    warnings: tuple[str, ...] = ()
    seconds: dict[str, Duration] = field(default_factory=dict)
    """Time to put that in place, by kind."""
    received: dict[str, Count] = field(default_factory=dict)
    """Bytes that were pushed to this node, by kind."""


@message
class Loaded:
    """Content of a process's AutoTuner after a load, and its hits."""

    digest: str | None
    """Of the table that the AutoTuner gives back (a save round trip); None when it holds nothing."""
    entries: Count
    hits: Count
    """Expected tasks whose own call, outside any autotune context, returned the table's runner and tactic."""
    misses: tuple[str, ...]
    """Task ids (with the size that missed) that did not."""
    seconds: Duration = 0.0


@message
class Replayed:
    """Cost of running every loaded task once, and modules that were still built."""

    calls: Count
    built_modules: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """`task id: error` of the calls that raised."""
    seconds: Duration = 0.0
    graph_captured: Count = 0
    """How many of the calls were also captured in a CUDA graph."""
    peak_bytes: Count = 0


@message
class Warmed:
    """Outcome of an engine's warmups and the check requests."""

    report: EngineReport
    warnings: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """Required ones that failed, in words."""


@message
class Confirmed:
    """The digests of the tables that the device holds and that its node's disk keeps."""

    digest: str | None
    stored: str | None = None


@message
class Concluded:
    """Why the verdict could not be left, or None."""

    problem: str | None


Answer = (
    Probed
    | Outlined
    | LookedUp
    | Markers
    | RecalledTable
    | RecalledTasks
    | Missing
    | Surveyed
    | Compiled
    | PackedModules
    | InstalledModules
    | Activated
    | Tuned
    | Compared
    | Voted
    | EngineTuned
    | Guarded
    | Packed
    | Installed
    | Loaded
    | Replayed
    | Warmed
    | Confirmed
    | Concluded
)


def peak_of(answer: Answer) -> int:
    """The device memory that was in use at most, where an answer says so."""
    match answer:
        case Tuned(result=result) | Voted(result=result):
            return result.peak_bytes
        case Compared(peak_bytes=peak) | Replayed(peak_bytes=peak):
            return peak
    return 0
