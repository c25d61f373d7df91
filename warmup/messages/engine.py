"""Questions to the launcher of a real engine, and its answers. `EXPECTED` in `wire.py` pairs them."""

from __future__ import annotations

from typing import Literal

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.messages import allotting
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.tasks import Count, Duration, Note

Reach = Literal["home", "node"]
"""Difference between a proof start and the engine that compiled: another home on its node, or another node."""


@message
class KindCount:
    """Entries of one cache kind, of one rank of the engine where a rank is given."""

    kind: str
    count: Count
    rank: int = 0


@message
class EngineContent:
    """A recorded artifact in a node's store."""

    key_sha256: str
    """Digest of the engine's identity."""
    artifact: str
    """Digest of the manifest."""
    recorded: tuple[KindCount, ...]
    """Compilations of the recorded start, by rank and kind."""
    carried: tuple[KindCount, ...]
    """Entries of the artifact, by kind."""
    engine_s: Duration
    """Seconds in which the recorded start made its engine, with empty caches; 0 where no start was recorded."""
    is_offered: bool = False
    """A serving engine has left it, and nothing admits it on its node yet: engines get it after a proof start."""


@message
class KindProof:
    """One cache kind of one rank in a proof start."""

    rank: int
    kind: str
    placed: Count
    found: Count
    compiled: Count


@message
class EngineProven:
    """Result of a proof start.

    The proof holds if there are no problems.
    """

    artifact: str
    kinds: tuple[KindProof, ...]
    engine_s: Duration
    first_answer_s: Duration
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    completed: EngineContent | None = None
    """What the start would have proven, with what it compiled itself: on its node now, to be proven instead."""


@message
class DescribeNode:
    """PROBING: check engine and plugin, and look for an artifact of the request."""

    again: bool = False
    """What is found is not used."""


@message
class NodeDescribed:
    """A node, its engine, and what it holds for the request."""

    engine_version: str
    device: str
    """Name of the GPU; the processor's architecture without one."""
    driver: str
    identity: tuple[tuple[str, str], ...] = ()
    """As the engine of this node resolves the request."""
    digests: tuple[tuple[str, str], ...] = ()
    """(file, sha256) of the model's configuration, and of the resolved one."""
    content: EngineContent | None = None
    is_proven: bool = False
    """This very artifact was proven on this node, by this engine, on this device and driver."""
    proof: EngineProven | None = None
    reason: str = ""
    """Why nothing that is there may be used."""
    warnings: tuple[str, ...] = ()
    cannot_sign: str = ""
    """Why it could not sign what it captures although signatures are required; empty where it can, or need not."""


@message
class RecordEngine:
    """RECORDING: start the engine with empty caches, tune what it asks for, and let it answer the trial requests."""

    bundles: tuple[int, ...]
    """Bundles of the replica, in the order of its ranks."""


@message
class EngineRecorded:
    """An engine that was recorded and still runs."""

    engine_s: Duration
    first_answer_s: Duration
    requests: Count = 0
    """Of the engine's own FlashInfer calls that were recorded."""
    tasks: Count = 0
    """Of these requests that were tuned."""
    tasks_elsewhere: Count = 0
    """Of the tasks, those that other replicas measured."""
    notes: tuple[Note, ...] = ()
    """What a reader must know of the tuning: requests that keep their default, that no other replica measured, ..."""


@message
class CaptureEngine:
    """CAPTURING: end the engine, collect what its caches hold, and publish it on this node."""


@message
class PackEngine:
    """PUSHING: read an artifact of this node's store."""

    key_sha256: str


@message
class EnginePacked:
    """An artifact whose blobs this process hands over."""

    content: EngineContent
    header: Header


@message
class InstallEngine:
    """INSTALLING: check what was pushed and publish it on this node."""

    header: Header
    proven_by: str = ""
    """Who has proven it, in words; empty for nobody. What a serving engine has left is given to engines only then."""


@message
class EngineInstalled:
    """An artifact is in this node's store."""

    artifact: str


@message
class ProveEngine:
    """PROVING: start the engine in an empty home with what this node holds."""

    bundles: tuple[int, ...]
    artifact: str
    key_sha256: str
    reach: Reach = "home"


@message
class ShareEngine:
    """After READY: write a class's artifact of this node into the remote store. Asked of one launcher per class."""

    key_sha256: str


@message
class EngineShared:
    """Result of sharing."""

    problem: str | None = None
    """Why it is not in the remote store."""


EngineQuestion = (
    DescribeNode
    | RecordEngine
    | CaptureEngine
    | PackEngine
    | InstallEngine
    | ProveEngine
    | ShareEngine
    | allotting.AllotTasks
    | allotting.MeasureTasks
    | allotting.EndMeasuring
)
EngineAnswer = (
    NodeDescribed
    | EngineRecorded
    | EnginePacked
    | EngineInstalled
    | EngineProven
    | EngineShared
    | allotting.TasksAllotted
    | allotting.TasksMeasured
    | allotting.MeasuringEnded
)
