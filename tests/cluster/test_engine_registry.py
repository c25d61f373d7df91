"""Engines that start by themselves in a cluster with a registry: what they take from it, wait for, and leave to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

from ray_warmup.actors.registry.client import found_registry, start_registry, stop_registry
from ray_warmup.configs.schema import CacheSection
from tests.engines.engine_runs import config, phases, plant, run, serving
from tests.testbed import Node, wait_until

pytestmark = pytest.mark.cluster


def end(actors: Sequence[Any], nodes: Sequence[Node]) -> None:
    """Stop the registry and engines, and empty the nodes' caches."""
    stop_registry()
    for actor in actors:
        ray.kill(actor)
    for node in nodes:
        shutil.rmtree(node.home / "root", ignore_errors=True)


@pytest.mark.long
def test_an_engine_takes_from_the_registry_what_its_node_lacks(engine_nodes: list[Node]) -> None:
    """Its process is connected to Ray: the plugin asks by itself, and the registry knows the node afterwards."""
    warm, cold = engine_nodes
    plant("root", warm)
    actors = [serving(cold) for _ in range(2)]
    before, _ = ray.get(actors[0].start.remote("/models/another", {"RAY_WARMUP": "auto"}), timeout=60)
    try:
        start_registry(CacheSection())
        lookup, _ = ray.get(actors[1].start.remote("/models/engine-life", {"RAY_WARMUP": "require"}), timeout=60)
        (known,) = ray.get(found_registry().status.remote())
        assert (lookup, set(known.nodes), known.leader) == ("hit", {warm.node_id, cold.node_id}, "")
        assert "no registry runs in this cluster" in before
    finally:
        end(actors, engine_nodes)


@pytest.mark.long
def test_an_engine_waits_for_a_run_only_when_it_is_told_to(engine_nodes: list[Node]) -> None:
    """While a run records, one engine starts cold at once and names the run, and so does one that waits for less than
    the recording takes; with a longer RAY_WARMUP_WAIT another one hits."""
    request = config("unused", num_nodes=1, args={"slow_s": 6}, proof="off")
    request = request.model_copy(update={"cache": CacheSection()})
    cold = engine_nodes[1]
    actors = [serving(cold) for _ in range(3)]
    try:
        start_registry(CacheSection())
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run, request)
            actor = found_registry()
            assert wait_until(lambda: any(row.leader for row in ray.get(actor.status.remote())), 60), "no lease"
            patient = actors[0].start.remote("/models/unused", {"RAY_WARMUP_WAIT": "60"})
            brief = actors[2].start.remote("/models/unused", {"RAY_WARMUP_WAIT": "0.5"})
            hasty, _ = ray.get(actors[1].start.remote("/models/unused", {}), timeout=60)
            over, _ = ray.get(brief, timeout=60)
            (lookup, said), (report, _) = ray.get(patient, timeout=60), running.result(timeout=90)
        assert report.ready, report.error
        assert "makes the artifact since" in hasty
        assert "makes the artifact since" in over
        assert lookup == "hit"
        assert any("waiting at most 60 s" in text for text in said)
    finally:
        end(actors, engine_nodes)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["", "late_compile"])
def test_what_an_engine_compiled_after_a_miss_is_offered(engine_nodes: list[Node], fault: str) -> None:
    """The registry knows that it lies there unproven, and gives it to no other engine. A run proves it on the other
    node, without recording, and from then on the registry gives it to engines, also on a node that has nothing. What
    only requests compile is added by the first proof start, and the second one proves all of it."""
    other, cold = engine_nodes
    actors = [serving(node) for node in (other, cold, other, cold)]
    # Caches of its own: an engine that finds everything compiled has nothing to offer.
    home = {"HOME": str(cold.home / "offering"), "TRITON_CACHE_DIR": str(cold.home / "offering" / "triton")}
    home["TORCHINDUCTOR_CACHE_DIR"] = str(cold.home / "offering" / "inductor")
    try:
        start_registry(CacheSection())
        registry = found_registry()
        first, _ = ray.get(actors[1].start.remote("/models/offered", home), timeout=60)
        assert wait_until(lambda: ray.get(registry.status.remote()), 30), "nothing was offered"
        (row,) = ray.get(registry.status.remote())
        # It can sign nothing, so it leaves nothing of its own: its home has half of what it needs.
        second, _ = ray.get(actors[0].start.remote("/models/offered", {"RAY_WARMUP_TRUST": "signed"}), timeout=60)

        assert (row.unproven, row.digest, row.nodes) == ((cold.node_id,), "", ())
        assert all(lookup.endswith("; the registry knows no artifact of it") for lookup in (first, second))

        request = config("offered", args={"fault": fault}, proof="off").model_copy(update={"cache": CacheSection()})
        report, events = run(request)
        assert report.ready, report.error
        (row,) = ray.get(registry.status.remote())
        assert (row.digest == "", row.unproven) == (False, ())  # learnt by the end of the run
        assert report.recorded_engine_s is None  # no start began with empty caches
        assert "RECORDING" not in phases(events), report.warnings
        notes = {node.node_id: node.notes for node in report.nodes}
        (record,) = [path for node in engine_nodes for path in (node.home / "root").rglob("proof.json")]
        reach = json.loads(record.read_text())["reach"]
        assert any("FlashInfer are not tuned" in note for node in notes for note in notes[node])
        said = [note for node in notes for note in notes[node] if "has left the artifact" in note]
        if fault:  # both nodes have compiled a part of it
            assert (reach, len(said)) == ("home", 1), notes
            assert "a proof start has added what it lacked" in said[0]
        else:
            assert (reach, notes[other.node_id][:1]) == ("node", tuple(said))
            assert other.home in record.parents
        shutil.rmtree(other.home / "root")
        variables = {"RAY_WARMUP": "require"}
        starts = [actor.start.remote("/models/offered", variables) for actor in actors[2:]]
        assert [lookup for lookup, _ in ray.get(starts, timeout=60)] == ["hit", "hit"]
    finally:
        end(actors, engine_nodes)
