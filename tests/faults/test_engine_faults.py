"""Faults in runs of the fake engine on several raylets: lost nodes, killed launchers, crashed engines."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_warmup.warmup.engines.artifacts import proof_record
from tests.engines.engine_runs import config, engines_in, engines_on, parent_of, phases, run
from tests.testbed import Node, Testbed, wait_until

pytestmark = pytest.mark.cluster


@pytest.mark.long
@pytest.mark.parametrize("phase", ["RECORDING", "PROVING"])
def test_a_node_that_is_lost_with_its_engine(bed: Testbed, engine_nodes: list[Node], phase: str) -> None:
    """Under `shrink` the other node records, or keeps what it has, and the run ends ready without the lost one."""
    # Longer than Ray takes to notice the loss on a busy machine, or it is told in a later phase.
    request = config(f"engine-lost-{phase.lower()}", args={"slow_s": 8})
    cluster = request.cluster.model_copy(update={"on_node_loss": "shrink"})
    request = request.model_copy(update={"cluster": cluster})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, request)
        ancestors = ancestors_of(engines_in(phase, engine_nodes)[0])
        lost = next(node for node in engine_nodes if node.raylet_pid in ancestors)
        bed.remove_node(lost)
        report, events = running.result(timeout=180)

    assert report.ready, report.error
    assert len(report.nodes) == 1
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert any(f"node {lost.node_id[:8]} was lost in phase {phase}" in text for text in warnings)
    assert wait_until(lambda: not engines_on(engine_nodes), 15), "an engine process was left"


@pytest.mark.long
def test_a_launcher_killed_while_it_proves(engine_nodes: list[Node]) -> None:
    """Its fresh process proves again; the artifact is not recorded again."""
    request = config("engine-proving", args={"slow_s": 3}, num_nodes=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, request)
        os.kill(parent_of(engines_in("PROVING", engine_nodes)[0]), signal.SIGKILL)
        report, events = running.result(timeout=120)

    assert report.ready, report.error
    assert phases(events).count("RECORDING") == 1
    assert [node.proven for node in report.nodes] == ["now"]


@pytest.mark.long
def test_an_artifact_with_which_the_engine_crashes_is_refused(engine_nodes: list[Node]) -> None:
    """The proof start dies after the artifact was placed: no engine of that node is given it, a new one is recorded."""
    first, _ = run(config("engine-crash", num_nodes=1, args={"fault": "crash_warm"}))

    assert "crashed because it found its file" in (first.error or "")
    assert "while creating the engine (rank 0: compiling the model)" in (first.error or "")
    notes = [path for node in engine_nodes for path in (node.home / "engine-crash").rglob(proof_record.REFUSAL)]
    assert len(notes) == 1
    second, events = run(config("engine-crash", num_nodes=1, args={"fault": "crash_warm"}))
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert "the artifact is refused" in warnings[0]
    assert "RECORDING" in phases(events)
    assert not second.ready


@pytest.mark.parametrize("proof", [pytest.param("node", marks=pytest.mark.long), "class"])
def test_engines_whose_workers_are_ray_actors(engine_nodes: list[Node], proof: str) -> None:
    """The front end runs in an actor: recorded, shipped and proven as with a child process."""
    report, _ = run(config(f"engine-ray-{proof}", executor="ray", proof=proof))

    assert report.ready, report.error or [node.problems for node in report.nodes]
    proven = sorted(node.proven for node in report.nodes)
    assert proven == (["now", "now"] if proof == "node" else ["elsewhere", "now"])


@pytest.mark.long
def test_an_actor_whose_engine_fails_tells_its_last_lines(engine_nodes: list[Node]) -> None:
    """What a child process prints is printed by an actor, too."""
    report, _ = run(config("engine-ray-fails", num_nodes=1, executor="ray", args={"fault": "init"}))

    assert "exit code 1 while creating the engine" in (report.error or "")
    assert "the fake engine cannot start" in (report.error or "")


@pytest.mark.long
def test_a_frozen_launcher_is_replaced(engine_nodes: list[Node]) -> None:
    """A launcher that stands still is given up after `timeouts.silence`, and its engine ends with it."""
    request = config("engine-frozen", num_nodes=1, args={"slow_s": 5})
    request = request.model_copy(update={"timeouts": request.timeouts.model_copy(update={"silence": 4.0})})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, request)
        os.kill(parent_of(engines_in("RECORDING", engine_nodes)[0]), signal.SIGSTOP)
        report, events = running.result(timeout=120)

    assert report.ready, report.error
    assert any("no heartbeat for" in event["text"] for event in events if event["event"] == "warning")
    assert wait_until(lambda: not engines_on(engine_nodes), 15), "an engine process was left"


def ancestors_of(pid: str) -> list[int]:
    """Every process above one."""
    found = []
    while pid != "1" and Path(f"/proc/{pid}").exists():
        pid = str(parent_of(pid))
        found.append(int(pid))
    return found
