"""PLACING without a cluster: what is waited for, what is refused, what happens when nodes come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.errors import PlacementError, PlacementTimeoutError, StartupError
from ray_warmup.actors.placement import placing
from ray_warmup.actors.placement.capacity import NODE_ID_LABEL, Request
from ray_warmup.actors.placement.placing import Placing, StoppedError
from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.ranks import ActorLocation, RankInfo, assign_ranks
from tests.unit.actors.placement.test_capacity import make_node

World = Callable[[float], list[Node]]
INFO = assign_ranks([ActorLocation(0, "a" * 12, ("0",), "10.0.0.1")], None)[0]


class Group:
    """A placement group that is placed once every bundle has a live node with room for it."""

    def __init__(self, cluster: Cluster, request: Request, name: str) -> None:
        self._cluster, self.request, self.name = cluster, request, name
        self.is_removed = False

    def ask(self) -> asyncio.Future[None]:
        """What can be awaited until it is placed."""
        self._cluster.asked.append(self)
        return asyncio.ensure_future(self._until_placed())

    async def _until_placed(self) -> None:
        while not self._fits():
            await asyncio.sleep(0.01)

    def _fits(self) -> bool:
        free = {node.node_id: dict(node.free) for node in self._cluster.nodes()}
        for index, bundle in enumerate(self.request.bundles):
            pin = (self.request.selectors or ({},) * len(self.request.bundles))[index].get(NODE_ID_LABEL)
            places = [n for n in free if pin in (None, n) and all(free[n].get(r, 0) >= v for r, v in bundle.items())]
            if not places:
                return False
            for name, amount in bundle.items():
                free[places[0]][name] -= amount
        return True

    @property
    def pinned_to(self) -> frozenset[str]:
        """As in `Placement`."""
        return frozenset(row[NODE_ID_LABEL] for row in self.request.selectors or () if NODE_ID_LABEL in row)

    @property
    def nodes(self) -> frozenset[str]:
        """As in `Placement`."""
        return self.pinned_to

    @property
    def asked(self) -> str:
        """As in `Placement`."""
        return f"{len(self.request.bundles)} ranks"

    def remove(self) -> None:
        """Give back."""
        self.is_removed = True


class Cluster:
    """Nodes that come and go by a clock that runs a hundred times as fast."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        self._world = world
        self.asked: list[Group] = []
        self.said: list[str] = []
        self.stop: str | None = None
        began = time.monotonic()
        self.now = lambda: (time.monotonic() - began) * 100
        monkeypatch.setattr(placing, "time", SimpleNamespace(monotonic=self.now))
        monkeypatch.setattr(placing, "POLL_S", 0.005)
        monkeypatch.setattr(placing.membership, "nodes", lambda: tuple(self.nodes()))
        monkeypatch.setattr(placing, "Placement", lambda request, name: Group(self, request, name))
        monkeypatch.setattr(placing, "held_on", lambda nodes, *_: {node: ["actor Other: 4 GPU"] for node in nodes})

    def nodes(self) -> list[Node]:
        """What there is now."""
        return self._world(self.now())

    def placing(self, config: WarmupConfig, may_grow: bool = True) -> Placing:
        """The way to a group."""
        return Placing(
            config.cluster,
            config.timeouts.placing,
            "warmup-r",
            may_grow,
            self.said.append,
            lambda: self.stop,
            config.model.quantization,
            config.timeouts.nodes,
        )

    def place(self, config: WarmupConfig, may_grow: bool = True) -> Group:
        """Place; every group that was asked for and not given is removed again."""
        given: Any = None
        try:
            given = asyncio.run(asyncio.wait_for(self.placing(config, may_grow).place(), 20))
        finally:
            assert all(group.is_removed for group in self.asked if group is not given)
        return given


def config(nodes: float | None = None, **cluster: Any) -> WarmupConfig:
    """Two ranks of one GPU each, `backend: auto`, a minute for placing."""
    asked = cluster or {"world_size": 2}
    timeouts = {"placing": 60, "nodes": nodes}
    return parse_config({"cluster": asked, "model": {"name": "llama-3.1-8b"}, "timeouts": timeouts})


