"""FlashInfer's managed store of `autotune_v2`: entries of a table published where a process on one GPU looks.

The store keeps one file per key below a hash of its environment, so a table of another environment is never found.
FlashInfer's own entries are left alone. Written for FlashInfer 0.7.2.post1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_warmup.warmup.artifact.table import TunedTable, thaw
from ray_warmup.warmup.device.autotuner_seams import metadata
from ray_warmup.warmup.errors import StoreError


def publish_table(table: TunedTable, root: Path | None) -> tuple[str, ...]:
    """Publish the entries that a store lacks, and return the keys for which it has another entry.

    Args:
        table: of this process' environment.
        root: the store's directory; None for FlashInfer's own.

    Raises:
        StoreError: an entry is not there afterwards.
    """
    store = _store(root)
    for key, entry in table.entries.items():
        if store.lookup(key) is None:
            store.publish(key, entry.runner, thaw(entry.tactic), profiling_policy=entry.policy)
    store, others = _store(root), list[str]()
    for key, entry in table.entries.items():
        found = store.lookup(key)
        if found is None:
            raise StoreError(f"{store.entries_dir} does not take the table's entries: {key} is not there")
        if (found.runner, thaw(found.tactic)) != (entry.runner, thaw(entry.tactic)):
            others.append(key)
    return tuple(others)


def _store(root: Path | None) -> Any:
    """A store of this environment without any memory of earlier looks."""
    from flashinfer.autotune_cache import ManagedAutotuneCache

    return ManagedAutotuneCache(manifest=metadata(), root=root)
