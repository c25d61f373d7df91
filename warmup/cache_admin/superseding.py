"""A table that an operator put in place is the last word on its node: the verdict of the run before gives way."""

from __future__ import annotations

import time

from ray_warmup.warmup.store.node_store import NodeStore


def supersede_verdict(store: NodeStore, table_sha256: str, by: str) -> None:
    """Where a verdict of a run that has ended names another table, or none, say that this one was put there.

    Without a verdict the table stands for itself; while a run is under way its own verdict follows. Raises StoreError.
    """
    verdict = store.load_verdict()
    if verdict is None or verdict.get("state") == "running" or not table_sha256:
        return
    if verdict["ready"] and verdict.get("table_sha256", table_sha256) == table_sha256:
        return
    said = {"run_id": by, "ready": True, "state": "ready", "error": None, "ended_at": time.time()}
    store.save_verdict(said | {"table_sha256": table_sha256})
