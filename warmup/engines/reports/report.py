"""Report of a run of a real engine: one row a node, ready only where every proof that was asked for holds."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import JsonValue

from ray_warmup.warmup.codec import decode, encode, message

SCHEMA_VERSION = 2
Proven = Literal["now", "before", "elsewhere", "off", "no"]
"""When a node's artifact was proven: in this run, by an earlier one, on another node of the class, not to be, not."""


@message
class KindReport:
    """One cache kind of one rank of the engine on one node. None where no proof start of this run counted it."""

    rank: int
    kind: str
    recorded: int
    """Compilations of the recorded start."""
    carried: int
    """Entries of the artifact, shared by all ranks."""
    placed: int | None = None
    found: int | None = None
    """Hits in the proof start. Of a kind whose loads nobody hears: entries that were there; new ones are `compiled`."""
    compiled: int | None = None
    """In the proof start; 0 where the proof holds."""


@message
class NodeReport:
    """One node of the run."""

    node_id: str
    address: str
    role: str
    """`recorded` here, `installed` from another node, or `found` already there; empty where it has nothing."""
    key_sha256: str
    kinds: tuple[KindReport, ...]
    proven: Proven
    engine_s: float | None
    """Seconds in which the proof start made its engine; None where none was made here."""
    first_answer_s: float | None
    problems: tuple[str, ...]
    """Reasons why the proof does not hold, or empty."""
    notes: tuple[str, ...] = ()
    """Parts that could not be proven, with the reason, and how far the proof of what an engine had left reaches."""


@message
class EngineReport:
    """One run."""

    run_id: str
    config: dict[str, JsonValue]
    """The request, without secrets."""
    phases: dict[str, float]
    """Phase -> seconds."""
    nodes: tuple[NodeReport, ...] = ()
    recorded_engine_s: float | None = None
    """Seconds in which the recorded start made its engine, with empty caches.

    None where no artifact is known, and where a serving engine has left it, whose caches need not have been empty.
    """
    error: str | None = None
    is_refused: bool = False
    """The request itself is wrong: the engine refuses it, or it is not covered."""
    warnings: tuple[str, ...] = ()
    recorded_requests: int = 0
    """FlashInfer calls of the engine's own that this run recorded."""
    tuned_tasks: int = 0
    """Tasks of these calls that this run tuned."""
    tuned_elsewhere: int = 0
    """Of these tasks, the ones that other replicas than the recorded one measured."""
    tuning_notes: tuple[str, ...] = ()
    """Calls that keep their default, that no other replica could measure, and what went wrong in tuning them."""
    schema_version: int = SCHEMA_VERSION

    @property
    def ready(self) -> bool:
        """Return True if every node holds the artifact, and every proof that was asked for holds."""
        return self.error is None and bool(self.nodes) and all(is_served(node) for node in self.nodes)

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {**encode(self), "ready": self.ready}

    @classmethod
    def from_text(cls, text: str) -> EngineReport:
        """Return the report that `to_json` wrote as text. Raises CorruptArtifactError."""
        document = json.loads(text)
        document.pop("ready", None)
        return decode(cls, document)


def is_served(node: NodeReport) -> bool:
    """Return True if a node holds the artifact and its proof, if one is asked for, holds."""
    return bool(node.role) and not node.problems and node.proven != "no"
