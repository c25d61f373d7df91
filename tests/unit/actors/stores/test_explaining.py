"""Which nodes `cache explain --cluster` judges: those that a run would use, no idle one, none without room."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.stores import cache_commands
from ray_warmup.actors.stores.cache_commands import ClusterAnswer, perform_everywhere
from ray_warmup.configs import load_config
from ray_warmup.warmup.cache_admin.requests import CacheAnswer, CacheRequest
from ray_warmup.warmup.cache_admin.store_inspection import Explanation

NAMES = ("a", "b", "c")


def explain(monkeypatch: pytest.MonkeyPatch, hits: str, cpus: tuple[int, int, int] = (2, 2, 2), **cluster: Any) -> Any:
    """The answer of three nodes with so many CPUs, the first one the head, of which these hit."""
    asked = {"ranks_per_node": 2, "num_nodes": 2, "world_size": None, **cluster}
    config = load_config("cpu_two_nodes", [f"cluster.{name}={'null' if v is None else v}" for name, v in asked.items()])
    nodes = tuple(
        Node(name * 56, "127.0.0.1", {"CPU": float(count)}, {}, is_head=name == "a")
        for name, count in zip(NAMES, cpus, strict=True)
    )

    def ask_nodes(function: Any, arguments: dict[str, Any], timeout_s: float) -> Any:
        rows = {node: Explanation("p", node[0] in hits, "", ()) for node in arguments}
        found = {node: CacheAnswer("explain", row.hit, row) for node, row in rows.items()}
        return found, {}

    monkeypatch.setattr(cache_commands, "ask_nodes", ask_nodes)
    monkeypatch.setattr(cache_commands.membership, "members", lambda: nodes)
    return perform_everywhere("explain", CacheRequest(), 1.0, config)


def judged(answer: ClusterAnswer) -> str:
    """First letters of the nodes that were judged."""
    return "".join(row.node_id[0] for row in answer.nodes)


def test_an_idle_node_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three nodes are enough: a warm cluster is a hit, whichever two they are; one hit is not enough."""
    for hits in ("ab", "bc", "ac"):
        answer = explain(monkeypatch, hits)
        assert (answer.ok, judged(answer)) == (True, hits)
    cold = explain(monkeypatch, "c")
    assert (cold.ok, judged(cold)) == (False, "ac")


def test_a_head_without_room_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a CPU, which is room for a rank but not for the two that each node gets."""
    answer = explain(monkeypatch, "bc", (1, 2, 2))
    assert (answer.ok, judged(answer)) == (True, "bc")
    short = explain(monkeypatch, "b", (1, 2, 1))
    assert (short.ok, "do not fit" in short.error) == (False, True)


def test_ranks_that_are_placed_anywhere_need_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `world_size` the nodes that hit must hold all of them; spread, there must be a node for each."""
    world = {"ranks_per_node": None, "num_nodes": None, "world_size": 4}
    assert explain(monkeypatch, "bc", **world).ok
    assert not explain(monkeypatch, "b", **world).ok
    assert explain(monkeypatch, "b", (4, 4, 4), **world).ok
    assert not explain(monkeypatch, "b", (4, 4, 4), **world, placement_strategy="SPREAD").ok
