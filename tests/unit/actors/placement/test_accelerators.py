"""A quantization that no usable GPU can run is refused before anything is placed."""

from __future__ import annotations

import pytest

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.errors import PlacementError
from ray_warmup.actors.placement.accelerators import LABEL, check_accelerators
from ray_warmup.configs.schema import ClusterSection


def node(name: str, accelerator: str | None, gpus: float = 4, **labels: str) -> Node:
    """A node with GPUs of a type."""
    total = {"CPU": 16.0, "GPU": gpus}
    found = {LABEL: accelerator} if accelerator is not None else {}
    return Node(name * 12, "10.0.0.1", total, total, found | labels)


CLUSTER = ClusterSection(world_size=4, backend="cuda")


def test_old_gpus_are_refused_by_field_rule_and_node() -> None:
    """The message names the field, the rule, the best GPU there is, and each node with its own."""
    with pytest.raises(PlacementError) as caught:
        check_accelerators(CLUSTER, "fp8", [node("a", "V100"), node("b", "A100"), node("c", None, gpus=0)])
    said = str(caught.value)
    assert "model.quantization: 'fp8' needs compute capability 8.9 or newer; this GPU has 8.0" in said
    assert "node aaaaaaaa (10.0.0.1): V100; node bbbbbbbb (10.0.0.1): A100" in said


@pytest.mark.parametrize("accelerator", ["H200", "L4", "something new", None])
def test_other_gpus_may_be_used(accelerator: str | None) -> None:
    """One node with a newer, an unlisted or an unnamed type is enough; ranks ask their device again."""
    check_accelerators(CLUSTER, "fp8", [node("a", "V100"), node("b", accelerator)])


def test_only_nodes_that_match_count() -> None:
    """A newer GPU on a node without the wanted labels does not help."""
    picky = CLUSTER.model_copy(update={"node_labels": {"pool": "old"}})
    nodes = [node("a", "T4", pool="old"), node("b", "H100")]
    check_accelerators(CLUSTER, "fp8", nodes)
    with pytest.raises(PlacementError, match="T4"):
        check_accelerators(picky, "fp8", nodes)


def test_without_quantization_nothing_is_refused() -> None:
    """Old GPUs run the activation dtype."""
    check_accelerators(CLUSTER, "none", [node("a", "K80")])
