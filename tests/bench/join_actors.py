"""The actors of `bench_join.py`: one packs an artifact, one owns its blobs, the others join. None has a device."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ray_warmup.warmup.artifact.manifest import key_digest
from ray_warmup.warmup.messages.answers import Installed
from ray_warmup.warmup.messages.values import Header

KEY = {"benchmark": "join"}
KEY_SHA256 = key_digest(KEY.items())
NUM_BLOBS = 8


class Accepting:
    """Stands where a rank has its device: refuses no table, has no modules to put in place."""

    def check(self, table: bytes) -> str | None:
        """Every table will do."""

    def install(self, artifact: Any) -> Any:
        """The same for both ways, so left out."""
        return SimpleNamespace(counts=(), warnings=(), seconds={})


class Publisher:
    """The rank that packed the artifact."""

    def make(self, size: int, shared: str) -> Header:
        """Pack random bytes, publish them in the shared directory; the header that joining ranks get."""
        from ray_warmup.warmup.artifact.artifact import Content, pack, table_content
        from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
        from ray_warmup.warmup.artifact.manifest import UNGUARDED
        from ray_warmup.warmup.artifact.table import Entry, TunedTable
        from ray_warmup.warmup.rank.packing import header_of
        from ray_warmup.warmup.store.node_store import NodeStore

        entries = {"('gemm', 'Direct', ((8, 64), (64, 32)), ())": Entry("Direct", 1)}
        table = TunedTable(dict.fromkeys(METADATA_FIELDS, "1"), entries, {}).to_bytes()
        part = size // NUM_BLOBS
        modules = [Content("flashinfer_module", f"m{i}/m{i}.so", os.urandom(part)) for i in range(NUM_BLOBS)]
        origin = {"fingerprint": {}, "created_at": 1.0, "strategy": "leader", "guard": UNGUARDED}
        self._artifact = pack([table_content(table), *modules], key=KEY, key_sha256=KEY_SHA256, **cast(Any, origin))
        NodeStore(Path(shared)).publish(self._artifact)
        return header_of(self._artifact, table)

    def blob(self, digest: str) -> Any:
        """For the coordinator to take over."""
        from ray_warmup.actors.cluster.transfer import buffer

        return buffer(self._artifact.blobs[digest])

    def node(self) -> int:
        """The raylet of this node."""
        return os.getppid()


class Joiner:
    """The writer of a node that has nothing."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def pushed(self, header: Header, refs: Any) -> None:
        """Fetch what this node lacks, check it, publish it."""
        from ray_warmup.actors.cluster.transfer import fetch

        delivery = self._delivery()
        wanted = set(delivery.wanted([digest for digest, _ in refs]))
        self._done(delivery.install(header, fetch([pair for pair in refs if pair[0] in wanted])))

    def shared(self, header: Header, directory: str) -> int:
        """Read the artifact from the shared directory, check it, publish it; bytes that were read."""
        from ray_warmup.warmup.store.node_store import NodeStore

        before = bytes_read()
        artifact, lease = NodeStore(Path(directory)).load_artifact()
        count = bytes_read() - before
        lease.release()
        self._done(self._delivery().install(header, artifact.blobs))
        return count

    def forget(self) -> None:
        """Have nothing again."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def node(self) -> int:
        """The raylet of this node."""
        return os.getppid()

    def _delivery(self) -> Any:
        from ray_warmup.warmup.artifact.cache_key import CacheKey
        from ray_warmup.warmup.rank.delivery import ArtifactExchange
        from ray_warmup.warmup.store.node_store import NodeStore

        key = CacheKey(tuple(KEY.items()))
        rank, info, nothing = cast(Any, Accepting()), cast(Any, SimpleNamespace(node_id="")), cast(Any, None)
        return ArtifactExchange(info, rank, NodeStore(self._directory), key, nothing, (), rank)

    def _done(self, answer: Installed) -> None:
        if answer.degraded is not None:
            raise RuntimeError(answer.degraded)


class Coordinator:
    """Owns the blobs, as the coordinator of a run does."""

    async def push(self, publisher: Any, joiners: list[Any], header: Header) -> float:
        """Seconds from the packed artifact to the last node that has published it."""
        from ray_warmup.actors.cluster.transfer import BlobRefs

        began = time.perf_counter()
        blob_refs = BlobRefs()
        digests = header.digests
        await blob_refs.adopt(publisher, digests)
        await asyncio.gather(*[joiner.pushed.remote(header, blob_refs.refs(digests)) for joiner in joiners])
        return time.perf_counter() - began

    async def share(self, joiners: list[Any], header: Header, directory: str) -> tuple[float, int]:
        """Seconds and bytes for the same nodes reading one directory."""
        began = time.perf_counter()
        counts = await asyncio.gather(*[joiner.shared.remote(header, directory) for joiner in joiners])
        return time.perf_counter() - began, sum(counts)

    def node(self) -> int:
        """The raylet of this node."""
        return os.getppid()


def bytes_read() -> int:
    """What this process has read from files so far."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])
