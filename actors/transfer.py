"""Artifacts in the object store: fetched from the rank that packed them, owned by the coordinator, read zero-copy.

What a rank puts dies with that rank, even where copies exist; what the coordinator puts does not. So the
coordinator fetches each blob once and puts it again, and hands references on: one transfer per node.
"""

from __future__ import annotations

import asyncio
import pickle  # PickleBuffer only: out-of-band bytes for ray.put, nothing is unpickled
from collections.abc import Mapping, Sequence
from typing import Any

import ray

Refs = list[tuple[str, Any]]
"""(digest, object reference); references inside a list are not resolved before the method runs."""


def buffer(data: bytes | memoryview) -> pickle.PickleBuffer:
    """Bytes as Ray ships them without a copy."""
    return pickle.PickleBuffer(data)


class Depot:
    """The artifacts of a run, one per class; lives in the coordinator."""

    def __init__(self) -> None:
        self._refs: dict[str, Refs] = {}

    async def adopt(self, actor: Any, key: str, digests: Sequence[str]) -> None:
        """Fetch blobs from the rank that packed them and own them here."""
        held: Refs = []
        for digest in digests:
            data = memoryview(await actor.blob.remote(digest))
            held.append((digest, await asyncio.to_thread(ray.put, buffer(data))))
        self._refs[key] = held

    def refs(self, key: str) -> Refs:
        """References to a class's blobs."""
        return self._refs[key]


def fetch(refs: Refs) -> Mapping[str, memoryview]:
    """In a rank: the blobs behind references, read-only views on this node's object store."""
    values = ray.get([ref for _, ref in refs])
    return {digest: memoryview(value) for (digest, _), value in zip(refs, values, strict=True)}
