"""Capacity: what fits, what is short, and in which words, without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.actors.capacity import Node, bundle_of, describe, matches, plan_request, resolve_backend
from ray_warmup.actors.errors import PlacementError
from ray_warmup.configs.schema import ClusterSection


def make_node(name: str, gpus: float = 4, cpus: float = 16, **changes: Any) -> Node:
    """An idle node."""
    total = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    return Node(
        **{"node_id": name * 12, "address": f"10.0.0.{ord(name) - 96}", "total": total, "free": total, **changes}
    )


def make_cluster(**fields: Any) -> ClusterSection:
    """A cluster section of four GPU ranks unless told otherwise."""
    return ClusterSection(**({"world_size": 4, "backend": "cuda"} | fields))


def test_a_bundle_is_one_rank() -> None:
    """CPUs and, for cuda, GPUs; a CPU rank that asks for nothing still asks for a sliver."""
    assert bundle_of(make_cluster(gpus_per_rank=0.5, cpus_per_rank=2), "cuda") == {"CPU": 2.0, "GPU": 0.5}
    assert bundle_of(make_cluster(cpus_per_rank=2), "cpu") == {"CPU": 2.0}
    assert bundle_of(make_cluster(cpus_per_rank=0), "cpu") == {"CPU": 0.001}


@pytest.mark.parametrize(
    ("fields", "gpus", "backend"),
    [
        ({"backend": "auto"}, 4, "cuda"),
        ({"backend": "auto"}, 0, "cpu"),
        ({"backend": "auto", "gpus_per_rank": 0}, 4, "cpu"),
        ({"backend": "cpu"}, 4, "cpu"),
        ({"backend": "cuda"}, 0, "cuda"),
    ],
)
def test_the_backend_follows_the_cluster(fields: dict[str, Any], gpus: int, backend: str) -> None:
    """`auto` is cuda where GPUs are asked for and exist; what is named stays."""
    assert resolve_backend(make_cluster(**fields), [make_node("a", gpus)]) == backend


def test_a_world_size_is_one_bundle_per_rank() -> None:
    """Four ranks with the asked strategy and no selector."""
    request = plan_request(make_cluster(placement_strategy="SPREAD"), "cuda", [make_node("a"), make_node("b")])
    assert (len(request.bundles), request.strategy, request.selectors) == (4, "SPREAD", None)


def test_ranks_per_node_pins_the_nodes_with_room() -> None:
    """Two of three nodes are chosen by what is free, each pinned by id for its ranks."""
    busy = make_node("a", free={"CPU": 16, "GPU": 1})
    nodes = [busy, make_node("b"), make_node("c")]
    request = plan_request(make_cluster(world_size=None, ranks_per_node=2, num_nodes=2), "cuda", nodes)
    pinned = [selector["ray.io/node-id"] for selector in request.selectors or ()]
    assert pinned == ["b" * 12, "b" * 12, "c" * 12, "c" * 12]


def test_the_head_is_preferred_among_equals() -> None:
    """With equal room the head node comes first."""
    nodes = [make_node("a"), make_node("b", is_head=True)]
    request = plan_request(make_cluster(world_size=None, ranks_per_node=2), "cuda", nodes)
    assert {selector["ray.io/node-id"] for selector in request.selectors or ()} == {"b" * 12}


def test_busy_is_not_short() -> None:
    """What another job holds now may come free: only totals refuse, the deadline decides about the rest."""
    busy = make_node("a", free={"CPU": 0, "GPU": 0})
    assert len(plan_request(make_cluster(), "cuda", [busy]).bundles) == 4


def test_a_shortage_names_resource_request_and_nodes() -> None:
    """16 GPUs of two nodes with 4 each: which resource, how much is asked, what the cluster and each node have."""
    nodes = [make_node("a"), make_node("b", free={"CPU": 16, "GPU": 3})]
    with pytest.raises(PlacementError) as caught:
        plan_request(make_cluster(world_size=16), "cuda", nodes)
    text = str(caught.value)
    assert "GPU: 16 asked (16 ranks x 1), the cluster has 8" in text
    assert "CPU:" not in text
    assert "node aaaaaaaa (10.0.0.1): 16 of 16 CPU free, 4 of 4 GPU free" in text
    assert "node bbbbbbbb (10.0.0.2): 16 of 16 CPU free, 3 of 4 GPU free" in text


def test_sums_do_not_hide_that_no_node_holds_a_rank() -> None:
    """Two half-fitting nodes do not make one rank: 3 GPUs per rank on nodes with 2 do not fit."""
    with pytest.raises(PlacementError, match="GPU: 3 asked"):
        plan_request(make_cluster(world_size=1, gpus_per_rank=3), "cuda", [make_node("a", 2), make_node("b", 2)])


def test_resources_on_different_nodes_do_not_combine() -> None:
    """CPUs here and GPUs there hold no rank that needs both, and the message says that."""
    nodes = [make_node("a", gpus=0, cpus=16), make_node("b", gpus=4, cpus=0)]
    with pytest.raises(PlacementError, match="no node combines the resources"):
        plan_request(make_cluster(), "cuda", nodes)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [("STRICT_PACK", "STRICT_PACK: no single node holds 6 ranks"), ("STRICT_SPREAD", "STRICT_SPREAD needs 6 nodes")],
)
def test_strict_strategies_are_checked(strategy: str, words: str) -> None:
    """Six ranks fit on two nodes of four, but neither on one nor one per node."""
    cluster = make_cluster(world_size=6, placement_strategy=strategy)
    nodes = [make_node("a"), make_node("b")]
    with pytest.raises(PlacementError, match=words):
        plan_request(cluster, "cuda", nodes)
    assert plan_request(make_cluster(world_size=6), "cuda", nodes).strategy == "PACK"


def test_too_few_nodes_are_counted() -> None:
    """Three nodes with eight ranks each where one node has room: how many exist and what a rank needs are said."""
    nodes = [make_node("a", 8), make_node("b", 4)]
    words = r"3 nodes with room for 8 ranks each are asked \(one rank needs 1 CPU, 1 GPU\), 1 exist; node aaaaaaaa"
    with pytest.raises(PlacementError, match=words):
        plan_request(make_cluster(world_size=None, ranks_per_node=8, num_nodes=3), "cuda", nodes)


def test_labels_choose_nodes() -> None:
    """Accelerator type and own labels must all match; without any match they are listed."""
    cluster = make_cluster(accelerator_type="H200", node_labels={"zone": "east"})
    good = make_node("a", labels={"ray.io/accelerator-type": "H200", "zone": "east"})
    bad = make_node("b", gpus=64, labels={"ray.io/accelerator-type": "H200", "zone": "west"})
    assert (matches(cluster, good), matches(cluster, bad)) == (True, False)
    request = plan_request(cluster, "cuda", [bad, good])
    assert request.selectors == ({"zone": "east", "ray.io/accelerator-type": "H200"},) * 4
    with pytest.raises(PlacementError, match=r"no alive node has the labels zone=east, ray\.io/accelerator-type=H200"):
        plan_request(cluster, "cuda", [bad])


def test_fractions_add_up_to_whole_gpus() -> None:
    """Ten ranks of a tenth of a GPU fit one GPU; eleven do not."""
    nodes = [make_node("a", gpus=1)]
    assert len(plan_request(make_cluster(world_size=10, gpus_per_rank=0.1), "cuda", nodes).bundles) == 10
    with pytest.raises(PlacementError, match=r"GPU: 1\.1 asked"):
        plan_request(make_cluster(world_size=11, gpus_per_rank=0.1), "cuda", nodes)


def test_an_empty_cluster_is_described() -> None:
    """Without nodes there is still a sentence."""
    assert describe([], {"CPU": 1.0}) == "no alive node"