BY_NODE = {"num_nodes": 2, "ranks_per_node": 2}


def later(seconds: float, first: list[Node], then: list[Node]) -> World:
    """A world that changes once."""
    return lambda now: first if now < seconds else then


@pytest.mark.parametrize("cluster", [{"world_size": 2}, BY_NODE])
def test_nodes_that_come_later_are_waited_for(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No node has a GPU at first: the group is asked for, so that an autoscaler sees it, and placed once they come."""
    gpus = [make_node("a"), make_node("b")]
    world = Cluster(monkeypatch, later(25, [make_node("h", gpus=0)], gpus))
    given = world.place(config(**cluster))
    assert world.asked[0].request.bundles[0]["GPU"] == (1 if "world_size" in cluster else 2)
    assert len(given.request.bundles) == (2 if "world_size" in cluster else 4)
    assert given.pinned_to == (frozenset() if "world_size" in cluster else {"a" * 12, "b" * 12})
    assert len(world.said) in (1, 2, 3)
    assert all("no node has a GPU" in line and "timeouts.placing" in line for line in world.said)


@pytest.mark.parametrize("cluster", [{"world_size": 2}, BY_NODE])
def test_gpus_that_never_come_end_in_a_placement_error(
    cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At `timeouts.placing`, never on CPUs, and a line every ten seconds until then."""
    world = Cluster(monkeypatch, lambda now: [make_node("h", gpus=0)])
    with pytest.raises(PlacementError, match=r"no node has a GPU.*waited 60 s for it \(timeouts.placing\)") as caught:
        world.place(config(**cluster))
    assert not isinstance(caught.value, PlacementTimeoutError)
    assert 60 <= world.now() < 80
    assert 3 <= len(world.said) <= 5


@pytest.mark.parametrize("cluster", [{"world_size": 2}, BY_NODE])
def test_nodes_have_a_deadline_of_their_own(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`run --wait-for-nodes`: they come after twice the deadline of PLACING, which begins then."""
    busy = [make_node(name, free={"CPU": 16, "GPU": 0}) for name in "ab"]
    free = [make_node("a"), make_node("b")]

    def world(now: float) -> list[Node]:
        if now < 130:
            return [make_node("h", gpus=0)]
        return busy if now < 170 else free

    cluster_of = Cluster(monkeypatch, world)
    given = cluster_of.place(config(nodes=400, **cluster))
    assert len(given.request.bundles) == (2 if "world_size" in cluster else 4)
    assert 170 <= cluster_of.now() < 200
    assert any("left (timeouts.nodes): " in line for line in cluster_of.said)


@pytest.mark.parametrize("cluster", [{"world_size": 2}, BY_NODE])
def test_nodes_that_never_come_are_waited_for_as_long_as_asked(
    cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the field that would wait longer."""
    world = Cluster(monkeypatch, lambda now: [make_node("h", gpus=0)])
    with pytest.raises(PlacementError, match=r"no node has a GPU.*waited 150 s for it \(timeouts.nodes\)") as caught:
        world.place(config(nodes=150, **cluster))
    assert not isinstance(caught.value, PlacementTimeoutError)
    assert 150 <= world.now() < 175


@pytest.mark.parametrize("cluster", [{"world_size": 2}, BY_NODE])
def test_busy_nodes_are_not_waited_for_as_nodes(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that are there and held by others have the deadline of PLACING."""
    busy = [make_node(name, free={"CPU": 16, "GPU": 0}) for name in "ab"]
    world = Cluster(monkeypatch, lambda now: busy)
    with pytest.raises(PlacementTimeoutError, match=r"within 60 s \(timeouts.placing\)"):
        world.place(config(nodes=400, **cluster))
    assert 60 <= world.now() < 80


def test_where_no_node_can_join_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray was started for this run: what does not fit is refused at once."""
    world = Cluster(monkeypatch, lambda now: [make_node("h", gpus=0)])
    with pytest.raises(PlacementError, match="no node has a GPU"):
        world.place(config(), may_grow=False)
    assert (world.asked, world.said) == ([], [])


def test_a_pinned_node_that_is_lost_is_planned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A raylet was killed a moment ago and Ray does not know yet: later the ranks go to the others, by name."""
    ghost = make_node("a", gpus=0, cpus=4)
    dead = make_node("b", free={})
    alive = [make_node("c"), make_node("d")]
    first = [ghost, make_node("b", gpus=8), alive[0]]
    # `b` has most room and is chosen, but no bundle is ever placed on it
    world = Cluster(monkeypatch, later(15, first, [ghost, *alive]))
    monkeypatch.setattr(Group, "_fits", lambda self: "b" * 12 not in self.pinned_to)
    given = world.place(config(**BY_NODE))
    assert dead.node_id in world.asked[0].pinned_to
    assert given.pinned_to == {"c" * 12, "d" * 12}
    assert [line for line in world.said if "node bbbbbbbb (10.0.0.2)" in line and "was lost" in line]
    assert world.now() < 40


def test_a_lost_node_without_another_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can join."""
    nodes = [make_node("a"), make_node("b")]
    world = Cluster(monkeypatch, later(15, nodes, nodes[:1]))
    monkeypatch.setattr(Group, "_fits", lambda self: False)
    with pytest.raises(PlacementError, match=r"node bbbbbbbb \(10\.0\.0\.2\), to which ranks were assigned, was lost"):
        world.place(config(**BY_NODE), may_grow=False)
    assert world.now() < 30


@pytest.mark.parametrize("cluster", [{"world_size": 2}, BY_NODE])
def test_what_others_hold_is_told_with_its_holder(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough in all and not free: pins, what is free and who holds it, every ten seconds and in the error."""
    busy = [make_node(name, free={"CPU": 16, "GPU": 0}) for name in "ab"]
    world = Cluster(monkeypatch, lambda now: busy)
    with pytest.raises(PlacementTimeoutError, match=r"within 60 s \(timeouts.placing\)") as caught:
        world.place(config(**cluster))
    for text in (str(caught.value), *world.said):
        assert "0 of 4 GPU free" in text
        assert "on node aaaaaaaa (10.0.0.1) held by actor Other: 4 GPU" in text
        assert ("pinned to node aaaaaaaa (10.0.0.1), node bbbbbbbb" in text) is ("world_size" not in cluster)
    assert 3 <= len(world.said) <= 5


@pytest.mark.parametrize("cluster", [{"world_size": 2}, BY_NODE])
def test_placing_is_ended_from_outside(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt is looked at while nothing is placed, too, and takes the group back."""
    world = Cluster(monkeypatch, lambda now: [make_node("h", gpus=0)])
    world.stop = "interrupted"
    with pytest.raises(StoppedError, match="interrupted"):
        world.place(config(**cluster))
    assert world.now() < 20


def start_of(outcome: BaseException | None, hang_s: float = 0.0) -> Any:
    """A start of ranks."""

    async def start() -> tuple[RankInfo, ...]:
        await asyncio.sleep(hang_s)
        if outcome is not None:
            raise outcome
        return (INFO,)

    return start()


def test_a_node_that_dies_while_ranks_start_is_planned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is given up as soon as the node is known to be lost; one that fails for another reason fails."""
    nodes = [make_node("a"), make_node("b")]
    world = Cluster(monkeypatch, later(15, nodes, nodes[1:]))
    group: Any = Group(world, Request(({"GPU": 1.0},), "PACK", ({NODE_ID_LABEL: "a" * 12},)), "g")

    async def through() -> None:
        way = world.placing(config())
        assert await way.unless_lost(group, start_of(None)) == (INFO,)
        with pytest.raises(StartupError, match="bad"):
            await way.unless_lost(group, start_of(StartupError("bad")))
        assert await way.unless_lost(group, start_of(None, hang_s=30)) is None
        assert await way.unless_lost(group, start_of(StartupError("unschedulable"))) is None

    asyncio.run(asyncio.wait_for(through(), 20))
    assert len([line for line in world.said if "node aaaaaaaa" in line]) == 2
