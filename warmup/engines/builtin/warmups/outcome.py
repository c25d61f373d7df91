"""Outcomes of one rank's engine warmups. Frozen values with a JSON form."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from ray_warmup.warmup.engines.builtin.warmups.spec import TunedFile
from ray_warmup.warmup.report import EngineWarmupEntry


@dataclass(frozen=True, slots=True)
class EngineWarmupReport:
    """All warmups of one rank."""

    outcomes: tuple[EngineWarmupEntry, ...]
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

    def outcome(self, name: str) -> EngineWarmupEntry:
        """Return the outcome of one warmup.

        Raises KeyError if it is not in the report.
        """
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise KeyError(f"no engine warmup {name!r} in this report")

    def to_json(self) -> dict[str, JsonValue]:
        """Return plain JSON values, with tuned files by name and size."""
        return {
            "ready": self.ready,
            "outcomes": [outcome.model_dump(mode="json") for outcome in self.outcomes],
            "tuned": [{"name": file.name, "bytes": len(file.content)} for file in self.tuned],
            "warnings": list(self.warnings),
        }
