"""Calls to the registry from a process that outlives it.

Ray starts a dead registry again, on another node if its own is gone, and it learns anew what the nodes hold. Until then
calls fail, so each is repeated for a while. None of them does harm twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray

from ray_warmup.actors.cluster.remote_errors import as_failure
from ray_warmup.actors.registry.client import registry
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.values import Answer, ArtifactFacts, Asker
from ray_warmup.warmup.tasks import TaskResult
from ray_warmup.warmup.time_limit import within

logger = logging.getLogger(__name__)

ANSWER_S = 45.0
"""For one answer of a registry that may have to ask the nodes first."""
AWAY_S = 60.0
"""A registry that is away for longer is given up. Ray takes 15 s to notice that a node is lost, then a start's time."""
SEND_S = 5.0
"""For Ray to find the registry that is told something."""
AGAIN_S = 0.5
"""Pause before a call is repeated."""


class RegistryCalls:
    """Calls of one process to its cluster's registry, which is started if there is none.

    Every method that waits for an answer raises RayError when the registry stays away for AWAY_S or does not answer
    within the call's limit, also behind a network that is cut. An answer that comes later is thrown away.
    """

    def __init__(self, cache: CacheSection, on_note: Callable[[str], None], away_s: float = AWAY_S) -> None:
        """Keep the arguments. `on_note` is told when the registry is away, once for each time."""
        self._cache = cache
        self._on_note = on_note
        self._away_s = away_s

    def ask(self, key: str, asker: Asker) -> Answer:
        """Ask where a key's artifact is."""
        answer: Answer = self._call("ask", ANSWER_S, key, asker)
        return answer

    def wait(self, key: str, limit_s: float) -> None:
        """Wait until anything is new about a key."""
        self._call("wait", limit_s + ANSWER_S, key, limit_s)

    def bytes_of(self, key: str, limit_s: float) -> list[Any]:
        """Return a reference to a key's archive in a list, or an empty list."""
        found: list[Any] = self._call("bytes_of", limit_s, key)
        return found

    def offer(self, facts: ArtifactFacts, archive: list[Any], node_id: str, token: str, limit_s: float) -> bool:
        """Hand over a finished artifact, whose bytes must live until this returns."""
        return bool(self._call("offer", limit_s, facts, archive, node_id, token))

    def beat(self, key: str, token: str, holder: Asker, progress: str) -> bool:
        """Keep a lease. Returns False if it has gone to somebody else."""
        return bool(self._call("beat", ANSWER_S, key, token, holder, progress))

    def finished(self, key: str, token: str, results: tuple[TaskResult, ...]) -> None:
        """Hand over finished tasks, for whoever leads next if this process dies."""
        self._call("finished", ANSWER_S, key, token, results)

    def notes(self, node_id: str, driver: str) -> tuple[str, ...]:
        """Return what differs between this process' config and the registry's, and between the nodes' drivers."""
        found: tuple[str, ...] = self._call("notes", ANSWER_S, self._cache.model_dump_json(), node_id, driver)
        return found

    def give_up(self, key: str, token: str) -> None:
        """Give a lease back, without waiting: one that does not arrive ends by its silence."""
        self._send("give_up", key, token)

    def installed(self, facts: ArtifactFacts, node_id: str) -> None:
        """Tell that a node holds an artifact, without waiting: a registry that misses it learns it from the node."""
        self._send("installed", facts, node_id)

    def _call(self, method: str, limit_s: float, *arguments: Any) -> Any:
        until: float | None = None
        while True:
            try:
                return self._answer(method, limit_s, *arguments)
            except ray.exceptions.RayActorError as error:
                now = time.monotonic()
                if until is None:
                    until = now + self._away_s
                    self._on_note(f"the registry is away, asked again for {self._away_s:g} s: {in_short(error)}")
                if now > until:
                    raise
                time.sleep(AGAIN_S)

    def _answer(self, method: str, limit_s: float, *arguments: Any) -> Any:
        """Ask once. Raises RayError, within the limit."""

        def ask() -> Any:
            return ray.get(getattr(registry(self._cache), method).remote(*arguments), timeout=limit_s)

        try:
            # In a thread, because Ray's search for the actor has no limit while the control service is out of reach.
            return within(limit_s, ask)
        except TimeoutError as error:
            raise ray.exceptions.GetTimeoutError(f"the registry did not answer within {limit_s:g} s") from error

    def _send(self, method: str, *arguments: Any) -> None:
        """Send a call whose answer nobody waits for. One that cannot be sent in time is left out."""
        try:
            within(SEND_S, lambda: getattr(registry(self._cache), method).remote(*arguments))
        except (ray.exceptions.RayError, TimeoutError) as error:
            logger.info("the registry was not told (%s): %s", method, in_short(error))


def in_short(error: Exception) -> str:
    """Return one line for an error of a call to the registry, without the traceback that Ray adds."""
    if isinstance(error, ray.exceptions.RayTaskError):
        failure = as_failure(error)
        return f"{failure.kind}: {failure.message.strip().partition(chr(10))[0]}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
