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


def publish_table(table: TunedTable, root: Path | None) -> int:
    """Publish the entries that a store lacks, and return their number.

    Args:
        table: of this process' environment.
        root: the store's directory; None for FlashInfer's own.

    Raises:
        StoreError: the store holds something else than the table afterwards.
    """
    store = _store(root)
    written = 0
    for key, entry in table.entries.items():
        if store.lookup(key) is None:
            store.publish(key, entry.runner, thaw(entry.tactic), profiling_policy=entry.policy)
            written += 1
    missing = missing_entries(table, root)
    if missing:
        raise StoreError(f"{store.entries_dir} does not hold {len(missing)} of the table's entries: {missing[0]}")
    return written


def missing_entries(table: TunedTable, root: Path | None) -> tuple[str, ...]:
    """Return the keys that a store does not answer as the table does."""
    store = _store(root)
    return tuple(key for key, entry in table.entries.items() if not _is_equal(store.lookup(key), entry))


def _is_equal(found: Any, entry: Any) -> bool:
    return found is not None and (found.runner, thaw(found.tactic)) == (entry.runner, thaw(entry.tactic))


def _store(root: Path | None) -> Any:
    """A store of this environment without any memory of earlier looks."""
    from flashinfer.autotune_cache import ManagedAutotuneCache

    return ManagedAutotuneCache(manifest=metadata(), root=root)
