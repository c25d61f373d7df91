"""Report of a run: `RankReport` per rank, `ClassReport` per class, `WarmupReport` for all.

`WarmupReport.ready` is computed, never set: every rank ready, and one digest in every class.
`schema()` is the JSON schema that is committed as `warmup/schemas/report.schema.json`.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, computed_field

from ray_warmup.configs.errors import clipped, shown
from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.codec import first_fault
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.tasks import Skip

SCHEMA_VERSION = 2
MAX_REPORT_BYTES = 256 << 20


class ReportPart(BaseModel):
    """Base of every part of the report: frozen, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileReport(ReportPart):
    """A file that this run wrote."""

    node_id: str
    path: str
    sha256: str
    bytes: int


class GuardReport(ReportPart):
    """The guard's decisions in one class."""

    state: str
    """guarded, unguarded or off."""
    kept: int = 0
    replaced: int = 0
    slower: int = 0
    wrong: int = 0
    crashed: int = 0
    default: int = 0
    geomean: float | None = None
    """Geometric mean of default time over chosen time; above 1 is faster."""
    worst: float | None = None
    """The smallest such ratio."""


class CacheKindReport(ReportPart):
    """One cache kind of a class's artifact."""

    kind: str
    blobs: int = 0
    """In the artifact."""
    bytes: int = 0
    """Their size."""
    received_bytes: int = 0
    """What nodes lacked of it and were sent, summed over nodes."""
    installed: int = 0
    """Files that were put into nodes' own caches."""
    install_s: float = 0.0
    """Time for that, summed over nodes."""


class TaskReport(ReportPart):
    """One tuned task: how long the default and the tuned tactic take, what was decided and why."""

    task: str
    op: str
    bucket: int
    """Number of tokens."""
    outcome: str
    """tuned, oom, no_valid_tactic or collision."""
    decision: str
    """The guard's, or unguarded."""
    runner: str = ""
    """Of the table's entry."""
    tactic: str = ""
    """Of the table's entry, as JSON; -1 is the default."""
    default_s: float | None = None
    """None where it was not measured."""
    tuned_s: float | None = None
    """Of the table's entry, under the same measurement."""
    winner_ratio: float | None = None
    """Default's time over that of the tactic that tuning had found."""
    reason: str = ""
    rank: int = 0
    """The rank that measured it."""


class ClassReport(ReportPart):
    """Ranks that share one cache key."""

    key: str
    parts: dict[str, str]
    leader: int
    ranks: tuple[int, ...]
    digest: str | None
    """Digest that every rank of the class loaded; None when nothing was tuned, or when they differ."""
    tasks: int
    measured: int
    reused: int
    measuring_s: float = 0.0
    """Seconds that its tasks took one rank when they were measured, in this run or an earlier one."""
    kept: int
    """Tasks whose tuned winner is in the table."""
    dropped: int
    """Tasks that fell back to the default tactic."""
    strategy: str
    hit: bool
    """The table was found on a node's disk."""
    guard: GuardReport
    built: dict[int, tuple[str, ...]] = {}
    """Rank -> FlashInfer modules that it compiled in this run."""
    received: tuple[str, ...] = ()
    """Nodes that took modules over instead of compiling them."""
    skipped: tuple[Skip, ...] = ()
    kinds: tuple[CacheKindReport, ...] = ()
    """What the artifact carries, kind by kind."""
    task_reports: tuple[TaskReport, ...] = ()


class EngineWarmupEntry(ReportPart):
    """One engine warmup on one rank."""

    name: str
    state: str
    """done, skipped or failed."""
    severity: str
    """required or optional."""
    seconds: float = 0.0
    shapes: tuple[str, ...] = ()
    """Shapes that ran to their end."""
    reason: str = ""
    """Reason for skipping, or the failure with its shape."""
    warnings: tuple[str, ...] = ()

    @property
    def blocks_readiness(self) -> bool:
        """Return True if the rank must not report ready because of this outcome."""
        return self.state == "failed" and self.severity == "required"


