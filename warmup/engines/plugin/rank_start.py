"""Start of one rank in an engine's process: what identifies it, and where it looks for caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.engines.artifacts.rank_record import own_pid
from ray_warmup.warmup.engines.identity.identity import Identity


@dataclass(frozen=True, slots=True)
class RankStart:
    """One rank of a starting engine, once its configuration and its device are known."""

    rank: int
    world_size: int
    """Ranks of the replica."""
    identity: Identity
    settings: dict[str, str]
    """`section.field` -> text of the resolved configuration."""
    directories: Mapping[Kind, Path]
    """Kind -> directory in which this process looks, for the kinds that are plain files."""
    triton_cache: Path
    engine_name: str = ""
    """Equal in all processes of one engine, and in no other engine; empty where the engine has no such name."""
    compile_factors: dict[str, str] = field(default_factory=dict)
    """Environment factors of the engine's compile key, where it has one."""

    @property
    def engine_version(self) -> str:
        """Return the engine's release."""
        return self.identity.as_dict()["engine_version"]

    @property
    def name_of_engine(self) -> str:
        """Return the engine's name, or this process' number where the engine has none."""
        return self.engine_name or str(own_pid())
