"""When a fault strikes and what must be true afterwards; shared by the tests of this directory.

A moment is a call of a rank's tuner in the middle of a phase, long enough to be struck: for COMPILING the second
of three modules, for TUNING and GUARDING the fourth of ten tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from ray_warmup.warmup.report import WarmupReport
from tests.fault_injection import during
from tests.testbed import Case, Line, Node

MOMENTS: dict[str, tuple[str, int]] = {
    "PROBING": ("prepare", 1),
    "LOOKUP": ("check", 1),
    "COMPILING": ("compile", 2),
    "TUNING": ("tune", 4),
    "GUARDING": ("guard", 4),
    "PUSHING": ("table", 1),
    "INSTALLING": ("check", 1),
    "LOADING": ("load", 1),
    "REPLAYING": ("replay", 1),
}
ON_EVERY_RANK = ("PROBING", "LOOKUP", "COMPILING", "INSTALLING", "LOADING", "REPLAYING")
"""Phases in which both ranks of these tests work; in the others the leader alone does."""
WITHIN_S = 25.0
"""From the blow to the end of a run, whatever it is."""


def prepare(case: Case, phase: str, pause_s: float = 0.6, **script: Any) -> None:
    """Scripts that hold every rank at the phase's moment; LOOKUP needs something to find."""
    method, nth = MOMENTS[phase]
    if phase == "LOOKUP":
        case.plant(*case.bed.nodes[:2])
    case.script(modules=["one", "two", "three"], pause_s={method: {str(nth): pause_s}}, **script)


def moment(phase: str, node: Node) -> Callable[[Line], bool]:
    """The phase's call on a node."""
    method, nth = MOMENTS[phase]
    return during(method, nth, node.node_id)


def assert_served(case: Case, report: WarmupReport) -> None:
    """Ready, one table everywhere, complete on disk, and no task measured twice except one in flight."""
    assert report.error is None
    assert report.ready
    (group,) = report.classes
    assert group.digest is not None
    assert [(rank.digest, rank.entries, rank.hits) for rank in report.ranks] == [(group.digest, 10, 10)] * 2
    first, second = (case.table(node).read_bytes() for node in case.bed.nodes[:2])
    assert first == second
    assert_measured_once(case)


def assert_measured_once(case: Case, at_most: int = 1) -> None:
    """Only what was in flight when a process died was begun again: one task for each death."""
    counts = Counter(line.task for line in case.calls("tune"))
    assert sum(count - 1 for count in counts.values()) <= at_most
