"""Rank numbers and model shares: contiguous per node, by GPU, whatever order the bundles came in."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.warmup.messages.wire import from_bytes, to_bytes
from ray_warmup.warmup.ranks import ActorLocation, RankInfo, assign_ranks, share_of


def spread(nodes: int, per_node: int) -> list[ActorLocation]:
    """Bundles as SPREAD deals them: bundle 0 on node 0, bundle 1 on node 1, and so on in turn."""
    return [
        ActorLocation(bundle, f"node{bundle % nodes}", (str(bundle // nodes),), "10.0.0.1", 100 + bundle)
        for bundle in range(nodes * per_node)
    ]


@pytest.mark.parametrize(
    ("rank", "node", "local", "bundle"),
    [(0, "node0", 0, 0), (1, "node0", 1, 2), (2, "node1", 0, 1), (3, "node1", 1, 3)],
)
def test_ranks_are_contiguous_per_node(rank: int, node: str, local: int, bundle: int) -> None:
    """Interleaved bundles still give each node a block of ranks; every number of a rank follows."""
    info = assign_ranks(spread(2, 2))[rank]
    assert (info.rank, info.node_id, info.local_rank, info.bundle_index) == (rank, node, local, bundle)
    assert (info.world_size, info.local_world_size, info.node_rank) == (4, 2, int(node[-1]))
    assert info.pid == 100 + bundle


def test_the_first_node_comes_first() -> None:
    """The named node holds rank 0, the others follow by id."""
    infos = assign_ranks(spread(3, 1), first_node="node1")
    assert [info.node_id for info in infos] == ["node1", "node0", "node2"]
    assert [info.node_rank for info in infos] == [0, 1, 2]


def test_gpus_are_ordered_as_numbers() -> None:
    """GPU 10 comes after GPU 2, and a UUID after every number."""
    gpus = ["10", "2", "GPU-abc", "0"]
    infos = assign_ranks([ActorLocation(n, "a", (gpu,)) for n, gpu in enumerate(gpus)])
    assert [info.gpu_ids[0] for info in infos] == ["0", "2", "10", "GPU-abc"]


def test_without_gpus_the_bundle_decides() -> None:
    """CPU ranks of a node are ordered by bundle."""
    infos = assign_ranks([ActorLocation(bundle, "a") for bundle in (3, 1, 2)])
    assert [info.bundle_index for info in infos] == [1, 2, 3]


def test_nodes_with_one_address_are_two_nodes() -> None:
    """The node id counts, not the address that two simulated nodes share."""
    infos = assign_ranks(spread(2, 1))
    assert {info.address for info in infos} == {"10.0.0.1"}
    assert [info.node_rank for info in infos] == [0, 1]


def test_uneven_nodes() -> None:
    """Three ranks on one node and one on the other: each says its own node's size."""
    infos = assign_ranks([ActorLocation(n, "a" if n else "b", (str(n),)) for n in range(4)])
    assert [(i.node_id, i.local_rank, i.local_world_size) for i in infos] == [
        ("a", 0, 3),
        ("a", 1, 3),
        ("a", 2, 3),
        ("b", 0, 1),
    ]


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_ranks(nodes: int, per_node: int, rng: random.Random) -> None:
    """The order in which actors report does not matter; ranks are 0 to n-1 and blocks per node."""
    places = spread(nodes, per_node)
    expected = assign_ranks(places)
    rng.shuffle(places)
    assert assign_ranks(places) == expected
    assert [info.rank for info in expected] == list(range(nodes * per_node))
    assert [info.node_rank for info in expected] == sorted(info.node_rank for info in expected)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_rank_travels_and_names_itself(rank: int) -> None:
    """A non-leader arrives as it was sent and says rank, node, address and GPU."""
    info = assign_ranks(spread(2, 2))[rank]
    assert from_bytes(to_bytes(info), RankInfo) == info
    assert str(info) == f"rank {rank} on node node{rank // 2} (10.0.0.1, GPU {rank % 2})"
    assert "GPU" not in str(RankInfo(rank, 4, 0, 2, 1, "b", 0, (), "h"))


@pytest.mark.parametrize(
    ("rank", "tensor", "pipeline", "expert", "share"),
    [
        (0, 2, 2, 1, (0, 0, 0, 0)),
        (1, 2, 2, 1, (1, 0, 0, 0)),
        (2, 2, 2, 1, (0, 1, 0, 0)),
        (7, 2, 2, 1, (1, 1, 0, 1)),
        (5, 4, 1, 8, (1, 0, 5, 1)),
        (3, 4, 1, 2, (3, 0, 1, 0)),
        (4, 2, 2, 4, (0, 0, 2, 1)),
        (7, 2, 2, 4, (1, 1, 3, 1)),
        (3, 1, 1, 1, (0, 0, 0, 3)),
    ],
)
def test_a_rank_runs_its_share(rank: int, tensor: int, pipeline: int, expert: int, share: tuple[int, ...]) -> None:
    """Tensor rank, pipeline stage, expert shard and replica of a rank."""
    found = share_of(rank, tensor, pipeline, expert)
    assert (found.tensor_rank, found.pipeline_stage, found.expert_shard, found.replica) == share


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_every_stage_has_every_expert_shard(tensor: int, pipeline: int, factor: int) -> None:
    """With as many ranks per stage as shards, each stage holds each shard once, whatever the pipeline size."""
    expert = tensor * factor
    shares = [share_of(rank, tensor, pipeline, expert) for rank in range(tensor * pipeline * factor)]
    for stage in range(pipeline):
        shards = [share.expert_shard for share in shares if share.pipeline_stage == stage]
        assert sorted(shards) == list(range(expert))