class VerificationReport(ReportPart):
    """Random requests after the warmups: what was left to compile."""

    requests: int
    steps: int
    compiled: dict[str, int]
    """Compilations by kind: flashinfer, triton, cute_dsl."""
    loaded: dict[str, int]
    """First uses that were served from a disk cache, by kind."""
    unavailable: dict[str, str]
    """Kinds that could not be counted, and why."""
    events: tuple[str, ...] = ()
    """The first of them: kernel, signature, shape."""
    error: str = ""

    @property
    def is_clean(self) -> bool:
        """Nothing was compiled or loaded, and every request was served."""
        return not (self.error or any(self.compiled.values()) or any(self.loaded.values()))


class EngineReport(ReportPart):
    """Engine warmups of one rank."""

    reason: str = ""
    """Reason why no warmup ran, or empty."""
    outcomes: tuple[EngineWarmupEntry, ...] = ()
    compiled: dict[str, int] = {}
    """Compilations while the warmups ran, by kind: what had not been shipped to this node."""
    verification: VerificationReport | None = None
    """None when nothing was checked."""


class RankReport(ReportPart):
    """One rank."""

    rank: int
    local_rank: int
    node_rank: int
    node_id: str
    address: str = ""
    gpu_ids: tuple[str, ...] = ()
    device: str = ""
    role: str
    """leader, writer or follower."""
    state: str
    """ready, failed, lost, the phase it was in when the run failed, or removed: its node was lost and the run went on
    without it (`cluster.on_node_loss: shrink`)."""
    digest: str | None = None
    entries: int = 0
    hits: int = 0
    misses: int = 0
    peak_bytes: int = 0
    phases: dict[str, float] = {}
    """Seconds this rank worked in each phase."""
    engine: EngineReport | None = None
    """None when the run ended before."""
    error: str | None = None
    stack: str = ""
    """Stacks of its process at its death or at the run's deadline, often empty."""
    host: str = ""


class WarmupReport(ReportPart):
    """The outcome of one run, also of a failed one."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    config: dict[str, Any]  # a border: the request as JSON, of any engine
    classes: tuple[ClassReport, ...] = ()
    ranks: tuple[RankReport, ...] = ()
    files: tuple[FileReport, ...] = ()
    phases: dict[str, float] = {}
    """Wall seconds of each phase of the run."""
    warnings: tuple[str, ...] = ()
    on_disk: str | None = None
    """Number of nodes with the table on disk just before the end, as `1 of 2 nodes`. None if none was to be kept."""
    error: str | None = None
    """Reason for a failure: rank, node, phase, task, duration, the remote traceback, the setting to change."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ready(self) -> bool:
        """Return True if every rank that policy kept is ready, and each class that must agree holds one digest."""
        left = [rank for rank in self.ranks if rank.state != "removed"]
        if self.error is not None or not left:
            return False
        return all(rank.state == "ready" for rank in left) and all(map(self._agrees, self.classes))

    @property
    def is_on_every_disk(self) -> bool:
        """Tell a run after which engines find on every node what belongs there."""
        words = (self.on_disk or "").split()
        return not words or words[0] == words[2]

    def _agrees(self, group: ClassReport) -> bool:
        digests = {rank.digest for rank in self.ranks if rank.rank in group.ranks}
        return group.strategy == "independent" or len(digests) == 1

    def to_json(self) -> str:
        """The report as indented JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> WarmupReport:
        """Parse a report. `ready` is computed, whatever the text says.

        Raises RejectedArtifactError for another schema version, CorruptArtifactError for an invalid report.
        """
        try:
            data = parse_json(text, MAX_REPORT_BYTES)
        except ValueError as error:
            raise CorruptArtifactError(f"report: is not valid JSON: {clipped(str(error))}") from error
        if not isinstance(data, dict):
            raise CorruptArtifactError(f"report: {shown(data)}: must be an object")
        version = data.get("schema_version")
        if type(version) is int and version != SCHEMA_VERSION:
            raise RejectedArtifactError(
                f"report: schema_version: {version}: this version reads {SCHEMA_VERSION}; use a matching ray-warmup",
                schema_version=version,
            )
        data.pop("ready", None)
        try:
            return cls.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            raise CorruptArtifactError(f"report: {first_fault(error)}") from error


def schema() -> dict[str, JsonValue]:
    """JSON schema of the report as it is written."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **WarmupReport.model_json_schema(mode="serialization"),
    }
