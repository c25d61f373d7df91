"""Values of a node store: its path and its answers. Without disk access."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.errors import StoreError


class StorePath:
    """Path of one cache key's store."""

    @staticmethod
    def of(root: Path | None, override: Path | None, flashinfer_version: str, arch: str, key_sha256: str) -> Path:
        """Return `<root>/flashinfer_autotune_cache/<version>/<arch>/<sha256>`, or `<override>/<sha256>`, with `~`
        expanded."""
        if override is not None:
            return override.expanduser() / key_sha256
        if root is None:
            raise StoreError("neither cache.root nor cache.override is set", setting="cache.root")
        return root.expanduser() / "flashinfer_autotune_cache" / flashinfer_version / arch / key_sha256


@dataclass(frozen=True, slots=True)
class Lookup:
    """A node's answer for one key."""

    hit: bool
    reason: str
    """Reason for a miss, or empty for a hit."""
    table: bytes | None = None
    """The table's checked bytes; None for a miss, and for a hit on "nothing was tunable"."""
    manifest: Manifest | None = None
    guarded: bool = False
    recorded_at: float = 0.0
    """When the table was made, seconds since the epoch."""
    generation: int = 0
    on_disk: bool = False
    """True if engines find this very table at its path."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """One publish on one node."""

    path: Path
    """The table's path; nothing lies there when nothing was tunable."""
    sha256: str
    """The table's digest; empty without a table."""
    bytes: int
    """Written to disk by this call, all files together."""
    generation: int
    files: tuple[Path, ...]
    """Files written by this call, none if this artifact was current already."""
