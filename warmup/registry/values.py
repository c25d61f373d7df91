"""Values between a process that wants an artifact and the registry."""

from __future__ import annotations

from dataclasses import dataclass

from ray_warmup.warmup.tasks import TaskResult


@dataclass(frozen=True, slots=True)
class Asker:
    """A process that wants an artifact."""

    node_id: str
    pid: int
    host: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host or 'node ' + self.node_id[:8]}"


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """Facts of one artifact, by which the newest of a key is found."""

    key_sha256: str
    digest: str
    depth: int
    created_at: float
    """Seconds since the epoch."""
    bytes: int
    """Size of its archive; 0 while nobody has packed it."""
    engine: str = ""
    """Name and version of the engine that compiled it; empty for a table."""
    is_proven: bool = True
    """False for what a serving engine has left: it is handed out only after a proof."""

    @property
    def age_order(self) -> tuple[int, float, str]:
        """Return what orders artifacts of one key: lineage first, then time."""
        return self.depth, self.created_at, self.digest


@dataclass(frozen=True, slots=True)
class Lead:
    """Order to make the artifact, for which everybody else waits."""

    token: str
    finished: tuple[TaskResult, ...] = ()
    """Tasks that an earlier leader has finished."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Another process makes the artifact."""

    holder: Asker
    for_s: float
    """Seconds since it began."""
    progress: str


@dataclass(frozen=True, slots=True)
class Known:
    """The artifact is there."""

    facts: ArtifactFacts


Answer = Lead | Wait | Known


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """Registry's view of one key, for people."""

    key_sha256: str
    digest: str
    """Empty while nobody has made one."""
    nodes: tuple[str, ...]
    """Ids of the nodes that hold it."""
    bytes: int
    is_in_memory: bool
    leader: str
    """Who makes one now; empty for nobody."""
    for_s: float
    progress: str
    engine: str = ""
    """Name and version of the engine that compiled it; empty for a table."""
    unproven: tuple[str, ...] = ()
    """Ids of nodes on which a serving engine has left an artifact that nobody has proven."""
