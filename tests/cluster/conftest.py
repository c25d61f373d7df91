"""The session's Ray cluster, and for each test a view of it that asserts at its end that nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.engines.fake_engine import environment
from tests.testbed import Case, Node, Testbed, hold, release
from tests.xdist_lanes import pytest_xdist_make_scheduler

__all__ = ["bed", "case", "pytest_xdist_make_scheduler"]


@pytest.fixture(scope="session")
def bed() -> Iterator[Testbed]:
    """Three nodes on this machine."""
    testbed = hold()
    try:
        yield testbed
    finally:
        release()


@pytest.fixture
def case(bed: Testbed, request: pytest.FixtureRequest) -> Iterator[Case]:
    """This test's runs; nothing of them may remain."""
    view = Case(bed, re.sub(r"\W+", "-", request.node.name)[:60])
    view.script()
    try:
        yield view
    finally:
        view.close()


@pytest.fixture(scope="module")
def engine_nodes(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two nodes of a pool of their own, in whose environment the fake engine is installed."""
    found = environment(tmp_path_factory.mktemp("engine"))
    nodes = [bed.add_node(pool="engine", num_gpus=2, wait=False, PYTHONPATH=found["PYTHONPATH"]) for _ in range(2)]
    bed.wait_for_nodes()
    yield nodes
    bed.remove_node(*nodes)
