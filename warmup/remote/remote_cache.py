"""A run's use of the remote store: asked after the node's own store, filled at the end of a good run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.remote import exchange
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.store.node_store import Check, Lookup, NodeStore

logger = logging.getLogger(__name__)


def nothing_to_note(artifact: str) -> None:
    """Do nothing about an artifact that was taken."""


def is_guarded(manifest: Manifest) -> bool:
    """Return True for a table that the guard has checked."""
    return manifest.guard.guarded


@dataclass(frozen=True, slots=True)
class RemoteCache:
    """The remote store of one configuration, for one class on one node."""

    cache: CacheSection
    store: NodeStore
    key: Mapping[str, str]
    """Parts of the class key."""
    may_leave: Callable[[Manifest], bool] = is_guarded
    """Whether an artifact may be shared."""
    on_taken: Callable[[str], None] = nothing_to_note
    """Told the digest of what was taken into the node's store. May raise StoreError."""

    def lookup(self, check: Check, *, asks: bool) -> tuple[Lookup, str | None]:
        """Look the key up on this node, then in the remote store if it may be asked. Returns a warning, too."""
        found = self.store.lookup(self.key, check=check)
        if found.hit or not asks or self._location() is None:
            return found, None
        warning = self.fetch()
        return self.store.lookup(self.key, check=check), warning

    def fetch(self) -> str | None:
        """Take the newest artifact of this key into the node's store. Returns a warning, or None."""
        location = self._location()
        if location is None:
            return None
        try:
            done = exchange.fetch(self.store, location, self.key, self.cache.remote_timeout)
        except ConfigError as error:
            return str(error)
        if done.artifact:
            try:
                self.on_taken(done.artifact)
            except StoreError as error:
                return str(error)
            logger.info(
                "took artifact %s from %s: %d blobs, %d bytes, %.1f s",
                done.artifact[:12],
                location.url,
                done.blobs,
                done.bytes,
                done.seconds,
            )
            return None
        logger.info("%s", done.reason)
        if not done.is_trouble:
            return None
        return done.reason

    def share(self) -> str | None:
        """Write this node's current artifact into the remote store, if it may leave. Returns a warning, or None."""
        location = self._location()
        if location is None:
            return None
        try:
            artifact, lease = self.store.load_artifact()
            try:
                if not self.may_leave(artifact.manifest):
                    return None
                done = exchange.share(artifact, location, self.cache.remote_timeout)
            finally:
                lease.release()
        except (WarmupError, ConfigError) as error:
            return f"the artifact is not in the remote store: {error}"
        logger.info("wrote artifact %s to %s: %d bytes", artifact.digest[:12], location.url, done.bytes)
        return None

    def _location(self) -> RemoteLocation | None:
        if self.cache.remote is None or not self.cache.persistent:
            return None
        return RemoteLocation(self.cache.remote, self.cache.remote_timeout / 3)
