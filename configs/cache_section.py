"""The cache section: location, access rules and signatures of what a node stores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ray_warmup.configs.errors import shown
from ray_warmup.configs.file_mode import DirMode, FileMode
from ray_warmup.configs.location import Location, location_fault
from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.configs.remote_url import url_fault
from ray_warmup.configs.section import Seconds, Section, Whole

Identity = Annotated[Whole, Field(ge=0, le=(1 << 32) - 2)]


class CacheSection(Section):
    """Location and access rules of tables and compiled kernels on each node."""

    persistent: bool = True
    """False: nothing is written; ranks load the same bytes from memory."""
    require_disk: bool = True
    """A run fails when a node cannot keep its table. False: it is ready, with a warning and exit code 4."""
    root: Location | None = None
    """Cache root, absolute; `~` is expanded on the node.
    Unset: `$<root_env>`, else `$XDG_CACHE_HOME/ray-warmup`, else `~/.cache/ray-warmup`."""
    override_dir: Location | None = None
    """Absolute; replaces everything before the key's hash; unset: `$<override_env>`."""
    root_env: str = "RAY_WARMUP_CACHE_ROOT"
    """Name of the variable with the node's cache root."""
    override_env: str = "RAY_WARMUP_CACHE_DIR"
    """Name of the variable with the node's override directory."""
    file_mode: FileMode = OWNER_ONLY.file
    """Mode of published files: octal, with the leading zero or in quotes."""
    dir_mode: DirMode = OWNER_ONLY.directory
    """Mode of created directories, written likewise; below a setgid directory they keep that bit."""
    trusted_uids: tuple[Identity, ...] = ()
    """Users, by number, whose stores are believed besides this process' own and root's. Root believes nobody else."""
    trusted_gids: tuple[Identity, ...] = ()
    """Groups, by number, whose members may write the directories that code is loaded from."""
    trust: Literal["any", "signed"] = "any"
    """`signed`: artifacts without a signature of `public_keys` are refused everywhere."""
    public_keys: tuple[str, ...] = ()
    """Trusted Ed25519 keys: `ed25519:<base64>`, or the PEM file's path on each node. Several allow a rotation."""
    signing_key: Location | None = None
    """PEM file of the Ed25519 key that signs what this run packs, on the nodes that pack. Unset:
    `$RAY_WARMUP_SIGNING_KEY`."""
    remote: str | None = None
    """URL of a store that outlives the nodes, as fsspec knows it: `s3://bucket/prefix`, `file:///mnt/shared`. Asked
    after the node's own store, filled at the end of a guarded run."""
    remote_timeout: Seconds = 30.0
    """Seconds for one exchange with it; then it is a miss with a warning."""
    namespace: Annotated[str, Field(min_length=1)] | None = None
    """Ray namespace of the cluster's registry; processes with different ones do not meet. Unset:
    `$RAY_WARMUP_NAMESPACE`, else `ray_warmup`."""
    tuning_kernels: bool = True
    """Keep and ship what the driver compiled while tuning (some 25 MB), for nodes that tune again."""

    @field_validator("remote")
    @classmethod
    def _remote_is_a_url(cls, url: str | None) -> str | None:
        fault = None
        if url is not None:
            fault = url_fault(url)
        if fault is not None:
            raise ValueError(fault)
        return url

    @field_validator("public_keys")
    @classmethod
    def _keys_are_words_or_paths(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            fault = None
            if not source.startswith("ed25519:"):
                fault = location_fault(source)
            if fault is not None or not source:
                raise ValueError(
                    f"{shown(source)}: must be ed25519:<base64>, or a path that is absolute or begins with ~"
                )
        return sources

    @property
    def modes(self) -> Modes:
        """Both modes as one value."""
        return Modes(self.file_mode, self.dir_mode)
