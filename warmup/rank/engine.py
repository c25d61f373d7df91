"""The engine warmups of one rank: whether they run here, what they said, and what the checking requests met.

The engine is imported when a warmup is asked for, or planned, which needs no torch: most starts need neither.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.messages.answers import EngineTuned, Warmed
from ray_warmup.warmup.messages.values import TextFile
from ray_warmup.warmup.report import EngineReport

if TYPE_CHECKING:
    from ray_warmup.warmup.engines.builtin.warmups.builtin_engine import BuiltinEngine
    from ray_warmup.warmup.engines.builtin.warmups.outcome import EngineWarmupReport
    from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmup, WarmupContext
    from ray_warmup.warmup.tasks import Workload

logger = logging.getLogger(__name__)

VERIFY = "verify"
"""Activity in the heartbeat while the check requests run."""
CPU_REASON = "on the cpu backend an engine compiles nothing (engine.enabled: true runs the warmups all the same)"


def off_reason(config: WarmupConfig, backend: str) -> str | None:
    """Return the reason why no engine warmup runs on this backend, or None."""
    if config.engine.enabled is False:
        return "engine.enabled is false"
    if config.engine.enabled is None and backend != "cuda":
        return CPU_REASON
    return None


@dataclass(frozen=True, slots=True)
class RankEngine:
    """One rank's engine.

    `announce` receives the name of each running warmup.
    """

    config: WarmupConfig
    dims: ModelDims
    rank: int
    backend: str
    announce: Callable[[str], None]

    def calls(self) -> tuple[Workload, ...]:
        """Return the FlashInfer calls of `warm`, whose modules are needed, or none if nothing runs."""
        if off_reason(self.config, self.backend) is not None:
            return ()
        from ray_warmup.warmup.engines.builtin.warmups.engine_outline import outline_of
        from ray_warmup.warmup.engines.builtin.warmups.runner_calls import runner_calls

        return runner_calls(outline_of(self.config, self.dims, self.rank, self.backend))

    def tunes(self, capability: tuple[int, int] | None) -> bool:
        """Return True if `tune` would tune on a device of this compute capability, by the gates alone."""
        if off_reason(self.config, self.backend) is not None:
            return False
        from ray_warmup.warmup.engines.builtin.warmups.spec import gate_of

        foreseen = foreseen_context(self.config, self.dims, self.rank, self.backend, capability)
        gates = [gate_of(foreseen, warmup) for warmup in tuning_warmups()]
        return None in gates

    def tune(self, scratch: Path, capability: tuple[int, int] | None) -> EngineTuned:
        """Run the warmups that tune, as the leader of a class.

        Args:
            scratch: an empty directory for the files that FlashInfer's entry points write.
            capability: of the device.

        Raises:
            EngineWarmupError: one that `engine.required` names failed.
        """
        from ray_warmup.warmup.errors import EngineWarmupError

        engine = self._engine(capability, decode_tune_path=str(scratch / "sparse_mla_decode.json"))
        try:
            if (shortage := engine.shortage()) is not None:
                return EngineTuned((), (f"sm120_decode: {shortage}",))
            self.announce("runner")
            report = engine.warm(tuning_warmups(), is_leader=True, announce=self.announce)
        finally:
            engine.close()
            gc.collect()
        if not report.ready:
            raise EngineWarmupError("; ".join(described(report).failed))
        return EngineTuned(tuple(TextFile(file.name, file.content.decode()) for file in report.tuned), report.warnings)

    def warm(self, left_out: Mapping[str, str]) -> Warmed:
        """Run the warmups, then the checking requests.

        Args:
            left_out: warmups that are not tried again on this rank, and why.
        """
        if (reason := off_reason(self.config, self.backend)) is not None:
            return nothing_ran(reason)
        engine, began = self._engine(), time.monotonic()
        try:
            if (shortage := engine.shortage()) is not None:
                return nothing_ran(shortage, warn=True)
            self.announce("runner")
            if (problem := self._unmade(engine)) is not None:
                return problem
            report, compiled = self._warmed(engine, left_out)
            answer = self._verified(engine, report, described(report, compiled))
        finally:
            engine.close()
            gc.collect()
        logger.info("rank %d: engine warmups and their check took %.2f s", self.rank, time.monotonic() - began)
        return answer

    def _unmade(self, engine: BuiltinEngine) -> Warmed | None:
        """The answer where the runner itself cannot be made, which is as bad as what now does not run."""
        try:
            engine.runner  # noqa: B018 - made on first use
        except Exception as error:  # the border: whatever a library raises is what the warmups need
            logger.exception("rank %d: the runner of the engine warmups cannot be made", self.rank)
            engine.synchronize()  # a device that is lost is another matter
            reason = f"the runner cannot be made: {type(error).__name__}: {error}"
            if not (required := self.config.engine.required):
                return nothing_ran(reason, warn=True)
            failed = f"{reason} ({', '.join(required)}: required by engine.required)"
            return replace(nothing_ran(reason), failed=(failed,))
        return None

    def _warmed(self, engine: BuiltinEngine, left_out: Mapping[str, str]) -> tuple[EngineWarmupReport, dict[str, int]]:
        """The warmups' report, and compilations by kind: none on a node that everything was shipped to."""
        from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor

        if self.config.engine.monitor == "off":
            return engine.warm(left_out=left_out, announce=self.announce), {}
        with CompilationMonitor("count") as monitor:
            report = engine.warm(left_out=left_out, announce=self.announce)
        return report, monitor.report().compiled

    def _verified(self, engine: BuiltinEngine, report: EngineWarmupReport, warmed: Warmed) -> Warmed:
        """Serve the check requests and add their result.

        A failed request, or a compilation under `raise`, fails the rank.
        """
        settings = self.config.engine
        if settings.monitor == "off" or not settings.verify_requests or not report.ready:
            return warmed
        from ray_warmup.warmup.engines.builtin.warmups.verify import verify
        from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor

        self.announce(VERIFY)
        found = verify(engine.context(), settings.verify_requests, CompilationMonitor(settings.monitor))
        warnings, failed = list(warmed.warnings), list(warmed.failed)
        if found.error:
            failed.append(f"{found.requests} checking requests (engine.verify_requests): {found.error}")
        elif not found.is_clean:
            built, loaded = sum(found.compiled.values()), sum(found.loaded.values())
            warnings.append(
                f"{built} kernels were compiled and {loaded} loaded from disk by requests after the warmups, first: "
                f"{found.events[0]}"
            )
        checked = warmed.report.model_copy(update={"verification": found})
        return Warmed(checked, tuple(warnings), tuple(failed))

    def _engine(self, capability: tuple[int, int] | None = None, decode_tune_path: str | None = None) -> BuiltinEngine:
        from ray_warmup.warmup.engines.builtin.warmups.builtin_engine import BuiltinEngine
        from ray_warmup.warmup.engines.builtin.warmups.engine_outline import engine_options, outline_of

        options = replace(engine_options(self.config), decode_tune_path=decode_tune_path)
        return BuiltinEngine(outline_of(self.config, self.dims, self.rank, self.backend), options, capability)


