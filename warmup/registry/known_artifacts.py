"""Known artifacts of a cluster, by key: the newest, and the nodes that hold it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ray_warmup.warmup.registry.values import ArtifactFacts


@dataclass(slots=True)
class _Entry:
    facts: ArtifactFacts
    nodes: set[str] = field(default_factory=set)


class KnownArtifacts:
    """The newest artifact of each key."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._unproven: dict[str, dict[str, str]] = {}
        """Key -> node -> digest of what a serving engine has left there."""

    def learn(self, facts: ArtifactFacts, node_id: str | None) -> bool:
        """Take note of an artifact, on a node or in the registry alone. Returns True if it is the newest of its key.

        One that nobody has proven is noted and never the newest.
        """
        if not facts.is_proven:
            if node_id is not None:
                self._unproven.setdefault(facts.key_sha256, {})[node_id] = facts.digest
            return False
        self._forget_unproven(facts.key_sha256, node_id)
        entry = self._entries.get(facts.key_sha256)
        if entry is None or facts.age_order > entry.facts.age_order:
            entry = self._entries[facts.key_sha256] = _Entry(facts)
        if entry.facts.digest != facts.digest:
            return False
        if node_id is not None:
            entry.nodes.add(node_id)
        return True

    def newest(self, key: str) -> ArtifactFacts | None:
        """Return the newest artifact of a key, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        return entry.facts

    def unproven_on(self, key: str) -> tuple[str, ...]:
        """Return the nodes on which an unproven artifact of a key lies."""
        return tuple(sorted(self._unproven.get(key, {})))

    def nodes_with(self, key: str) -> tuple[str, ...]:
        """Return the nodes that hold the newest artifact of a key."""
        entry = self._entries.get(key)
        if entry is None:
            return ()
        return tuple(sorted(entry.nodes))

    def lose(self, key: str, node_id: str) -> None:
        """A node does not hold a key's artifact any more."""
        if key in self._entries:
            self._entries[key].nodes.discard(node_id)

    def forget(self, key: str) -> None:
        """An artifact is nowhere any more."""
        self._entries.pop(key, None)

    def forget_node(self, node_id: str) -> None:
        """A node is lost, with what it held."""
        for entry in self._entries.values():
            entry.nodes.discard(node_id)
        for key in tuple(self._unproven):
            self._forget_unproven(key, node_id)

    def keys(self) -> Iterable[str]:
        """Every key of which anything is known."""
        return tuple({**self._entries, **self._unproven})

    def _forget_unproven(self, key: str, node_id: str | None) -> None:
        """A node's store has another artifact of a key now, or the same one with a proof."""
        nodes = self._unproven.get(key, {})
        if node_id is not None:
            nodes.pop(node_id, None)
        if not nodes:
            self._unproven.pop(key, None)
