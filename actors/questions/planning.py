"""The dry run: where ranks would land, which classes they form, what each node's store holds. Starts no rank.

One probe task per node with 0 CPUs and 0 GPUs; it reads package metadata and NVML only. Ranks, leaders and
writers are predicted, because Ray decides on placement when it is asked.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import ray
from pydantic import JsonValue

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.cluster.node_task import ask_nodes
from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.placement import capacity
from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.loader import config_of_text, text_of_config
from ray_warmup.warmup.device.host_facts import capability_of
from ray_warmup.warmup.machine.phases.probing import resolve_strategy
from ray_warmup.warmup.rank.engine import predicted
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.ranks import ActorLocation, RankInfo, assign_ranks

PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class PredictedRank:
    """Prediction of one rank."""

    rank: int
    node_id: str
    address: str
    key: str
    role: str
    table_path: str
    hit: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PredictedClass:
    """Ranks with one predicted key."""

    key: str
    parts: dict[str, str]
    ranks: tuple[int, ...]
    leader: int
    strategy: str
    num_tasks: int
    workloads: tuple[str, ...]
    skipped: tuple[str, ...]
    """Workloads that its GPU or installation cannot run: "op: reason", as in the report."""
    would_hit: bool
    engine: dict[str, str]
    """Engine warmup -> "runs", or why it is skipped."""


@dataclass(frozen=True, slots=True)
class RankFacts:
    """Forecast of one rank by its node."""

    key: str
    parts: dict[str, str]
    table_path: str
    num_tasks: int
    workloads: tuple[str, ...]
    skipped: tuple[str, ...]
    hit: bool
    reason: str
    """Reason for a miss, or empty."""
    engine: dict[str, str]
    """Engine warmup -> "runs", or why it is skipped."""


@dataclass(frozen=True, slots=True)
class PredictedPlan:
    """Prediction of a run's ranks and classes."""

    backend: str
    ranks: tuple[PredictedRank, ...]
    classes: tuple[PredictedClass, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return asdict(self)


def predict(config: WarmupConfig) -> PredictedPlan:
    """Ask every node that would get a rank. Raises PlacementError when the ranks do not fit."""
    nodes = membership.nodes()
    backend = config.cluster.backend_beside_gpus
    request = capacity.plan_request(config.cluster, backend, nodes)
    infos = predicted_ranks(request, nodes)
    facts = _probe(config, infos, backend)
    writers: dict[tuple[str, str], int] = {}
    leaders: dict[str, int] = {}
    for info in infos:
        fact = facts[info.rank]
        leaders.setdefault(fact.key, info.rank)
        writers.setdefault((info.node_id, fact.table_path), info.rank)
    ranks = tuple(_rank(info, facts[info.rank], leaders, writers) for info in infos)
    classes = tuple(_class(config, backend, key, facts) for key in leaders)
    return PredictedPlan(backend, ranks, classes)


def predicted_ranks(request: capacity.Request, nodes: tuple[Node, ...]) -> tuple[RankInfo, ...]:
    """Ranks as the request's own pins, or a greedy packing of free resources, would place them."""
    room: dict[str, int] = {}
    address: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: node.node_id):
        room[node.node_id] = node.room(request.bundles[0])
        address[node.node_id] = node.address
    spread = "SPREAD" in request.strategy
    placements = []
    for index, _ in enumerate(request.bundles):
        node_id = None
        if request.selectors:
            node_id = request.selectors[index].get(capacity.NODE_ID_LABEL)
        if node_id is None:
            # SPREAD fills the emptiest node next, PACK fills one node before the next.
            choices = [node for node, left in room.items() if left > 0]
            node_id = choices[0]
            if spread:
                node_id = max(choices, key=lambda node: room[node])
        room[node_id] -= 1
        placements.append(ActorLocation(index, node_id, address=address[node_id]))
    here = ray.get_runtime_context().get_node_id()
    return assign_ranks(placements, here)


def probe_node(config: str, ranks: list[tuple[int, int]], backend: str) -> dict[int, RankFacts]:
    """Runs on a node: the forecast of its ranks, given as (rank, NVML index)."""
    settings = config_of_text(config)
    dims = dimensions_of(settings)
    answer = {}
    for rank, gpu_index in ranks:
        found = forecast_rank(settings, rank, backend, gpu_index)
        answer[rank] = RankFacts(
            key=found.key.sha256,
            parts=found.key.as_dict(),
            table_path=str(found.table_path),
            num_tasks=found.num_tasks,
            workloads=tuple(f"{w.name}: {w.identity} at {len(w.buckets)} sizes" for w in found.workloads),
            skipped=tuple(sorted({f"{skip.op}: {skip.reason}" for skip in found.skips})),
            hit=found.hit,
            reason=found.reason,
            engine=predicted(settings, dims, rank, backend, capability_of(found.key.as_dict()["arch"])),
        )
    return answer


def _probe(config: WarmupConfig, infos: tuple[RankInfo, ...], backend: str) -> dict[int, RankFacts]:
    by_node: dict[str, list[tuple[int, int]]] = {}
    for info in infos:
        index = int(info.local_rank * config.cluster.gpus_per_rank)
        by_node.setdefault(info.node_id, []).append((info.rank, index))
    settings = text_of_config(config)
    asked = {node_id: (settings, ranks, backend) for node_id, ranks in by_node.items()}
    answers, problems = ask_nodes(probe_node, asked, PROBE_TIMEOUT_S)
    if problems:
        raise ClusterError(f"the ranks' nodes could not be probed: {'; '.join(problems.values())}")
    facts: dict[int, RankFacts] = {}
    for answer in answers.values():
        facts.update(answer)
    return facts


def _rank(
    info: RankInfo, fact: RankFacts, leaders: dict[str, int], writers: dict[tuple[str, str], int]
) -> PredictedRank:
    role = "follower"
    if writers[(info.node_id, fact.table_path)] == info.rank:
        role = "writer"
    if leaders[fact.key] == info.rank:
        role = "leader"
    return PredictedRank(
        rank=info.rank,
        node_id=info.node_id,
        address=info.address,
        key=fact.key,
        role=role,
        table_path=fact.table_path,
        hit=fact.hit,
        reason=fact.reason,
    )


def _class(config: WarmupConfig, backend: str, key: str, facts: dict[int, RankFacts]) -> PredictedClass:
    ranks = tuple(rank for rank in sorted(facts) if facts[rank].key == key)
    first = facts[ranks[0]]
    return PredictedClass(
        key=key,
        parts=first.parts,
        ranks=ranks,
        leader=ranks[0],
        strategy=resolve_strategy(config.autotune.strategy, backend, len(ranks)),
        num_tasks=first.num_tasks,
        workloads=first.workloads,
        skipped=first.skipped,
        would_hit=any(facts[rank].hit for rank in ranks),
        engine=first.engine,
    )
