"""Leases of a run with a real engine: engines that start meanwhile see in the registry who makes their artifact."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

import ray

from ray_warmup.actors.registry.client import found_registry
from ray_warmup.actors.registry.registry_actor import BEAT_S
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.values import Asker, Lead

logger = logging.getLogger(__name__)


class EngineLeases:
    """Leases on the keys that one run records, kept by signs of life until the run is over.

    Without a registry nothing is leased. One that is started later hears the next sign of life.
    """

    def __init__(self, cache: CacheSection, progress: Callable[[], str]) -> None:
        """Hold nothing yet. `cache` names the registry's namespace, `progress` says what the run is at."""
        self._cache = cache
        self._progress = progress
        self._holder = Asker(ray.get_runtime_context().get_node_id(), os.getpid(), socket.gethostname())
        self._tokens: dict[str, str] = {}
        self._beating: asyncio.Task[None] | None = None

    def take(self, keys: Iterable[str]) -> None:
        """Begin to hold leases on these keys. A second call adds keys."""
        for key in keys:
            self._tokens.setdefault(key, "")
        if self._beating is None and self._tokens:
            self._beating = asyncio.ensure_future(self._beat())

    async def end(self) -> None:
        """Let the registry learn what the nodes hold now, then give the leases back."""
        if self._beating is None:
            return
        self._beating.cancel()
        actor = await asyncio.to_thread(found_registry, self._cache)
        if actor is None:
            return
        # First, because whoever waits starts cold once nobody makes the artifact.
        await actor.learn.remote()
        for key, token in self._tokens.items():
            actor.give_up.remote(key, token)

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(ray.exceptions.RayError):
                actor = await asyncio.to_thread(found_registry, self._cache)
                if actor is not None:
                    await self._tell(actor)
            await asyncio.sleep(BEAT_S)

    async def _tell(self, actor: Any) -> None:
        """Ask for leases that are not held yet, and give a sign of life for the others."""
        for key, token in self._tokens.items():
            if token:
                if not await actor.beat.remote(key, token, self._holder, self._progress()):
                    self._tokens[key] = ""  # lost in a silence, and asked for again
                continue
            answer = await actor.ask.remote(key, self._holder)
            if isinstance(answer, Lead):
                self._tokens[key] = answer.token
