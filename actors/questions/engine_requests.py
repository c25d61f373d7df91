"""Questions about a request of a real engine: what a run would do on each node, and whether nodes are ready for it.

The work on a node is `warmup/engines/`'s. Here it is asked on this node, or on the nodes of a cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.cluster.node_task import ask_nodes
from ray_warmup.actors.connection.of_questions import attached, is_client
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY, EXIT_TIMEOUT, ClusterError, PlacementError
from ray_warmup.actors.placement import capacity
from ray_warmup.actors.questions.planning import predicted_ranks
from ray_warmup.actors.questions.verdicts import ask_each
from ray_warmup.configs import env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import request_of_text, text_of_config
from ray_warmup.warmup.engines.machine.run_messages import of_spread
from ray_warmup.warmup.engines.machine.state import EngineRun, LauncherState
from ray_warmup.warmup.engines.node.prediction import Prediction, predict_here
from ray_warmup.warmup.engines.node.request_status import EngineStanding, standing_of
from ray_warmup.warmup.store.node_paths import environments_here

logger = logging.getLogger(__name__)

Accept = Literal["table", "verdict"]
POLL_S = 1.0
AFTER_S = 30.0
"""Beyond the deadline of a node's own answer."""


def predict(config: EngineRunConfig) -> tuple[dict[str, Prediction], list[str]]:
    """Return the answers of the connected cluster's nodes that could hold a replica, and the problems of others.

    Raises ClusterError if there is no such node.
    """
    members = membership.members()
    nodes = {node.node_id: node for node in replica_nodes(config, members)}
    if not nodes:
        raise ClusterError(
            "no node of this cluster could hold a replica of the config; a node needs room for cluster.ranks_per_node "
            "ranks of it"
        )
    text = text_of_config(config)
    asked = dict.fromkeys(nodes, (text,))
    answers, problems = ask_nodes(predict_on_node, asked, config.timeouts.probing + AFTER_S)
    named = {f"node {node_id[:8]} ({nodes[node_id].address})": answer for node_id, answer in answers.items()}
    spread = spread_in_words(config, members)
    return named, [*problems.values(), *filter(None, [spread])]


def spread_in_words(config: EngineRunConfig, nodes: Sequence[Node]) -> str:
    """Name a replica that a run would find on several nodes, which is not covered, or return an empty text."""
    try:
        request = capacity.plan_request(config.cluster, config.cluster.backend_beside_gpus, nodes)
    except PlacementError:
        return ""  # a run waits for nodes that are not there yet
    infos = predicted_ranks(request, tuple(nodes))
    return of_spread(EngineRun(config, "plan", {info.rank: LauncherState(info) for info in infos}))


def predict_on_node(text: str) -> Prediction:
    """`predict_here`, as a task on a node."""
    return predict_here(_engine_config(text), env.snapshot())


def replica_nodes(config: EngineRunConfig, nodes: Sequence[Node]) -> list[Node]:
    """Nodes with room for at least one rank of a config, by what they have in all."""
    return capacity.with_room(config.cluster, nodes)


def standings_here(config: EngineRunConfig, node: int | None = None) -> list[EngineStanding]:
    """Return how a request stands on this node, or on those that are simulated on it."""
    return [standing_of(config, environment) for environment in environments_here(config, node)]


def standing_on_node(text: str) -> EngineStanding:
    """`standing_of`, as a task on a node."""
    return standing_of(_engine_config(text))


def wait_ready(
    config: EngineRunConfig,
    timeout_s: float,
    address: str | None = None,
    node: int | None = None,
    accept: Accept = "table",
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, list[EngineStanding]]:
    """Wait until engines may start: (exit code, the last answers).

    Through Ray Client every node that could hold a replica is asked.
    """
    deadline = clock() + timeout_s
    while True:
        found = _cluster_standings(config, address) if is_client(address) else standings_here(config, node)
        code = exit_code_of(found, proof=config.engine.proof, accept=accept)
        if code is not None:
            return code, found
        if clock() >= deadline:
            return EXIT_TIMEOUT, found
        time.sleep(min(POLL_S, max(deadline - clock(), 0.0)))


def exit_code_of(standings: Sequence[EngineStanding], *, proof: str, accept: Accept) -> int | None:
    """Return the exit code for nodes that stand so: 0 if all are ready, 1 if one failed, or else None.

    Where not every node proves for itself, a whole artifact is enough unless a verdict is asked for.
    """
    states = [standing.state for standing in standings]
    if "failed" in states:
        return EXIT_FAILED
    needs_proof = proof == "node" or accept == "verdict"
    is_enough = {"ready"} if needs_proof else {"ready", "unproven"}
    # An empty list of nodes must not count as ready.
    if states and is_enough.issuperset(states):
        return EXIT_READY
    return None


def _cluster_standings(config: EngineRunConfig, address: str | None) -> list[EngineStanding]:
    try:
        with attached(address):
            nodes = replica_nodes(config, membership.members())
            answers, problems = ask_each(nodes, standing_on_node, text_of_config(config))
    except ClusterError as error:
        return [EngineStanding("absent", f"{error}; tried again until --timeout")]
    unknown = [EngineStanding("absent", problem) for problem in problems]
    return [*answers.values(), *unknown]


def _engine_config(text: str) -> EngineRunConfig:
    request = request_of_text(text)
    assert isinstance(request, EngineRunConfig), "only a real engine's config is sent here"
    return request
