"""One generation for each artifact: published again, by many processes at once, or after a rollback."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.cache_admin.store_changes import PruneRules, apply_prune, plan_prune
from ray_warmup.warmup.store.generations import Generations, Pointer
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import prune_generations
from tests.artifacts import KEY, make_artifact, table_bytes


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """Two generations; the second is current."""
    found = NodeStore(tmp_path / "key")
    for number in (1, 2):
        found.publish(make_artifact(number))
    return found


def test_an_artifact_that_is_stored_becomes_current_again(store: NodeStore) -> None:
    """Publishing an earlier artifact goes back to its generation instead of making another one."""
    published = store.publish(make_artifact(1))

    assert (published.generation, store.generations.numbers()) == (1, [1, 2])
    assert store.lookup(KEY).table == table_bytes(1)


def _publish(directory: Path, at: float) -> int:
    while time.time() < at:
        pass
    return NodeStore(directory).publish(make_artifact(3)).generation


def test_many_that_publish_one_artifact_at_once_make_one_generation(store: NodeStore) -> None:
    """Nodes that share a directory and import the same file end with one number, and what was there stays."""
    start = time.time() + 1.5
    with multiprocessing.get_context("fork").Pool(6) as pool:
        numbers = pool.starmap(_publish, [(store.directory, start)] * 6, chunksize=1)
    digests = [store.load_artifact(generation=n)[0].digest for n in store.generations.numbers()]

    assert len(set(digests)) == len(digests) == 3
    assert store.generations.pointer().generation in numbers
    assert store.lookup(KEY).table == table_bytes(3)


@pytest.mark.parametrize("when", ["add", "commit"])
def test_publishers_that_did_not_see_each_other_end_with_one_number(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Another publisher of the same artifact that finishes between two steps of this one leaves one generation."""
    step = getattr(Generations, when)
    others = [NodeStore(store.directory)]

    def slow(self: Generations, *arguments: Manifest | Pointer | int) -> object:
        if others:
            others.pop().publish(make_artifact(3))
        return step(self, *arguments)

    monkeypatch.setattr(Generations, when, slow)
    published = store.publish(make_artifact(3))
    with_it = [n for n in store.generations.numbers() if store.load_artifact(generation=n)[0].table == table_bytes(3)]

    assert with_it == [published.generation] == [store.generations.pointer().generation]


def test_a_generation_that_is_gone_to_is_not_pruned_meanwhile(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pruner that strikes between the look at an earlier generation and its commit leaves it."""
    commit = Generations.commit

    def late(self: Generations, pointer: Pointer) -> None:
        assert prune_generations(NodeStore(store.directory), [1]) == []
        commit(self, pointer)

    monkeypatch.setattr(Generations, "commit", late)
    assert store.publish(make_artifact(1)).generation == 1
    assert store.lookup(KEY).table == table_bytes(1)


def test_a_generation_that_another_stands_for_stays_while_it_is_held(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is about to make it current finds it whole; without such a holder it goes."""
    add = Generations.add
    leases = []

    def slow(self: Generations, manifest: Manifest, number: int) -> Pointer:
        monkeypatch.setattr(Generations, "add", add)
        assert NodeStore(store.directory).publish(make_artifact(3)).generation == number + 1
        leases.append(NodeStore(store.directory).hold(number))
        return add(self, manifest, number)

    monkeypatch.setattr(Generations, "add", slow)
    assert store.publish(make_artifact(3)).generation == 4
    assert store.generations.numbers() == [1, 2, 3, 4]
    assert store.load_artifact(generation=3)[0].table == table_bytes(3)
    assert [lease.generation for lease in leases] == [3]


def test_pruning_counts_different_artifacts(tmp_path: Path) -> None:
    """Equal generations, as an older version left them, do not push out what one could roll back to."""
    store = NodeStore(tmp_path / "key")
    for number in (1, 2, 3):
        store.publish(make_artifact(number))
    manifest = store.current()[1]
    for _ in range(4):
        number = store.generations.reserve()
        store.generations.commit(store.generations.add(manifest, number))
    plan = plan_prune([store.directory], PruneRules(keep_generations=3), time.time())
    apply_prune(plan, [store.directory], time.time)
    left = {store.load_artifact(generation=n)[0].digest for n in store.generations.numbers()}

    assert left == {make_artifact(number).digest for number in (1, 2, 3)}
    assert len(store.generations.numbers()) == 3
    assert store.generations.pointer().generation == 7
