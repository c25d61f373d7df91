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

from ray_warmup.actors.cluster.remote_errors import plain
from ray_warmup.actors.errors import TransferError

AT_ONCE = 8
"""Blobs fetched at a time: many are small, and each is a round trip."""
Refs = list[tuple[str, Any]]
"""(digest, object reference); references inside a list are not resolved before the method runs."""


def buffer(data: bytes | memoryview) -> pickle.PickleBuffer:
    """Bytes as Ray ships them without a copy."""
    return pickle.PickleBuffer(data)


class BlobRefs:
    """References to the run's blobs by digest, across artifacts.

    Lives in the coordinator.
    """

    def __init__(self) -> None:
        self._refs: dict[str, ray.ObjectRef] = {}

    async def adopt(self, actor: Any, digests: Sequence[str]) -> None:
        """Fetch those blobs that are not here yet from the rank that packed them, and own them."""
        # Artifacts of several classes share blobs, which are fetched once.
        lacking = [digest for digest in digests if digest not in self._refs]
        for first in range(0, len(lacking), AT_ONCE):
            await asyncio.gather(*(self._fetch(actor, digest) for digest in lacking[first : first + AT_ONCE]))

    def refs(self, digests: Sequence[str]) -> Refs:
        """References to blobs that were adopted."""
        return [(digest, self._refs[digest]) for digest in digests]

    async def _fetch(self, actor: Any, digest: str) -> None:
        data = memoryview(await actor.blob.remote(digest))
        # `ray.put` copies gigabytes into the object store and would stop the loop meanwhile.
        self._refs[digest] = await asyncio.to_thread(ray.put, buffer(data))


def fetch(refs: Refs) -> Mapping[str, memoryview]:
    """Fetch the blobs behind references in a rank, as read-only views on this node's object store. Raises
    TransferError."""
    try:
        values = ray.get([ref for _, ref in refs])
    except ray.exceptions.RayError as error:
        raise TransferError(
            f"{len(refs)} blobs of the artifact did not arrive on this node ({plain(str(error)).splitlines()[0]}); "
            "run again: what was measured is kept"
        ) from error
    return {digest: memoryview(value) for (digest, _), value in zip(refs, values, strict=True)}
