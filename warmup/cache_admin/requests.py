"""A cache command's request and its answer, as values that travel between the command line and a cluster's nodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import JsonValue

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.cache_admin.diff import Difference
from ray_warmup.warmup.cache_admin.quarantining import StoreBans
from ray_warmup.warmup.cache_admin.removals import Removal
from ray_warmup.warmup.cache_admin.retiming import Retimed
from ray_warmup.warmup.cache_admin.signing import Signed
from ray_warmup.warmup.cache_admin.store_changes import PruneResult, Rollback
from ray_warmup.warmup.cache_admin.store_inspection import Explanation, StoreRow
from ray_warmup.warmup.cache_admin.store_verification import Verification
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """Arguments of a cache command. Each command reads those that its function names."""

    cache: CacheSection = field(default_factory=CacheSection)
    """Directories and modes, as a config has them. What it leaves open is resolved on the node that answers."""
    root: str | None = None
    """Wins over `cache.root`."""
    override_dir: str | None = None
    """Wins over `cache.override_dir`."""
    config: str | None = None
    """A whole config as `text_of_config` writes it, for commands about a config's key."""
    if_present: bool = False
    """Answer None instead of an error where nothing of the kind is stored."""
    key: str = ""
    """First digits of the key."""
    rank: int | None = None
    backend: str | None = None
    factory: str = FLASHINFER_TUNER
    retime: int = 0
    """Number of entries to measure again."""
    old: int | None = None
    new: int | None = None
    generation: int | None = None
    file: str | None = None
    oci: bool = False
    """Export to an OCI image layout: `file` is its directory."""
    data: Blob | None = None
    """Bytes of an archive, in place of `file`."""
    force: bool = False
    by: str = "cache import"
    """Command that an import is done for, as people know it."""
    keep: int | None = None
    older_than_days: float | None = None
    max_bytes: int | None = None
    other_versions: bool = False
    yes: bool = False
    plan: bool = False
    """Only plan a rollback."""
    op: str = ""
    runner: str = ""
    tactic: str = ""


@dataclass(frozen=True, slots=True)
class RetimedTable:
    """Entries of a table that were measured again."""

    path: str
    entries: int
    """Number of entries that differ from the default."""
    drifted: int
    rows: tuple[Retimed, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """An archive that was written to a file or kept as bytes."""

    store: str
    bytes: int
    file: str | None = None
    data: Blob | None = None
    """Content of the archive where no file was named. It is in no JSON."""


@dataclass(frozen=True, slots=True)
class Imported:
    """An archive that was published in a store."""

    path: str
    generation: int
    bytes: int
    files: tuple[str, ...]
    placed: dict[str, int]
    """Cache kind -> files that were written for engines."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """A plan for pruning, and its outcome if it was carried out."""

    plan: tuple[Removal, ...]
    done: PruneResult | None = None
    untouched: tuple[str, ...] = ()
    """Stores that were left alone, each with the reason."""


Result = (
    tuple[StoreRow, ...]
    | tuple[Verification, ...]
    | tuple[StoreBans, ...]
    | RetimedTable
    | Explanation
    | Difference
    | Exported
    | Imported
    | Pruned
    | Rollback
    | Signed
)
"""The result of a command; None where a node stores nothing of the kind."""


@dataclass(frozen=True, slots=True)
class CacheAnswer:
    """Answer of one node to one command."""

    command: str
    ok: bool
    result: Result | None = None
    where: str = ""
    """Directory that was searched."""
    error: str = ""
    """Reason for a failure of ours, or empty."""

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        head: dict[str, JsonValue] = {"command": self.command, "ok": self.ok}
        if self.error:
            return head | {"error": self.error}
        where = {"where": self.where} if self.where else {}
        return head | {"result": plain(self.result)} | where


def plain(result: Result | None) -> Any:
    """Return a result as plain JSON values."""
    if result is None:
        return None
    if isinstance(result, tuple):
        return [asdict(row) for row in result]
    document = asdict(result)
    document.pop("data", None)
    return document
