"""Compare a node's table for one class of ranks with the verdict of the last run.

| the table at the path | the verdict beside it | stands |
|---|---|---|
| guarded and whole | none: it was imported | ready |
| the one that the verdict names | ready | ready |
| another one, or none | ready | unknown, said |
| any | ready, nothing was tunable | ready |
| any | running | unknown; interrupted where the process that wrote so is known to be gone |
| guarded and whole, proven before | failed | ready with a warning, or failed where only the verdict is accepted |
| none, unguarded, damaged, or only of failed runs | failed | failed |

Proven is what was there before the run and had been ready: with a run, or imported.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from ray_warmup.configs.errors import clipped
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.manifest import Manifest, key_difference
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.rank.forecast import refusal_in, store_at
from ray_warmup.warmup.rank.locations import Location
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict

Accept = Literal["table", "verdict"]
"""Condition after a failed run: a whole and guarded table, or only the verdict of a ready run."""
Answer = Literal["ready", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class TableState:
    """One class on one node."""

    answer: Answer
    text: str
    """Reason why it is not ready, or a warning, or empty."""
    path: str
    """Of the table."""
    has_table: bool
    """True if a whole table is present, guarded if the configuration asks for that."""
    is_proven: bool = False
    """True if that table was ready before the last run."""
    run_id: str = ""
    """The last run's; empty where none left a verdict."""
    ended_at: float = 0.0
    is_running: bool = False
    """A run is said to be under way."""
    is_interrupted: bool = False
    """The run that is said to be under way is known to have no process any more."""


@dataclass(frozen=True, slots=True)
class _Served:
    sha256: str | None
    reason: str
    """Reason why no table would be served."""


def table_state_of(config: WarmupConfig, place: Location, accept: Accept = "table") -> TableState:
    """Read one class's table and verdict.

    A table that is not the committed one is restored if possible.
    """
    store = store_at(config.cache, place.directory)
    served = _served(store, place.key, needs_guard=config.guard.enabled)
    verdict = store.load_verdict()
    path, has_table = str(store.table_path), served.sha256 is not None
    if verdict is None:
        if has_table:
            return TableState("ready", "", path, has_table)
        return TableState("unknown", f"{path}: {served.reason}", path, has_table)
    answer, text, interrupted = _answer_of(path, served, verdict, accept)
    return TableState(
        answer,
        text,
        path,
        has_table,
        is_proven=_is_proven(served, verdict),
        run_id=verdict.run_id,
        ended_at=verdict.ended_at,
        is_running=verdict.run_state == "running",
        is_interrupted=interrupted,
    )


def _answer_of(path: str, served: _Served, verdict: StoredVerdict, accept: Accept) -> tuple[Answer, str, bool]:
    run, state = verdict.run_id, verdict.run_state
    if state == "running":
        gone = verdict.process is not None and verdict.process.is_gone
        what = "is under way, and has not ended on this node"
        if gone:
            what = "was interrupted: its process is gone"
        return "unknown", f"{path}: run {run} {what}", gone
    if state == "ready":
        named = verdict.table_sha256
        if named == "":
            named = served.sha256 or ""
        if named is None or (named and named == served.sha256):
            return "ready", "", False
        other = served.reason or "another one was put there since"
        return "unknown", f"{path}: not the table that run {run} ended with ({str(named)[:12]}): {other}", False
    error = (verdict.error or "without an error").splitlines()[0]
    failed = f"{path}: run {run} failed: {clipped(error, 400)}"
    if accept == "table" and _is_proven(served, verdict):
        return "ready", f"{failed}; the table of before is whole and serves (--accept verdict refuses it)", False
    return "failed", failed, False


def _is_proven(served: _Served, verdict: StoredVerdict) -> bool:
    """Return True if the table was ready before.

    A verdict without `proven_sha256` counts for any table.
    """
    return served.sha256 is not None and verdict.proven_sha256 in ("", served.sha256)


def _served(store: NodeStore, key: CacheKey, *, needs_guard: bool) -> _Served:
    """The table that an engine would open, if it is the committed one of this key. Sweeps nothing."""
    try:
        _, manifest = store.current()
        difference = key_difference(manifest, key.as_dict())
        if difference is not None:
            return _Served(None, f"it was made for another key: {difference}")
        if manifest.table is None:
            return _Served(None, "nothing was tunable")
        if _digest_of(store) != manifest.table.content_sha256:
            store.lookup(key.as_dict())  # puts it back
            _, manifest = store.current()
        return _checked(store, manifest, key, needs_guard=needs_guard)
    except FileNotFoundError:
        return _Served(None, "nothing is stored there")
    except (OSError, WarmupError) as error:
        return _Served(None, clipped(str(error), 400))


def _checked(store: NodeStore, manifest: Manifest, key: CacheKey, *, needs_guard: bool) -> _Served:
    digest = _digest_of(store)
    if manifest.table is None or digest != manifest.table.content_sha256:
        what = "is not the committed one"
        if digest is None:
            what = "is not there"
        return _Served(None, f"the file {what} and could not be put back")
    if (why := refusal_in(store, key, read_regular(store.table_path, MAX_TABLE_BYTES))) is not None:
        return _Served(None, f"the table is refused: {why}")
    if needs_guard and not manifest.guard.guarded:
        return _Served(None, "the table is unguarded, and guard.enabled asks for a guarded one")
    return _Served(digest, "")


def _digest_of(store: NodeStore) -> str | None:
    try:
        return hashlib.sha256(read_regular(store.table_path, MAX_TABLE_BYTES)).hexdigest()
    except FileNotFoundError:
        return None
