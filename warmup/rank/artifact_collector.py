"""Collect the contents beside an artifact's table: modules, code compiled in a replay, and a tune's kernels.

A replay that fails costs only its contents, with a warning. `warmup/rank/fresh_replay.py` runs the replay, and
`warmup/caches/` reads each cache kind.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches.compiled_part import NodeKernelCaches
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.errors import LoadError
from ray_warmup.warmup.messages.answers import Warmed
from ray_warmup.warmup.messages.replays import FreshReplay
from ray_warmup.warmup.rank.fresh_replay import FreshProcess
from ray_warmup.warmup.rank.stored_tuning_kernels import StoredTuningKernels
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

TABLE_ALONE = "table"
"""Coverage without engine warmups."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """Parameters of replaying a table in another process.

    See `warmup/rank/fresh_replay.py`.
    """

    request: FreshReplay
    variables: Mapping[str, str]
    """The environment of that process."""
    timeout_s: float
    covers: str
    """Coverage of an artifact with everything that such a replay compiles, from `warmup/rank/rank_setup.py`."""


@dataclass(frozen=True, slots=True)
class CollectedContents:
    """Contents of an artifact beside its table."""

    contents: tuple[Content, ...]
    warnings: tuple[str, ...]
    covers: str = ""
    """Coverage of the replay, empty without one or if it failed."""


class ArtifactCollector:
    """Collector of one probed rank.

    `store` is None without a disk. `replay` is None if no kernels can be collected.
    """

    def __init__(
        self,
        tuner: Tuner,
        part: NodeKernelCaches,
        store: NodeStore | None,
        replay: ReplayPlan | None,
        kernels: StoredTuningKernels,
    ) -> None:
        self._tuner = tuner
        self._part = part
        self._store = store
        self._replay = replay
        self._kernels = kernels
        self._waiting: FreshProcess | None = None

    def is_covered_by(self, covers: str) -> bool:
        """Return True if an artifact with this coverage has everything that a replay here would compile."""
        if self._store is None or self._replay is None or not self._part.has_gpu:
            return True
        return covers == self._replay.covers or (self._replay.covers == TABLE_ALONE and covers != "")

    def collect(self, table: bytes, provider: Path | None) -> CollectedContents:
        """Modules, and what a fresh process needs to replay this table and to warm an engine.

        `provider`: the installed set of modules that this process uses.
        """
        if self._store is None:
            return CollectedContents((), ())
        if self._replay is None or not self._part.has_gpu:
            return CollectedContents(*self._part.collect(self._tuner.libraries(), None))
        kernels = self._kernels.stored()
        request = replace(
            self._replay.request,
            provider=None if provider is None else str(provider),
            triton_cache=str(self._part.environment.triton_cache),
        )
        try:
            with self._fresh_process(self._replay) as fresh:
                answer = fresh.replay(request, table, self._replay.timeout_s)
                logger.info("a fresh process replayed the table: %s", answer)
                contents, warnings = self._part.collect(
                    self._tuner.libraries(answer.modules), fresh.compute_cache, answer.triton_entries, kernels
                )
        except LoadError as error:
            contents, warnings = self._part.collect(self._tuner.libraries(), None, stored_kernels=kernels)
            return CollectedContents(contents, (f"the kernels of a replay are not shipped: {error}", *warnings))
        return CollectedContents(contents, (*warnings, *_not_shipped(answer.engine)), self._replay.covers)

    def expect(self) -> None:
        """`collect` will follow: what it needs a process for begins to import now. Does nothing the second time."""
        if self._store is None or self._replay is None or not self._part.has_gpu or self._waiting is not None:
            return
        try:
            self._waiting = FreshProcess(self._replay.request.factory, self._replay.variables)
        except LoadError as error:
            logger.info("tried again when the table is packed: %s", error)

    def close(self) -> None:
        """End the process that waits for a `collect`, if there is one."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _fresh_process(self, replay: ReplayPlan) -> FreshProcess:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.is_alive:
            return waiting
        if waiting is not None:
            waiting.close()
        return FreshProcess(replay.request.factory, replay.variables)


def _not_shipped(engine: Warmed | None) -> tuple[str, ...]:
    """Warnings about engine warmups that did not run to their end, so that other nodes may have to compile for them."""
    if engine is None:
        return ()
    broken = [f"{one.name}: {one.reason}" for one in engine.report.outcomes if one.state == "failed"]
    if engine.report.reason and not broken:
        broken = [*engine.warnings]
    return tuple(f"not all that an engine compiles is shipped: {line}" for line in broken)
