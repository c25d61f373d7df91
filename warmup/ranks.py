"""Assign rank numbers to actors by node and GPU, purely from their reported placements.

Nodes are keyed by node id, never by address, because several nodes can share one address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray_warmup.warmup.codec import message


@message
class ActorLocation:
    """An actor's node, GPUs and process, as the actor reports them."""

    bundle_index: int
    node_id: str
    gpu_ids: tuple[str, ...] = ()
    address: str = ""
    pid: int = 0
    started: str = ""
    """When the process did, as its kernel counts: with `pid` it is this very process."""
    host: str = ""


@message
class RankInfo:
    """One rank's identity.

    `rank` is the world rank.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    node_id: str
    bundle_index: int
    gpu_ids: tuple[str, ...] = ()
    address: str = ""
    pid: int = 0
    started: str = ""
    host: str = ""

    def __str__(self) -> str:
        gpu = ""
        if self.gpu_ids:
            gpu = f", GPU {','.join(self.gpu_ids)}"
        return f"rank {self.rank} on node {self.node_id[:8]} ({self.address}{gpu})"


def assign_ranks(placements: Sequence[ActorLocation], first_node: str | None = None) -> tuple[RankInfo, ...]:
    """Number ranks contiguously per node: `first_node` first, then by node id, and inside a node by GPU, then bundle.

    Bundle order is not node order (SPREAD interleaves), so it only breaks ties.

    Example: bundles 0,2 on node "b" and 1,3 on node "a" with `first_node="b"` give ranks 0,1 on "b" and 2,3 on "a".
    """
    by_node: dict[str, list[ActorLocation]] = {}
    for place in placements:
        by_node.setdefault(place.node_id, []).append(place)
    ranks: list[RankInfo] = []
    for node_rank, node_id in enumerate(sorted(by_node, key=lambda node: (node != first_node, node))):
        local = sorted(by_node[node_id], key=_within_node)
        for local_rank, place in enumerate(local):
            ranks.append(
                RankInfo(
                    rank=len(ranks),
                    world_size=len(placements),
                    local_rank=local_rank,
                    local_world_size=len(local),
                    node_rank=node_rank,
                    node_id=node_id,
                    bundle_index=place.bundle_index,
                    gpu_ids=place.gpu_ids,
                    address=place.address,
                    pid=place.pid,
                    started=place.started,
                    host=place.host,
                )
            )
    return tuple(ranks)


def moved(known: Sequence[RankInfo], rank: int, place: ActorLocation) -> RankInfo:
    """A rank on another node than before: same number, the node's next free local rank.

    Ranks of one node are no longer numbered one after the other then, and what its new neighbours were told of the
    node's size stays as it was.
    """
    others = [info for info in known if info.node_id == place.node_id and info.rank != rank]
    taken = {info.local_rank for info in others}
    local_rank = 0
    while local_rank in taken:
        local_rank += 1
    node_rank = max(info.node_rank for info in known) + 1
    if others:
        node_rank = others[0].node_rank
    return replace(
        known[rank],
        local_rank=local_rank,
        local_world_size=len(others) + 1,
        node_rank=node_rank,
        node_id=place.node_id,
        gpu_ids=place.gpu_ids,
        address=place.address,
        pid=place.pid,
        started=place.started,
        host=place.host,
    )


def _within_node(place: ActorLocation) -> tuple[list[tuple[int, str]], int]:
    """GPU ids are numbers as strings (or UUIDs): compare numbers as numbers."""
    # UUIDs sort behind every number.
    return [(int(g) if g.isdigit() else 1 << 30, g) for g in place.gpu_ids], place.bundle_index


@dataclass(frozen=True, slots=True)
class ModelShare:
    """One rank's share of the model."""

    tensor_rank: int
    pipeline_stage: int
    expert_shard: int
    replica: int


def share_of(rank: int, tensor: int, pipeline: int, expert: int) -> ModelShare:
    """Return a rank's share of the model.

    Tensor ranks vary fastest, then pipeline stages, then replicas. Expert shards run across all ranks of a stage.
    """
    tensor_rank, replica = rank % tensor, rank // (tensor * pipeline)
    return ModelShare(
        tensor_rank=tensor_rank,
        pipeline_stage=rank // tensor % pipeline,
        expert_shard=(replica * tensor + tensor_rank) % expert,
        replica=replica,
    )