def predicted(
    config: WarmupConfig, dims: ModelDims, rank: int, backend: str, capability: tuple[int, int] | None
) -> dict[str, str]:
    """Predict the outcome of each warmup from its gate, without torch: name -> "runs" or the reason for skipping.

    Facts of the device, such as its free memory, are not known yet.
    """
    from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
    from ray_warmup.warmup.engines.builtin.warmups.spec import gate_of

    if (reason := off_reason(config, backend)) is not None:
        return {warmup.name: f"skipped: {reason}" for warmup in ENGINE_WARMUPS}
    context = foreseen_context(config, dims, rank, backend, capability)
    outcomes = {}
    for warmup in ENGINE_WARMUPS:
        skip = gate_of(context, warmup)
        outcomes[warmup.name] = "runs"
        if skip is not None:
            outcomes[warmup.name] = f"skipped: {skip.reason}"
    return outcomes


def foreseen_context(
    config: WarmupConfig, dims: ModelDims, rank: int, backend: str, capability: tuple[int, int] | None
) -> WarmupContext:
    """Return the context for a gate before there is a runner."""
    from ray_warmup.warmup.engines.builtin.warmups.engine_outline import OutlinedRunner, engine_options, outline_of
    from ray_warmup.warmup.engines.builtin.warmups.spec import WarmupContext

    runner: Any = OutlinedRunner(outline_of(config, dims, rank, backend))
    return WarmupContext(runner, _never, _never, _never, engine_options(config), capability=capability)


def tuning_warmups() -> tuple[EngineWarmup, ...]:
    """The warmups whose results are part of the artifact."""
    from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
    from ray_warmup.warmup.engines.builtin.warmups.spec import Stage

    return tuple(warmup for warmup in ENGINE_WARMUPS if warmup.stage is Stage.AUTOTUNE)


def _never(*arguments: Any) -> None:
    raise AssertionError("a gate runs nothing")


def nothing_ran(reason: str, *, warn: bool = False) -> Warmed:
    """The answer of a rank that runs none of them."""
    if warn:
        return Warmed(EngineReport(reason=reason), (f"no engine warmup ran: {reason}",))
    return Warmed(EngineReport(reason=reason))


def described(report: EngineWarmupReport, compiled: Mapping[str, int] | None = None) -> Warmed:
    """Return the warmups' outcomes.

    `compiled` counts compilations during the warmups, by kind.
    """
    failed: list[str] = []
    for outcome in report.outcomes:
        if outcome.blocks_readiness:
            failed.append(f"{outcome.name}: {outcome.reason} (required by engine.required)")
    told = EngineReport(outcomes=report.outcomes, compiled=dict(compiled or {}))
    return Warmed(told, report.warnings, tuple(failed))
