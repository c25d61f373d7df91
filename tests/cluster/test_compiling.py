"""Modules that gcc really builds, on nodes with directories of their own: one node of a class compiles for all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from ray_warmup.warmup.report import WarmupReport
from tests.fault_injection import FaultInjector, during, kill
from tests.testbed import Case, Node

LIBRARIES = ["gemm", "norm", "sampling"]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler to make a shared library with"),
]


@pytest.fixture
def builds(case: Case) -> Iterator[Case]:
    """A case whose ranks need three modules; workspaces are empty before and after."""
    clear(*case.bed.nodes)
    case.script(libraries=LIBRARIES)
    yield case
    clear(*case.bed.nodes)


def clear(*nodes: Node) -> None:
    """Forget what these nodes have compiled."""
    for node in nodes:
        shutil.rmtree(node.home / "workspace" / "scripted", ignore_errors=True)


def built_on(case: Case) -> list[str]:
    """The node of every module that was built."""
    return [line.node.node_id for line in case.calls("compile")]


def assert_served(report: WarmupReport) -> None:
    """Ready, with one digest on both ranks."""
    assert report.error is None
    assert report.ready
    assert len({rank.digest for rank in report.ranks}) == 1


def test_exactly_one_node_builds(builds: Case) -> None:
    """Three modules are built on one node alone; the other installs its bytes and runs them without a workspace.

    The driver hears from the builder which modules, and how many of them are done.
    """
    builds.script(libraries=LIBRARIES, pause_s={"compile": {"2": 1.2}})
    events: list[dict[str, Any]] = []
    report = builds.run(on_event=events.append)
    assert_served(report)
    told = [event["text"] for event in events if event["event"] == "progress"]
    assert any(text.startswith("1 of 3 modules: gemm built after ") for text in told)
    assert {event["rank"] for event in events if event["event"] == "progress"} == set(report.classes[0].built)
    first, second = builds.bed.nodes[:2]
    (builder,) = set(built_on(builds))
    assert len(built_on(builds)) == len(LIBRARIES)
    other = second if builder == first.node_id else first
    assert sorted(path.name for path in builds.files(other, "*.so")) == [f"{name}.so" for name in LIBRARIES]
    assert not (other.home / "workspace" / "scripted").exists()
    (group,) = report.classes
    assert [len(names) for names in group.built.values()] == [len(LIBRARIES)]
    assert group.received == (other.node_id,)


def test_a_node_that_joins_a_finished_class_builds_nothing(builds: Case) -> None:
    """A second run with an empty node ships table and modules to it: a hit, and nothing is compiled anywhere."""
    assert_served(builds.run())
    first, second = builds.bed.nodes[:2]
    (builder,) = set(built_on(builds))
    other = second if builder == first.node_id else first
    shutil.rmtree(builds.cache(other))
    clear(first, second)  # the builder has its artifact alone
    builds.forget()
    report = builds.run()
    assert_served(report)
    assert report.classes[0].hit
    assert built_on(builds) == []
    assert report.classes[0].received == (other.node_id,)


def test_a_builder_that_is_killed_is_followed_with_what_was_finished(builds: Case) -> None:
    """kill -9 in the second module: what is done stays done, the rest is built, still on one node."""
    builds.script(libraries=LIBRARIES, pause_s={"compile": {"2": 1.0}})
    with FaultInjector(builds, during("compile", 2), kill()):
        report = builds.run()
    assert_served(report)
    assert len(set(built_on(builds))) == 1
    assert len(builds.calls("compile")) == len(LIBRARIES) + 1
