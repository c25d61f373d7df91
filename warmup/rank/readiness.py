"""Readiness of a configuration's classes on a node, and a cheap notice that it may have changed.

A full answer reads indexes, verdicts and tables. Between two of them one `stat` of one directory tells whether anything
was put there, removed or replaced: whatever this project writes is renamed into its directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.errors import ForecastError, StoreError
from ray_warmup.warmup.rank.forecast import index_of
from ray_warmup.warmup.rank.locations import Environment, Location, locations
from ray_warmup.warmup.rank.table_state import Accept, TableState, table_state_of
from ray_warmup.warmup.store.node_paths import resolve_paths

ASK_ELSEWHERE = "what a run writes here is waited for; a cluster can be asked with --address ray://HOST:10001"
MANY_STORES = 3
"""From more on one directory is watched instead of them, so that each is looked at every few seconds."""
Signature = tuple[int, ...] | str


@dataclass(frozen=True, slots=True)
class ReadinessQuestion:
    """Whose tables are asked for, and what is enough."""

    config: WarmupConfig
    rank: int | None = None
    """Only the class of this rank."""
    everyone: bool = False
    """Every class of the configuration, not only those of the node's own ranks."""
    accept: Accept = "table"

    def table_states(self, environment: Environment) -> tuple[TableState, ...]:
        """Return the table_state of each selected class on a node.

        `environment` is that of a simulated node.

        A node that cannot tell says so as one unknown.
        """
        return self.look((environment,))[0]

    def look(self, environments: Sequence[Environment]) -> tuple[tuple[TableState, ...], Watching]:
        """The table_states on these nodes, and what tells when they may be others.

        Watched are the index and each store, there or not yet; of many that are not what they would be in.
        """
        indexes = [index_of(self.config, resolve_paths(self.config.cache, node)).directory for node in environments]
        watching = Watching(indexes)  # before anything is read, so that nothing can change unseen
        places, table_states = list[Location](), list[TableState]()
        for environment in environments:
            try:
                places += locations(self.config, environment, self.rank, everyone=self.everyone)
            except ForecastError as error:
                table_states.append(TableState("unknown", f"{error}; {ASK_ELSEWHERE}", "", has_table=False))
            except StoreError as error:
                table_states.append(TableState("unknown", str(error), "", has_table=False))
        watching.add(_directories(places))
        for place in places:
            table_states.append(table_state_of(self.config, place, self.accept))
        return tuple(table_states), watching


def _directories(places: Sequence[Location]) -> list[Path]:
    """The stores, or of many that are not there yet what they would be in."""
    stores = [place.directory for place in places]
    absent = {store for store in stores if isinstance(_signature(store), str)}
    if len(absent) <= MANY_STORES:
        return stores
    watched = []
    for store in stores:
        if store in absent:
            watched.append(store.parent)
        else:
            watched.append(store)
    return watched


def check_askable(config: WarmupConfig) -> None:
    """Raise ConfigError where runs of a configuration leave nothing on any disk that could be waited for."""
    if not config.cache.persistent:
        raise ConfigError("cache.persistent: False: ranks load from memory, so there is nothing on a disk to wait for")
    if config.autotune.strategy == "independent":
        raise ConfigError("autotune.strategy: 'independent': tables stay in memory, there is none to wait for")
    if not config.autotune.is_enabled:
        raise ConfigError("autotune.enabled, autotune.optimization_level: tuning is off: there is no table to wait for")


class Watching:
    """Directories in turn: one `stat` for each question."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._seen: dict[Path, Signature] = {}
        self._turn = 0
        self.add(paths)

    def add(self, paths: Iterable[Path]) -> None:
        """Watch these, too, from now on."""
        for path in paths:
            if path not in self._seen:
                self._seen[path] = _signature(path)

    def has_changed(self) -> bool:
        """Return True if the next path in turn has changed."""
        path = list(self._seen)[self._turn % len(self._seen)]
        self._turn += 1
        return _signature(path) != self._seen[path]


def _signature(path: Path) -> Signature:
    """Return a directory's signature, which changes with its entries.

    If it cannot be read, return the error's name.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return type(error).__name__
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
