"""Nodes that come and go while a registry runs, without Ray: what it knows of each."""

from __future__ import annotations

import asyncio
from collections.abc import Set

import pytest
import ray

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.registry import registry_actor
from ray_warmup.actors.registry.registry_actor import Registry
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.values import ArtifactFacts, Asker, Known, Lead

SOON_S = 5.0


class Cluster:
    """Nodes and what their stores hold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **stores: tuple[ArtifactFacts, ...]) -> None:
        self.stores = dict(stores)
        self.asked: list[str] = []
        monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": name, "Alive": True} for name in self.stores])
        monkeypatch.setattr(membership, "members", self._members)
        monkeypatch.setattr(registry_actor, "stored_artifacts", self._stored)
        monkeypatch.setattr(registry_actor, "export_metrics", lambda: None)
        monkeypatch.setattr(registry_actor, "_grace_s", lambda: 0.0)
        monkeypatch.setattr(registry_actor, "_NODES_EVERY_S", 0.01)

    def _members(self) -> tuple[Node, ...]:
        return tuple(Node(name, "", {}, {}) for name in self.stores)

    def _stored(self, cache: str, node_ids: Set[str], limit_s: float) -> list[tuple[str, ArtifactFacts]]:
        self.asked += sorted(node_ids)
        return [(name, facts) for name in node_ids for facts in self.stores.get(name, ())]


def made(digest: str, created_at: float = 1.0) -> ArtifactFacts:
    """An artifact of the one key."""
    return ArtifactFacts(key_sha256="key", digest=digest, depth=0, created_at=created_at, bytes=0)


async def until_on(running: Registry, *nodes: str) -> str:
    """Wait until these nodes are known to hold the newest artifact, and return its digest."""
    async with asyncio.timeout(SOON_S):
        while True:
            for row in await running.status():
                if (row.key_sha256, row.nodes) == ("key", nodes):
                    return row.digest
            await asyncio.sleep(0.01)


def test_what_a_node_that_joins_holds_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody measures what a disk that comes with a new node holds; each node is asked once."""
    cluster = Cluster(monkeypatch, head=())

    async def work() -> None:
        running = Registry(CacheSection().model_dump_json())
        await running.learn()
        cluster.stores["late"] = (made("a"),)
        assert await until_on(running, "late") == "a"
        assert await running.ask("key", Asker("head", 1)) == Known(made("a"))

    asyncio.run(work())
    assert cluster.asked.count("late") == 1


def test_a_node_that_is_lost_and_comes_back_is_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another id, on its old disk. The old id holds nothing any more, and its process leads no more."""
    cluster = Cluster(monkeypatch, head=(made("a"),), other=(made("a"),))

    async def work() -> None:
        running = Registry(CacheSection().model_dump_json())
        assert await until_on(running, "head", "other") == "a"
        led = await running.ask("another key", Asker("other", 7))
        assert isinstance(led, Lead)
        disk = cluster.stores.pop("other")
        assert await until_on(running, "head") == "a"
        assert not await running.beat("another key", led.token, Asker("other", 7), "")
        assert isinstance(await running.ask("another key", Asker("head", 1)), Lead)
        cluster.stores["other-again"] = disk
        assert await until_on(running, "head", "other-again") == "a"

    asyncio.run(work())


@pytest.mark.parametrize(("made_at", "newest", "nodes"), [(0.5, "a", ("head",)), (2.0, "b", ("late",))])
def test_what_a_node_brings_counts_by_its_age(
    monkeypatch: pytest.MonkeyPatch, made_at: float, newest: str, nodes: tuple[str, ...]
) -> None:
    """An older artifact replaces nothing, a newer one is handed out from now on."""
    cluster = Cluster(monkeypatch, head=(made("a"),))

    async def work() -> None:
        running = Registry(CacheSection().model_dump_json())
        await running.learn()
        cluster.stores["late"] = (made("b", made_at),)
        async with asyncio.timeout(SOON_S):
            while "late" not in cluster.asked:
                await asyncio.sleep(0.01)
        assert await until_on(running, *nodes) == newest

    asyncio.run(work())
