"""The cluster and the per-test view of the cluster tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import bed, case
from tests.engines.fake_engine import environment
from tests.testbed import Node, Testbed
from tests.xdist_lanes import pytest_xdist_make_scheduler

__all__ = ["bed", "case", "pytest_xdist_make_scheduler"]


@pytest.fixture
def engine_nodes(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two nodes of a pool of their own, in whose environment the fake engine is installed."""
    found = environment(tmp_path_factory.mktemp("engine"))
    nodes = [bed.add_node(pool="engine", wait=False, PYTHONPATH=found["PYTHONPATH"]) for _ in range(2)]
    bed.wait_for_nodes()
    yield nodes
    bed.remove_node(*(node for node in nodes if node in bed.nodes))
