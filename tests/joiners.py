"""Processes that join a cluster in a test, and the registry that they ask."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.schema import CacheSection
from tests.testbed import SCRIPTED, Case, Node, wait_until


@dataclass(frozen=True)
class Joined:
    """How a process became warm."""

    ready: bool
    error: str
    seconds: float
    notes: tuple[str, ...]
    digest: str
    warnings: tuple[str, ...]
    pid: int
    measured: int


class Joiner:
    """A process of its own that becomes warm; wrapped as an actor."""

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def join(self, config: str, wait_s: float = 60.0, version: str = "") -> Joined:
        """Become warm. `version`: pretend to be that release of this project."""
        from ray_warmup.actors.joining.warm_joiner import ensure_warm
        from ray_warmup.actors.registry import registry_actor
        from ray_warmup.configs.loader import config_of_text

        if version:
            registry_actor.VERSION = version
        notes: list[str] = []
        began = time.monotonic()
        report = ensure_warm(config_of_text(config), wait_s=wait_s, on_note=notes.append, tuner=SCRIPTED)
        took = time.monotonic() - began
        digest = report.classes[0].digest or "" if report.classes else ""
        measured = sum(row.measured for row in report.classes)
        error, warnings = report.error or "", tuple(report.warnings)
        return Joined(report.ready, error, took, tuple(notes), digest, warnings, os.getpid(), measured)


class Joiners:
    """Makes such processes on the testbed's nodes."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, node: Node, count: int = 1) -> Sequence[Any]:
        """Start processes on a node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        remote = ray.remote(Joiner).options(num_cpus=0, scheduling_strategy=strategy)
        actors = [remote.remote() for _ in range(count)]
        self.made += actors
        return actors


@contextmanager
def joining() -> Iterator[Joiners]:
    """Processes, which are ended with every registry at the end."""
    import ray

    joiners = Joiners()
    try:
        yield joiners
    finally:
        for actor in joiners.made:
            ray.kill(actor)
        for namespace in ("ray_warmup", OTHER_NAMESPACE):
            for row in ray.util.list_named_actors(all_namespaces=True):
                if row["namespace"] == namespace and row["name"].startswith("registry-"):
                    ray.kill(ray.get_actor(row["name"], namespace=namespace), no_restart=True)
        assert wait_until(lambda: not registries(), 10), "a registry stays"


def answers(*refs: Any) -> list[Joined]:
    """What processes answered; each is ready without an error, and all with one table."""
    import ray

    found: list[Joined] = ray.get(list(refs), timeout=ANSWERED_S)
    assert [(one.ready, one.error) for one in found] == [(True, "")] * len(found)
    assert len({one.digest for one in found}) == 1
    return found


def measured_by(case: Case) -> set[int]:
    """Processes that measured."""
    return {line.pid for line in case.calls("tune")}


ANSWERED_S = 120.0
"""Limit of a wait for an answer in a test; what a test promises is asserted for itself."""
OTHER_NAMESPACE = "another-team"


def registries() -> list[str]:
    """Names of the registries that are not dead."""
    return [str(row["Name"]) for row in _rows()]


def registry_pid() -> int:
    """Process of the one registry, once it is alive."""
    assert wait_until(lambda: [row for row in _rows() if row["State"] == "ALIVE" and row["Pid"]], 30)
    (row,) = _rows()
    return int(row["Pid"])


def registry_node() -> str:
    """Node of the one registry, once it is alive."""
    registry_pid()
    (row,) = _rows()
    return str(row["Address"]["NodeID"])


def starts_on(node: Node, cache: CacheSection) -> bool:
    """Start the registry; one that is placed on another node is stopped again."""
    from ray_warmup.actors.registry import client as registry_client

    registry_client.registry(cache)
    if registry_node() == node.node_id:
        return True
    registry_client.stop_registry(cache)
    assert wait_until(lambda: not registries(), 10)
    return False


def kill_registry() -> int:
    """Kill the registry's process, and return its pid."""
    pid = registry_pid()
    os.kill(pid, signal.SIGKILL)
    return pid


def request_of(case: Case, **sections: dict[str, Any]) -> WarmupConfig:
    """The request of each process: one rank."""
    one: dict[str, Any] = {"num_nodes": None, "ranks_per_node": None, "world_size": 1}
    return case.config(cluster=one, **sections)


def text_of(case: Case, **sections: dict[str, Any]) -> str:
    """The same as JSON."""
    from ray_warmup.configs.loader import text_of_config

    return text_of_config(request_of(case, **sections))


def _rows() -> list[dict[str, Any]]:
    from ray._private.state import actors

    return [row for row in actors().values() if row["ActorClassName"] == "Registry" and row["State"] != "DEAD"]
