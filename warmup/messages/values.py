"""Values that several messages carry."""

from __future__ import annotations

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.ranks import ActorLocation
from ray_warmup.warmup.tasks import Count, Duration


@message
class BlobRow:
    """One blob of an artifact, as it is stored and sent."""

    sha256: str
    bytes: Count
    kind: str


@message
class Header:
    """An artifact before its blobs: what the other ranks must know of it."""

    digest: str
    """Of the tuned table by its entries; of an artifact of modules, of the set of modules."""
    artifact: str
    """Of the manifest."""
    manifest: bytes
    """As it is stored; parsed where the artifact is checked."""
    blobs: tuple[BlobRow, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """The sha256 of every blob."""
        return tuple(blob.sha256 for blob in self.blobs)


@message
class Ancestor:
    """Digest and depth of the artifact that another one replaces."""

    artifact: str
    depth: Count


@message
class TextFile:
    """A small text file that travels inside a message."""

    name: str
    content: str


@message
class PoolTask:
    """One task as it is dealt."""

    task_id: str
    shape: str
    """Tasks of one op and shape share a warm start."""
    cost: float
    """Estimated seconds; only the order matters."""


@message
class CrashRecord:
    """Last record of a dead process."""

    method: str
    task_id: str
    op: str
    runner: str
    tactic: str
    """As JSON."""
    stack: str = ""
    """faulthandler's dump; empty when the process was killed from outside without being asked first."""

    @property
    def is_fatal(self) -> bool:
        """Return True if the process crashed by itself (segmentation fault, abort, illegal instruction)."""
        return "Fatal Python error" in self.stack


@message
class Heartbeat:
    """Current work of a rank."""

    method: str
    """The question that it works on, or `idle`."""
    task_id: str
    for_s: Duration
    op: str = ""
    runner: str = ""
    tactic: str = ""


@message
class Located:
    """Location of an actor and the versions that must agree between processes."""

    place: ActorLocation
    versions: dict[str, str]


@message
class RankEnd:
    """How one rank ended, in the verdict."""

    rank: int
    node_id: str
    role: str
    state: str


@message
class RunVerdict:
    """How a run ended, as it is left beside every table."""

    run_id: str
    ready: bool
    state: str
    error: str | None
    ended_at: float
    phases: dict[str, float]
    ranks: tuple[RankEnd, ...]
