"""What runs leave on a node for those who ask: tables, verdicts, rows of the index, made by hand for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_warmup.configs import WarmupConfig
from ray_warmup.warmup.artifact.artifact import table_content
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.manifest import GuardSummary
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.rank.forecast import foretell, index_of
from ray_warmup.warmup.store.node_index import Written, host_name
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict
from tests.artifacts import make_artifact


@dataclass(frozen=True)
class Place:
    """One class of a config on this node, as its ranks see it."""

    config: WarmupConfig
    key: CacheKey
    store: NodeStore

    def publish(self, number: int = 1, *, guarded: bool = True) -> str:
        """Put a table there; returns its bytes' sha256."""
        parts = self.key.as_dict()
        metadata = {name: parts[name] for name in METADATA_FIELDS}
        entries = {"('gemm', 'Direct', ((8, 64), (64, 32)), ())": Entry("Direct", number)}
        table = TunedTable(metadata, entries, {}).to_bytes()
        guard = GuardSummary("guarded" if guarded else "unguarded", {"kept": 1})
        key: dict[str, Any] = {"key": parts, "key_sha256": self.key.sha256}
        self.store.publish(make_artifact(contents=[table_content(table)], created_at=float(number), guard=guard, **key))
        return hashlib.sha256(table).hexdigest()

    def conclude(self, ready: bool, run_id: str = "run-1", **also: Any) -> None:
        """Leave a verdict."""
        error = None if ready else "it broke"
        self.store.save_verdict(StoredVerdict(run_id, ready, 5.0, error, **also))

    def note(self, ranks: Sequence[int], run_id: str = "run-1", host: str | None = None, **also: Any) -> None:
        """Leave a row of the index."""
        row = {"foretold": (), "table_sha256": None, "began_at": 1.0} | also
        row |= {"run_id": run_id, "host": host or host_name(), "ranks": tuple(ranks), "key": self.key.parts}
        index_of(self.config, resolve_paths(self.config.cache)).write(Written(**row))


def place_of(config: WarmupConfig, rank: int, **other_parts: str) -> Place:
    """That of a rank's class; `other_parts` are found by the ranks and not by a forecast."""
    told = foretell(config, rank)
    key = CacheKey(tuple((name, other_parts.get(name, value)) for name, value in told.key.parts))
    return Place(config, key, NodeStore(Path(told.directory_of(key))))
