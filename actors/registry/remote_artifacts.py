"""The remote store as the registry asks it: what no node holds any more is known again, and handed out.

A store that does not answer costs an asker a moment: the question goes on without it, and its answer is there for the
next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from ray_warmup.actors.stores.artifacts import archive_of, facts_of
from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.registry.values import ArtifactFacts
from ray_warmup.warmup.remote import exchange
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.remote.remote_store import RemoteStore
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.time_limit import within

logger = logging.getLogger(__name__)

AGAIN_S = 60.0
"""A key that the store lacks is not asked for again so soon."""


@dataclass(frozen=True, slots=True)
class _Question:
    answer: asyncio.Task[ArtifactFacts | None]
    at: float


class RemoteArtifacts:
    """Artifacts of one remote store, by key. Nothing is known where the cache section names no store."""

    def __init__(self, cache: CacheSection) -> None:
        self._cache = cache
        self._questions: dict[str, _Question] = {}

    async def newest(self, key: str, limit_s: float) -> ArtifactFacts | None:
        """Return what the store has for a key, or None if it has nothing, or does not say so in time."""
        if self._cache.remote is None:
            return None
        asked = self._questions.get(key)
        if asked is None or time.monotonic() - asked.at > AGAIN_S:
            answer = asyncio.ensure_future(asyncio.to_thread(self._look, key))
            asked = self._questions[key] = _Question(answer, time.monotonic())
        done, _ = await asyncio.wait({asked.answer}, timeout=limit_s)
        if not done:
            return None
        return asked.answer.result()

    async def archive(self, facts: ArtifactFacts) -> bytes | None:
        """Return an artifact's archive, or None if the store does not give it, which counts as having nothing then."""
        if self._cache.remote is None:
            return None
        found = await asyncio.to_thread(self._fetch, facts)
        if found is None:  # or its asker would be told of it again and again
            self._questions[facts.key_sha256] = _Question(asyncio.ensure_future(_nothing()), time.monotonic())
        return found

    def forget(self, key: str) -> None:
        """Ask again for a key at the next question."""
        self._questions.pop(key, None)

    def _look(self, key: str) -> ArtifactFacts | None:
        def manifest() -> Manifest | None:
            return RemoteStore(self._location()).newest(key)

        try:
            found = within(self._cache.remote_timeout, manifest)
        except (WarmupError, ConfigError, OSError) as error:  # a limit that is reached is one of OSError's
            self._warn(key, error)
            return None
        if found is None:
            return None
        return facts_of(found)

    def _fetch(self, facts: ArtifactFacts) -> bytes | None:
        try:
            artifact = exchange.whole(self._location(), facts.key_sha256, self._cache.remote_timeout)
        except (WarmupError, ConfigError, OSError) as error:
            self._warn(facts.key_sha256, error)
            return None
        if artifact is None or artifact.digest != facts.digest:
            return None
        return archive_of(artifact)

    def _location(self) -> RemoteLocation:
        """Return the store's place, with this process trusting whom the section trusts. Raises ConfigError."""
        assert self._cache.remote is not None, "asked before"
        believe(self._cache)
        return RemoteLocation(self._cache.remote, self._cache.remote_timeout / 3)

    def _warn(self, key: str, error: Exception) -> None:
        reason = str(error) or f"no answer within {self._cache.remote_timeout:g} s"
        logger.warning(
            "key %s: nothing was taken from %s: %s -> look at cache.remote and at the store",
            key[:12],
            self._cache.remote,
            reason,
        )


async def _nothing() -> ArtifactFacts | None:
    return None
