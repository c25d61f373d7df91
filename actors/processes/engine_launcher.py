"""An engine's launcher as a Ray actor, which holds no GPU. `rank_group.py` wraps it by `ray.remote`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_warmup.actors.processes.process_actor import Answering, ProcessActor, Work
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.messages.wire import ENGINE_QUESTIONS
from ray_warmup.warmup.ranks import RankInfo

if TYPE_CHECKING:
    from ray_warmup.warmup.engines.start.starter import Starter

DEFAULT_MEMORY_SHARE = 0.9
"""Part of a GPU's memory that vLLM takes by default; SGLang takes about as much."""


class EngineLauncher(ProcessActor):
    """One replica's launcher, or a rank that watches."""

    questions = ENGINE_QUESTIONS

    def __init__(self, bundle_index: int, work: Work) -> None:
        super().__init__(bundle_index, work)
        self._config = EngineRunConfig.model_validate_json(work.config)

    def make(self, info: RankInfo) -> Answering:
        """Make the launcher."""
        from ray_warmup.warmup.engines.launcher.launcher import (
            Launcher,  # here, because the coordinator imports this, too
        )

        return Launcher(self._config, self._starter, self._process_starter)

    def _starter(self, bundles: tuple[int, ...]) -> Starter:
        """Choose how an engine starts on some bundles."""
        from ray_warmup.actors.processes.ray_starter import RayStarter

        if self._config.engine.workers == "ray":
            return RayStarter(bundles, self._work.environment)
        return self._process_starter(bundles)

    def _process_starter(self, bundles: tuple[int, ...]) -> Starter:
        """Choose how a child process starts on some bundles."""
        from ray_warmup.actors.processes.bundle_starter import BundleStarter
        from ray_warmup.warmup.engines.known_engines import adapter_of
        from ray_warmup.warmup.engines.start.child_process import ChildStarter

        cluster, section = self._config.cluster, self._config.engine
        if cluster.backend_beside_gpus != "cuda":
            return ChildStarter()
        share = section.args.get(adapter_of(section.kind).memory_share_argument)
        needed = share if isinstance(share, int | float) else DEFAULT_MEMORY_SHARE
        return BundleStarter(bundles, cluster.gpus_per_rank, needed)
