"""The artifact's way through Ray's object store when that is too small for it, and when an object is lost."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import pytest

from ray_warmup.actors.cluster.transfer import BlobRefs, Refs, buffer, fetch
from ray_warmup.actors.errors import TransferError
from tests.testbed import Case, Node

pytestmark = pytest.mark.cluster

SIZES_MB = {"a": 60, "b": 100, "c": 160}
"""The stores have 150 MB: no two of them fit together, and the last one does not fit at all."""


class Packer:
    """A rank that packed an artifact."""

    def blob(self, name: str) -> Any:
        """Bytes that are told from others by their name."""
        return buffer(name.encode() * (SIZES_MB[name] << 20))


class Taker:
    """The rank of another node that installs it."""

    def digests(self, refs: Refs) -> dict[str, str]:
        """Of what arrived."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in fetch(refs).items()}


def on(node: Node, kind: type[Any]) -> Any:
    """An actor on this node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pin = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=pin).remote()


@pytest.mark.filterwarnings("ignore:`free` is a deprecated API:DeprecationWarning")
def test_an_artifact_larger_than_the_store_arrives_and_a_lost_one_is_named(case: Case) -> None:
    """Blobs that are spilled, and one that no store could hold, arrive whole; a lost one is a TransferError at once."""
    import ray
    from ray._private.internal_api import free

    packer, taker = on(case.bed.nodes[0], Packer), on(case.bed.nodes[1], Taker)
    try:
        blob_refs = BlobRefs()
        asyncio.run(blob_refs.adopt(packer, list(SIZES_MB)))
        got = [ray.get(taker.digests.remote(blob_refs.refs([name])), timeout=60) for name in SIZES_MB]
        assert got == [
            {name: hashlib.sha256(name.encode() * (size << 20)).hexdigest()} for name, size in SIZES_MB.items()
        ]
        refs = blob_refs.refs(["a"])
        free([ref for _, ref in refs])
        began = time.monotonic()
        with pytest.raises(TransferError, match=r"1 blobs of the artifact did not arrive on this node .* run again"):
            ray.get(taker.digests.remote(refs), timeout=60)
        assert time.monotonic() - began < 10
    finally:
        for actor in (packer, taker):
            ray.kill(actor)
