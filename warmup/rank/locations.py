"""Locate a configuration's tables on a node, from its runs' records or else from a forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.device.host_facts import UNKNOWN, version_of
from ray_warmup.warmup.errors import ForecastError
from ray_warmup.warmup.rank.forecast import directory_of, fingerprint_of, foretell, index_of
from ray_warmup.warmup.rank.rank_workloads import representatives
from ray_warmup.warmup.store.node_index import Written, host_name, of_this_node
from ray_warmup.warmup.store.node_paths import resolve_paths

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Location:
    """One class of ranks on one node."""

    ranks: tuple[int, ...]
    """Known ranks: all on this node if a run recorded them, or else the first one."""
    key: CacheKey
    directory: Path
    """Its store."""
    is_written: bool
    """True if a run recorded it, False for a forecast."""


def locations(
    config: WarmupConfig, environment: Environment, rank: int | None = None, *, everyone: bool = False
) -> tuple[Location, ...]:
    """The classes that are asked for, one location each, the lowest rank first.

    Raises ForecastError where no run wrote of them and this machine cannot foretell, StoreError where what runs
    wrote cannot be read.

    Args:
        config: with or without its model's dimensions.
        environment: of a node that is simulated here; empty for this one.
        rank: only this rank's class.
        everyone: every class of the configuration; else those of this node's ranks, and where no run has been here,
            those of which something is stored, or all when nothing is.
    """
    node = _Node(config, environment)
    rows = node.fitting(index_of(config, node.paths).rows())
    near = of_this_node(rows, host_name())
    if rank is None and not everyone and near:
        return _once([node.written(row) for row in near])
    if rank is not None or everyone:
        asked = representatives(config)
        if rank is not None:
            asked = (rank,)
        return _once([node.of_rank(number, (*near, *rows)) for number in asked])
    candidates = _once([node.foretold(number) for number in representatives(config)])
    return tuple(found for found in candidates if _is_there(found.directory)) or candidates


def location_of(config: WarmupConfig, environment: Environment, rank: int | None) -> Location:
    """The class that an engine on this node would open: of a given rank, else of the node's own lowest one."""
    return locations(config, environment, rank)[0]


class _Node:
    """One node: its directories, and what can be foretold of its ranks."""

    def __init__(self, config: WarmupConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self.paths = resolve_paths(config.cache, environment)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        """Described once. Raises ForecastError."""
        return fingerprint_of(self._config.cluster.backend_beside_gpus)

    def fitting(self, rows: Sequence[Written]) -> tuple[Written, ...]:
        """Return rows of ranks with this node's libraries and device.

        If its device cannot be described, FlashInfer's version decides.
        """
        if not rows:
            return ()
        try:
            here = dict(self._fingerprint.parts)
        except ForecastError:
            here = {}
            version = version_of("flashinfer-python")
            if version != UNKNOWN:
                here = {"flashinfer_version": version}
        return tuple(row for row in rows if here.items() <= dict(row.foretold or row.key).items())

    def of_rank(self, rank: int, rows: Sequence[Written]) -> Location:
        """Return a rank's location from a run's record, or else from a forecast."""
        for row in rows:
            if rank in row.ranks:
                return self.written(row)
        return self.foretold(rank)

    def written(self, row: Written) -> Location:
        """Return the location of a row's store on this node."""
        directory = row.directory(self.paths.root, self.paths.override)
        return Location(row.ranks, CacheKey(row.key), directory, is_written=True)

    def foretold(self, rank: int) -> Location:
        """Return the predicted location of a rank's store.

        Raises ForecastError.
        """
        told = foretell(self._config, rank, environment=self._environment, fingerprint=self._fingerprint)
        return Location((rank,), told.key, directory_of(self.paths, told.key), is_written=False)


def _is_there(directory: Path) -> bool:
    """Return True if the store exists, or if that is unknown, so that its reader names the error."""
    try:
        return directory.exists()
    except OSError:
        return True


def _once(found: Sequence[Location]) -> tuple[Location, ...]:
    """Each key once, in the given order."""
    known: dict[str, Location] = {}
    for location in found:
        known.setdefault(location.key.sha256, location)
    return tuple(known.values())
