"""A table that an operator put in place is the last word on its node: the verdict of the run before gives way."""

from __future__ import annotations

import time

from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict


def supersede_verdict(store: NodeStore, table_sha256: str, by: str) -> None:
    """Replace an ended run's verdict that names another table, or none, by one that names this table.

    Without a verdict the table needs none. A run under way writes its own. Raises StoreError.
    """
    verdict = store.load_verdict()
    if verdict is None or verdict.run_state == "running" or not table_sha256:
        return
    if verdict.ready and verdict.table_sha256 in ("", table_sha256):
        return
    store.save_verdict(StoredVerdict(by, ready=True, ended_at=time.time(), state="ready", table_sha256=table_sha256))
