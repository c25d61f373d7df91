"""Find, start and stop a cluster's registry."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_warmup.actors.connection.addresses import NAMESPACE
from ray_warmup.actors.registry.registry_actor import MAX_BYTES, NAMES, Registry, registry_name
from ray_warmup.configs import env
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.values import KeyStatus
from ray_warmup.warmup.time_limit import within

logger = logging.getLogger(__name__)

FIND_S = 10.0
"""For the control service to say who has a name. Ray itself waits until the service is back, or ends the process."""
ASK_S = 30.0
START_S = 90.0
"""For a registry that starts and asks every node what it holds."""
TELL_S = 5.0
"""For the answer to a run that is over."""
LEARNT_S = 10.0
"""For the nodes' answers to a registry that learns what this run made."""


def namespace_of(cache: CacheSection | None = None) -> str:
    """Return the Ray namespace of the registry: the configuration's, this process' variable's, or the usual one."""
    given = None if cache is None else cache.namespace
    return given or env.read("RAY_WARMUP_NAMESPACE") or NAMESPACE


def found_registry(cache: CacheSection | None = None) -> Any:
    """Return the handle of this cluster's registry, or None. Raises RayError, within FIND_S."""
    name, namespace = registry_name(), namespace_of(cache)
    try:
        return within(FIND_S, lambda: ray.get_actor(name, namespace=namespace))
    except ValueError:  # Ray's answer for a name that nobody has
        return None
    except TimeoutError as error:
        raise ray.exceptions.GetTimeoutError(f"Ray did not find the registry within {FIND_S:g} s") from error


def other_registries(cache: CacheSection | None = None) -> tuple[str, ...]:
    """Describe the registries of other namespaces and versions that run in the connected cluster."""
    own = (namespace_of(cache), registry_name())
    found = []
    for row in ray.util.list_named_actors(all_namespaces=True):
        name, namespace = str(row["name"]), str(row["namespace"])
        if name.startswith(NAMES) and (namespace, name) != own:
            found.append(f"one of version {name.removeprefix(NAMES)} in namespace {namespace}")
    return tuple(sorted(found))


def registry(cache: CacheSection, max_bytes: int = MAX_BYTES) -> Any:
    """Return the registry of the connected cluster, started if there is none.

    It outlives the process that starts it. `stop_registry` ends it.
    """
    remote = ray.remote(Registry).options(
        name=registry_name(),
        namespace=namespace_of(cache),
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        num_gpus=0,
        # One byte: Ray puts an actor without any resources on a random node, whatever its soft affinity says.
        memory=1,
        max_restarts=-1,
        max_concurrency=1000,
        scheduling_strategy=NodeAffinitySchedulingStrategy(_head(), soft=True),
    )
    return remote.remote(cache.model_dump_json(), max_bytes)


@dataclass(frozen=True, slots=True)
class RegistryStarted:
    """A registry that runs now."""

    keys: int
    """Number of keys that it knows."""
    notes: tuple[str, ...]
    """What differs between its settings and the config, and between the nodes."""


def start_registry(cache: CacheSection) -> RegistryStarted:
    """Start the registry if there is none, and let it learn what the nodes hold. Raises RayError."""
    actor = registry(cache)
    node_id = ray.get_runtime_context().get_node_id()
    asked = [actor.learn.remote(), actor.notes.remote(cache.model_dump_json(), node_id)]
    keys, notes = ray.get(asked, timeout=START_S)
    return RegistryStarted(keys, notes)


@dataclass(frozen=True, slots=True)
class RegistryStatus:
    """Knowledge of a registry."""

    age_s: float
    bytes: int
    """Size of the archives in memory."""
    keys: tuple[KeyStatus, ...]
    note: str = ""
    """What differs between the nodes' drivers; empty for nothing."""


def registry_status(cache: CacheSection | None = None) -> RegistryStatus | None:
    """Ask the registry of the connected cluster, or return None if there is none. Raises RayError."""
    actor = found_registry(cache)
    if actor is None:
        return None
    (age_s, size, note), keys = ray.get([actor.about.remote(), actor.status.remote()], timeout=ASK_S)
    return RegistryStatus(age_s, size, keys, note)


def tell_registry(cache: CacheSection) -> tuple[str, ...]:
    """Let a registry that runs learn what the nodes hold now, and return what its config has otherwise.

    It has learnt when this returns, so that whoever asks after the run is handed what the run made. Its absence is no
    error, nor is its silence.
    """
    notes: tuple[str, ...] = ()
    try:
        actor = found_registry(cache)
        if actor is None:
            return notes
        node_id = ray.get_runtime_context().get_node_id()
        asked = [actor.notes.remote(cache.model_dump_json(), node_id), actor.learn.remote()]
        notes = ray.get(asked[0], timeout=TELL_S)
        # A node that does not answer holds the learning up, and not the run.
        ray.wait(asked, num_returns=len(asked), timeout=LEARNT_S)
    except ray.exceptions.RayError as error:
        logger.info("the registry did not answer: %s", error)
    return notes


def stop_registry(cache: CacheSection | None = None) -> bool:
    """End the registry of the connected cluster. Returns False if there is none. Raises RayError."""
    actor = found_registry(cache)
    if actor is None:
        return False
    ray.kill(actor, no_restart=True)
    return True


def _head() -> str:
    rows = [row for row in ray.nodes() if row["Alive"]]
    heads = [row["NodeID"] for row in rows if "node:__internal_head__" in row["Resources"]]
    return str(heads[0] if heads else rows[0]["NodeID"])
