"""The place of a remote store: its URL, and a file system that fails within seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_warmup.configs.errors import ConfigError, shown

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Protocols whose packages an extra of this project installs."""


@dataclass(frozen=True, slots=True)
class RemoteLocation:
    """A place that fsspec can open."""

    url: str
    """`s3://bucket/prefix`, `file:///mnt/shared`, or any other URL that fsspec knows."""
    timeout_s: float
    """Limit of one connection attempt and of one read."""

    @property
    def protocol(self) -> str:
        """The URL's scheme."""
        return self.url.partition("://")[0]

    def open(self) -> tuple[AbstractFileSystem, str]:
        """Return the file system and the root path in it.

        Raises ConfigError for a URL of no known protocol, or one whose package is not installed.
        """
        try:
            import fsspec
        except ImportError as error:
            raise ConfigError(
                f"cache.remote: {shown(self.url)}: needs fsspec: pip install 'ray-warmup[remote]'"
            ) from error
        try:
            file_system, root = fsspec.core.url_to_fs(self.url, **self._options())
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(self.protocol)
            remedy = "install the package that fsspec names"
            if extra:
                remedy = f"pip install 'ray-warmup[{extra}]'"
            raise ConfigError(f"cache.remote: {shown(self.url)}: {error}; {remedy}") from error
        return file_system, str(root).rstrip("/")

    def _options(self) -> dict[str, Any]:  # border to fsspec, whose arguments differ by protocol
        if self.protocol not in ("s3", "s3a"):
            return {}
        # botocore's own: without them an unreachable endpoint is tried for minutes.
        limits = {"connect_timeout": self.timeout_s, "read_timeout": self.timeout_s, "retries": {"max_attempts": 2}}
        return {"config_kwargs": limits, "use_listings_cache": False}
