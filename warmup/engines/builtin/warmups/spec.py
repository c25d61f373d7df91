"""Definition of an engine warmup: gates, shapes, outputs, order and severity.

Frozen values and one protocol, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Literal, Protocol

from ray_warmup.configs.engine_warmups import DEFAULT_DEADLINES
from ray_warmup.configs.schema import EngineSection
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, ModelRunner
from ray_warmup.warmup.engines.builtin.runner.schedule import GrammarOutput, SchedulerOutput

Severity = Literal["required", "optional"]
"""A failed required warmup keeps the rank from being ready; a failed optional one is reported."""


class Stage(IntEnum):
    """When a warmup runs."""

    PREPARATION = 1
    """Input preparation and compilation."""
    AUTOTUNE = 2
    GRAPH_SENSITIVE = 3
    """After tuning, because tactics are baked into captured graphs; before capture."""
    SAMPLER = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """One thing to run: `tokens` in `requests`, in the warmup's own `kind`."""

    kind: str
    tokens: int
    requests: int = 0

    def __str__(self) -> str:
        return f"{self.kind}[tokens={self.tokens}" + (f",requests={self.requests}]" if self.requests else "]")


@dataclass(frozen=True, slots=True)
class Skip:
    """The reason for skipping a warmup.

    `warn` asks for a warning.
    """

    reason: str
    warn: bool = False


@dataclass(frozen=True, slots=True)
class TunedFile:
    """A file that a tuning warmup produced on the leader, to be merged into the artifact before the push."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Notes:
    """Results of running one shape."""

    warnings: tuple[str, ...] = ()
    consumed: frozenset[str] = frozenset()
    """Kinds of shapes that later warmups need not run again."""
    tuned: tuple[TunedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineWarmupOptions:
    """Options of one run of the warmups: the configuration, and what the run adds to it."""

    engine: EngineSection = field(default_factory=EngineSection)
    """Switches, widths and sizes as they were configured."""
    autotune: bool | None = None
    """Tuning switched on explicitly; the level's default does not count for the SM120 decode autotune."""
    left_out: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Names of warmups that are not tried again, and what they did the last time."""
    required: frozenset[str] | None = None
    """Names of warmups whose failure keeps the rank from being ready; None: each warmup's own severity."""
    deadlines: Mapping[str, float] = field(default_factory=lambda: DEFAULT_DEADLINES)
    """Seconds by name; a warmup without one may take what it takes."""
    decode_tune_path: str | None = None
    """Private file that the SM120 decode autotune may write, where FlashInfer's entry point takes a path."""


@dataclass(frozen=True, slots=True)
class WarmupContext:
    """One rank's surroundings."""

    runner: ModelRunner
    execute_model: Callable[[SchedulerOutput], Any]
    """The *worker's*: pipeline stages coordinate there."""
    sample_tokens: Callable[[GrammarOutput | None], Any]
    """The worker's."""
    synchronize: Callable[[], None]
    """Waits for the device."""
    options: EngineWarmupOptions = EngineWarmupOptions()
    is_leader: bool = True
    capability: tuple[int, int] | None = None
    """Compute capability of the device; None without CUDA."""
    consumed: frozenset[str] = frozenset()
    """Kinds of shapes that earlier warmups ran already."""


def severity_of(warmup: EngineWarmup, options: EngineWarmupOptions) -> Severity:
    """Return the severity of this warmup's failure."""
    if options.required is None:
        return warmup.severity
    if warmup.name in options.required:
        return "required"
    return "optional"


class EngineWarmup(Protocol):
    """One warmup. `run` is called once per shape, inside the envelope, and may raise."""

    name: str
    stage: Stage
    severity: Severity
    leaves: tuple[str, ...]
    """Lasting results, for example "Triton kernels". Everything else is restored."""
    uses: tuple[Capability, ...] = ()
    """Optional capabilities. Missing ones become warnings."""

    def gate(self, context: WarmupContext) -> Skip | None:
        """Return the reason for skipping, or None."""

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """Return the shapes to run, in order, at least one if the gate is open."""

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Run one shape."""


def gate_of(context: WarmupContext, warmup: EngineWarmup) -> Skip | None:
    """Return the reason for skipping a warmup, or None.

    A disabled warmup's gate is not called.
    """
    if warmup.name in context.options.engine.disabled:
        return Skip("disabled by engine.disabled")
    if warmup.name in context.options.left_out:
        return Skip(f"left out: {context.options.left_out[warmup.name]}", warn=True)
    return warmup.gate(context)
