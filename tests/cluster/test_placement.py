"""Placement: what is asked is checked first, waited for with a deadline, and always given back."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.actors.errors import EXIT_FAILED
from ray_warmup.configs import ConfigError, WarmupConfig
from ray_warmup.configs.loader import text_of_config
from ray_warmup.scripts.cli import app
from tests.raylets import ended
from tests.testbed import ROOT, Case, wait_until

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (
            {"ranks_per_node": None, "num_nodes": None, "world_size": 30},
            ["CPU: 30 asked", "has 8", "node 81818181", "4 of 4 CPU"],
        ),
        ({"cpus_per_rank": 99}, ["2 nodes with room for 1 ranks each", "0 exist", "of 4 CPU", "node 82828282"]),
        ({"num_nodes": 3}, ["3 nodes with room", "2 exist"]),
        ({"node_labels": {"pool": "moon"}}, ["labels pool=moon", "node 83838383"]),
        ({"accelerator_type": "H200"}, ["ray.io/accelerator-type=H200"]),
    ],
)
def test_what_does_not_fit_is_refused_at_the_deadline(case: Case, cluster: dict[str, object], words: list[str]) -> None:
    """Nodes might still join; then the error names what is short, how much is asked and what each node has."""
    began = time.monotonic()
    report = case.run(case.config(cluster=cluster, timeouts={"placing": 1}))
    assert time.monotonic() - began < 10
    assert report.error is not None
    assert report.error.startswith("PlacementError")
    assert not [word for word in words if word not in report.error], report.error
    assert not case.lines()


@pytest.mark.parametrize("backend", ["cuda", pytest.param("auto", marks=pytest.mark.long)])
def test_gpus_that_nobody_has_are_waited_for_and_named(case: Case, backend: str) -> None:
    """GPU ranks on a cluster without GPUs never run on CPUs: they wait, with a line, and the error says GPU."""
    cluster = {"backend": backend, "gpus_per_rank": 1}
    told: list[dict[str, object]] = []
    config = case.config(cluster=cluster, model={"dtype": "bfloat16"}, timeouts={"placing": 12})
    began = time.monotonic()
    report = case.run(config, on_event=told.append)
    assert 12 <= time.monotonic() - began < 25
    assert report.error is not None
    assert report.error.startswith("PlacementError")
    assert "0 exist" in report.error
    assert "0 of 0 GPU free" in report.error
    assert "waited 12 s for it (timeouts.placing)" in report.error
    assert told[0]["backend"] == "cuda"
    assert [event["event"] for event in told] == ["phase", "note"]
    assert "no node has a GPU" in str(told[1]["text"])
    assert not case.lines()


def test_a_dtype_that_the_backend_lacks_is_wrong_configuration(case: Case) -> None:
    """float32 on CUDA is refused before the cluster is asked for anything."""
    with pytest.raises(ConfigError, match=r"model\.dtype"):
        case.run(case.config(cluster={"backend": "cuda", "gpus_per_rank": 1}))


def test_busy_resources_end_in_a_named_timeout(case: Case) -> None:
    """When another job holds the CPUs, the run gives up at its deadline and says what is free where."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pins = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in case.bed.nodes[:2]]
    holders = [ray.remote(Holder).options(num_cpus=4, scheduling_strategy=pin).remote() for pin in pins]
    try:
        ray.get([holder.ready.remote() for holder in holders], timeout=30)
        report = case.run(case.config(timeouts={"placing": 2}))
        assert report.error is not None
        assert report.error.startswith("PlacementTimeoutError")
        assert "within 2 s (timeouts.placing)" in report.error
        assert "2 CPU" in report.error
        assert "0 of 4 CPU free" in report.error
        assert f"pinned to node {case.bed.nodes[0].node_id[:8]} (127.0.0.1)" in report.error
        assert "held by actor Holder (job " in report.error
    finally:
        for holder in holders:
            ray.kill(holder)


def test_a_node_that_joins_later_is_waited_for(case: Case) -> None:
    """Three nodes are asked for and two exist: the run waits, and goes on when the third joins."""
    node = None
    told = threading.Event()

    def on_event(event: dict[str, object]) -> None:
        if event["event"] == "note":
            told.set()

    config = case.config(cluster={"num_nodes": 3}, timeouts={"placing": 60})
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(case.run, config, on_event=on_event)
        try:
            assert told.wait(30)
            node = case.bed.add_node(pool="main", num_cpus=1)
            report = run.result(90)
        finally:
            if node is not None:
                case.lines()
                case.bed.remove_node(node)
    assert report.ready, report.error
    assert len({rank.node_id for rank in report.ranks}) == 3


@pytest.mark.long
def test_a_node_that_joins_after_the_deadline_of_placing(case: Case) -> None:
    """`timeouts.nodes`, without an autoscaler: PLACING may take 12 s, and the third node joins after 15 s."""
    said: list[str] = []

    def on_event(event: dict[str, object]) -> None:
        if event["event"] == "note":
            said.append(str(event["text"]))

    config = case.config(cluster={"num_nodes": 3}, timeouts={"placing": 12, "nodes": 90})
    node = None
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(case.run, config, on_event=on_event)
        try:
            time.sleep(15)
            assert not run.done(), run.result().error
            node = case.bed.add_node(pool="main", num_cpus=1)
            report = run.result(120)
        finally:
            if node is not None:
                case.lines()
                case.bed.remove_node(node)
    assert report.ready, report.error
    assert len({rank.node_id for rank in report.ranks}) == 3
    assert any("left (timeouts.nodes): " in text for text in said), said


