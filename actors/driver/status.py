"""Collect the status of live coordinators and of serving processes on this node.

How runs ended is in `actors/questions/verdicts.py`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ray_warmup.actors.connection.addresses import NAMESPACE
from ray_warmup.actors.run.status import RunStatus
from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.monitor.serving_monitor import ServingProcess, serving_processes
from ray_warmup.warmup.store.node_paths import environments_here, resolve_paths

logger = logging.getLogger(__name__)

ASK_S = 5.0
ATTEMPTS, AGAIN_S = 4, 0.5
"""Number of questions to a coordinator whose handle cannot be used yet, and the pause between two."""


def live_runs(problems: list[str] | None = None) -> list[RunStatus]:
    """Return the status of every coordinator in this cluster.

    Those that do not answer are added to `problems`.
    """
    import ray

    from ray_warmup.actors.cluster.remote_errors import as_failure

    found = []
    for row in ray.util.list_named_actors(all_namespaces=True):
        if row["namespace"] != NAMESPACE or not row["name"].startswith("warmup-"):
            continue
        try:
            found.append(RunStatus.of(row["name"], _status_of(row["name"])))
        except (ValueError, ray.exceptions.RayActorError):
            continue  # it has just ended
        except (ray.exceptions.RayError, AssertionError) as error:
            if problems is not None:
                failure = as_failure(error)
                reason = " ".join(f"{failure.kind}: {failure.message}".split())[:400]
                problems.append(f"run {row['name']} is active and did not answer within {ASK_S:g} s: {reason}")
    return found


def _status_of(name: str) -> Any:
    """The status of a coordinator by its name.

    Raises ValueError if there is none. Ray Client looks a handle's class up in a task of the cluster, which fails by an
    assertion while the class is not there yet, or not any more: such a question is asked again.
    """
    import ray

    from ray_warmup.actors.cluster.remote_errors import first_line

    for _ in range(ATTEMPTS - 1):
        try:
            actor = ray.get_actor(name, namespace=NAMESPACE)
            return ray.get(actor.status.remote(), timeout=ASK_S)
        except (ray.exceptions.RayTaskError, AssertionError) as error:
            logger.info("%s is asked for its status again: %s", name, first_line(error))
            time.sleep(AGAIN_S)
    return ray.get(ray.get_actor(name, namespace=NAMESPACE).status.remote(), timeout=ASK_S)


def serving(config: WarmupConfig | None) -> list[ServingProcess]:
    """Read the records of `ray_warmup.monitor` below this node's default cache root and a config's."""
    roots = [resolve_paths(CacheSection()).root]
    if config is not None:
        roots += [resolve_paths(config.cache, node).root for node in environments_here(config)]
    return [record for root in dict.fromkeys(roots) for record in serving_processes(root)]
