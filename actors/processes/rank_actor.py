"""A rank's process as a Ray actor. `rank_group.py` wraps it by `ray.remote`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ray_warmup.actors.processes.process_actor import Answering, ProcessActor, Work
from ray_warmup.configs import ConfigError, WarmupConfig, env
from ray_warmup.configs.loader import config_of_text
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.device.factory import load_factory
from ray_warmup.warmup.errors import StoreError, TuningError
from ray_warmup.warmup.messages.answers import Answer
from ray_warmup.warmup.messages.questions import Question
from ray_warmup.warmup.messages.wire import QUESTIONS
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.store.node_paths import flashinfer_environment, resolve_paths

if TYPE_CHECKING:
    from ray_warmup.warmup.rank.process import RankProcess

logger = logging.getLogger(__name__)


class RankActor(ProcessActor):
    """One rank's process."""

    questions = QUESTIONS

    def __init__(self, bundle_index: int, work: Work) -> None:
        super().__init__(bundle_index, work)
        self._config = config_of_text(work.config)
        # The imports take seconds: they run while other actors are still being placed.
        threading.Thread(target=import_early, args=(self._config, work.tuner), daemon=True).start()

    def make(self, info: RankInfo) -> Answering:
        """Make the rank."""
        from ray_warmup.warmup.rank.process import RankProcess  # here, because the coordinator imports this module, too

        work = self._work
        return _Rank(
            RankProcess(
                info,
                self._config,
                work.backend,
                lambda device, options: load_factory(work.tuner)(device, options),  # awaited in PROBING
                work.run_id,
                work.tuner,
            )
        )


class _Rank:
    """A rank that finds the method for each question."""

    def __init__(self, process: RankProcess) -> None:
        self._process = process
        self.blob, self.status, self.close = process.blob, process.status, process.close

    def wanted(self, question: Question, digests: Sequence[str]) -> Sequence[str]:
        """Return those blobs of a question's artifact that the rank fetches."""
        return self._process.wanted(question, digests)

    def answer(self, question: Question, blobs: Mapping[str, Blob]) -> Answer:
        """Answer a question."""
        from ray_warmup.warmup.rank.answering import answer

        return answer(self._process, question, blobs)


def import_early(config: WarmupConfig, tuner: str) -> None:
    """Begin the imports of PROBING, which waits for them. A failure repeats there and is reported then."""
    if not config.autotune.is_enabled:
        return
    try:
        env.export(flashinfer_environment(resolve_paths(config.cache)))
        load_factory(tuner)
    except (ImportError, AttributeError, OSError, RuntimeError, ConfigError, StoreError, TuningError) as error:
        logger.info("early import of %s: %s", tuner, error)