@pytest.mark.long
def test_nodes_that_do_not_join_are_named_at_the_deadline(case: Case, tmp_path: Path) -> None:
    """`run --wait-for-nodes 4`: what is asked, how long was waited, and the field that would wait longer."""
    began = time.monotonic()
    code, said = command_of(case.config(cluster={"num_nodes": 3}), tmp_path, "4")
    assert code == EXIT_FAILED
    assert "3 nodes" in said
    assert "waited 4 s for it (timeouts.nodes)" in said
    assert 4 <= time.monotonic() - began < 40


def command_of(config: WarmupConfig, directory: Path, seconds: str) -> tuple[int, str]:
    """Run `ray-warmup run --wait-for-nodes` with a config, and return its exit code and what it said."""
    path = directory / "request.yaml"
    path.write_text(text_of_config(config))
    command = ["run", "--config", str(path), "--wait-for-nodes", seconds]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "400"})
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.alone
def test_a_node_that_was_killed_a_moment_ago_is_planned_around(case: Case) -> None:
    """The raylet is gone and Ray does not know yet: the ranks pinned to it go elsewhere, by name, in seconds."""
    node = case.bed.add_node(pool="main", num_cpus=16, first=True)
    told: list[dict[str, object]] = []
    os.kill(node.raylet_pid, signal.SIGKILL)
    try:
        began = time.monotonic()
        config = case.config(cluster={"ranks_per_node": 2, "num_nodes": 1}, timeouts={"placing": 60})
        report = case.run(config, on_event=told.append)
        seconds = time.monotonic() - began
        (said,) = ended([node.handle])
    finally:
        case.bed.remove_node(node)
    assert report.ready, report.error
    assert seconds < 45
    assert said.startswith(f"the raylet of node {node.node_id[:8]} has ended with code -9: [20")
    assert node.node_id not in {rank.node_id for rank in report.ranks}
    notes = [str(event["text"]) for event in told if event["event"] == "note"]
    assert any(f"node {node.node_id[:8]} (127.0.0.1)" in text and "was lost" in text for text in notes), notes


class Holder:
    """An actor of another job."""

    def ready(self) -> bool:
        """It has its CPUs."""
        return True


def test_the_coordinator_runs_on_the_head_node(case: Case) -> None:
    """The coordinator, which outlives ranks and owns the artifact, is never put on a node that serves."""
    import ray
    from ray._private.state import actors

    report = case.run()
    assert report.ready, report.error
    (head,) = [row["NodeID"] for row in ray.nodes() if "node:__internal_head__" in row["Resources"]]
    places = {row["Address"]["NodeID"] for row in actors().values() if row["ActorClassName"] == "Coordinator"}
    assert places == {head}


def test_labels_decide_where_ranks_go(case: Case) -> None:
    """With the label of one node, every rank lands there."""
    report = case.run(case.config(cluster={"num_nodes": 1, "ranks_per_node": 2, "node_labels": {"pool": "spare"}}))
    assert report.ready, report.error
    assert {rank.node_id for rank in report.ranks} == {case.bed.nodes[2].node_id}


def test_spread_ranks_are_contiguous_per_node(case: Case) -> None:
    """SPREAD interleaves bundles; ranks are numbered node by node all the same."""
    cluster = {"ranks_per_node": None, "num_nodes": None, "world_size": 4, "placement_strategy": "SPREAD"}
    report = case.run(case.config(cluster=cluster))
    assert report.ready, report.error
    assert [rank.node_id for rank in report.ranks] == sorted(rank.node_id for rank in report.ranks)
    assert [rank.local_rank for rank in report.ranks] == [0, 1, 0, 1]


@pytest.mark.parametrize("what", ["ray-warmup", "ray"])
def test_a_node_with_another_version_is_refused_by_name(case: Case, tmp_path: Path, what: str) -> None:
    """PLACING compares versions: the error names the node and both versions."""
    versions = {"ray-warmup": "ray_warmup.configs.VERSION", "ray": "ray.__version__"}
    module, _, name = versions[what].rpartition(".")
    (tmp_path / "sitecustomize.py").write_text(f"import {module}\n\n{module}.{name} = '0.0.0'\n")
    node = case.bed.add_node(pool="old", num_cpus=1, PYTHONPATH=f"{tmp_path}:{ROOT}")
    try:
        report = case.run(case.config(cluster={"num_nodes": 1, "node_labels": {"pool": "old"}}))
    finally:
        case.bed.remove_node(node)
    assert report.error is not None
    assert report.error.startswith("StartupError")
    assert f"node {node.node_id[:8]} (127.0.0.1) has {what} " in report.error
    assert f"{what} 0.0.0" in report.error
    assert wait_until(lambda: not case.leftovers(), 5)
