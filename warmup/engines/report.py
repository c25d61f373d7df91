"""Report of a run of a real engine: one row a node, ready only where every node's proof holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import JsonValue

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class KindReport:
    """One cache kind on one node."""

    kind: str
    recorded: int
    """Entries of the artifact."""
    placed: int
    found: int
    compiled: int
    """In the proof start; 0 where the proof holds."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node of the run."""

    node_id: str
    address: str
    role: str
    """`recorded` here, `installed` from another node, or `found` already there."""
    key_sha256: str
    kinds: tuple[KindReport, ...]
    engine_s: float
    """Seconds in which the proof start made its engine."""
    first_answer_s: float
    problems: tuple[str, ...]
    """Reasons why the proof does not hold, or empty."""
    notes: tuple[str, ...] = ()
    """Parts that could not be proven, with the reason."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One run."""

    run_id: str
    config: dict[str, JsonValue]
    """The request, without secrets."""
    phases: dict[str, float]
    """Phase -> seconds."""
    nodes: tuple[NodeReport, ...] = ()
    recorded_engine_s: float | None = None
    """Seconds in which the recorded start made its engine, with empty caches; None where nothing was recorded."""
    error: str | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def ready(self) -> bool:
        """Return True if every node of the run has proven its artifact."""
        return self.error is None and bool(self.nodes) and not any(node.problems for node in self.nodes)

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {**asdict(self), "ready": self.ready}
