"""Outcomes of one rank's engine warmups. Frozen values with a JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ray_warmup.warmup.engines.builtin.warmups.spec import Severity, TunedFile

State = Literal["done", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class WarmupOutcome:
    """One warmup on one rank."""

    name: str
    state: State
    severity: Severity
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


@dataclass(frozen=True, slots=True)
class EngineWarmupReport:
    """All warmups of one rank."""

    outcomes: tuple[WarmupOutcome, ...]
    tuned: tuple[TunedFile, ...] = ()
    """Files tuned by a leader, for the artifact."""
    fallbacks: tuple[str, ...] = ()
    """Layers of the built-in runner that ran in torch in place of their op, and why: the op's kernels are not warm."""

    @property
    def ready(self) -> bool:
        """Return True if every required warmup is done or was skipped with a reason."""
        return not any(outcome.blocks_readiness for outcome in self.outcomes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every layer in torch, every warning and every failure of an optional warmup, each with its name."""
        lines = list(self.fallbacks)
        for outcome in self.outcomes:
            lines.extend(f"{outcome.name}: {warning}" for warning in outcome.warnings)
            if outcome.state == "failed" and not outcome.blocks_readiness:
                lines.append(f"{outcome.name} failed (optional): {outcome.reason}")
        return tuple(lines)

    def outcome(self, name: str) -> WarmupOutcome:
        """Return the outcome of one warmup.

        Raises KeyError if it is not in the report.
        """
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise KeyError(f"no engine warmup {name!r} in this report")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with tuned files by name and size."""
        return {
            "ready": self.ready,
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
            "tuned": [{"name": file.name, "bytes": len(file.content)} for file in self.tuned],
            "warnings": list(self.warnings),
        }
