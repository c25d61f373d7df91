"""Where the testbed's workers come from: forked for this process' job on its own nodes, else as Ray starts them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import Case, Node

pytestmark = pytest.mark.cluster


VARIABLES = ("HOME", "RAY_WARMUP_TEST_SCRIPT", "RAY_RAYLET_PID")


class Witness:
    """What a worker can say about its process."""

    def tell(self) -> dict[str, Any]:
        """Its parent, group, HOME, raylet and script."""
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode()
        own = {name: os.environ[name] for name in VARIABLES}
        return own | {"parent": parent, "leads": os.getpgrp() == os.getpid(), "cwd": os.getcwd()}


def ask(node: Node) -> dict[str, Any]:
    """A new worker on a node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pin = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    witness = ray.remote(Witness).options(num_cpus=0, scheduling_strategy=pin).remote()
    try:
        told: dict[str, Any] = ray.get(witness.tell.remote(), timeout=60)
    finally:
        ray.kill(witness)
    return told


def test_a_forked_worker_is_one_of_its_node(case: Case) -> None:
    """Environment and process group are what the raylet's own child has; a node that came later has such children."""
    spare = case.bed.nodes[2]
    expected = [(str(spare.home), str(spare.script_path), str(spare.raylet_pid), "fork_server")]
    told = [ask(spare)]
    later = case.bed.add_node(pool="later", num_cpus=1)
    try:
        expected.append((str(later.home), str(later.script_path), str(later.raylet_pid), "raylet"))
        told.append(ask(later))
    finally:
        case.bed.remove_node(later)
    for (*own, parent), witness in zip(expected, told, strict=True):
        assert [witness[name] for name in VARIABLES] == own
        assert parent in witness["parent"]
        assert witness["leads"]
    assert told[0]["cwd"] == told[1]["cwd"]
