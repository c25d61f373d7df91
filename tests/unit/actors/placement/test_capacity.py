"""Capacity: what fits, what is short, and in which words, without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.errors import PlacementError
from ray_warmup.actors.placement.capacity import bundle_of, describe, matching, plan_request, wish
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
    ("fields", "backend"),
    [
        ({"backend": "auto"}, "cuda"),
        ({"backend": "auto", "gpus_per_rank": 0.25}, "cuda"),
        ({"backend": "auto", "gpus_per_rank": 0}, "cpu"),
        ({"backend": "cpu"}, "cpu"),
        ({"backend": "cuda"}, "cuda"),
    ],
)
def test_the_backend_is_what_is_asked_for(fields: dict[str, Any], backend: str) -> None:
    """`auto` is cuda where GPUs are asked for, whether there are any yet or not; what is named stays."""
    assert make_cluster(**fields).backend_beside_gpus == backend


@pytest.mark.parametrize("fields", [{}, {"world_size": None, "ranks_per_node": 2, "num_nodes": 2}])
def test_gpus_that_are_not_there_are_never_replaced_by_cpus(fields: dict[str, Any]) -> None:
    """The refusal says that no node has one, and that CPUs must be asked for."""
    cluster = make_cluster(backend="auto", **fields)
    with pytest.raises(PlacementError, match=r"no node has a GPU .*cluster\.backend=cpu"):
        plan_request(cluster, cluster.backend_beside_gpus, [make_node("a", gpus=0)])
    with pytest.raises(PlacementError) as caught:
        plan_request(cluster, cluster.backend_beside_gpus, [make_node("a", gpus=1)])
    assert "no node has a GPU" not in str(caught.value)


def test_what_a_growing_cluster_is_asked_for() -> None:
    """By world size the ranks themselves; by node one bundle for a node's ranks, each on a node of its own."""
    labelled = make_cluster(placement_strategy="SPREAD", accelerator_type="H200")
    asked = wish(labelled, "cuda")
    assert (asked.bundles, asked.strategy) == (({"CPU": 1.0, "GPU": 1.0},) * 4, "SPREAD")
    assert asked.selectors == ({"ray.io/accelerator-type": "H200"},) * 4
    by_node = wish(make_cluster(world_size=None, ranks_per_node=8, num_nodes=2, cpus_per_rank=0.5), "cuda")
    assert (by_node.bundles, by_node.strategy) == (({"CPU": 4.0, "GPU": 8.0},) * 2, "STRICT_SPREAD")
    assert by_node.selectors is None


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
    assert matching(cluster, (good, bad)) == [good]
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
