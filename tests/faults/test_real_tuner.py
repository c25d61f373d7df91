"""Each phase with FlashInfer's real AutoTuner: SIGKILL of the rank in the middle of it, twice in a run.

One rank, so that what is resumed can only come from its node's store. The model is tiny: nearly all of the time goes
into importing torch and FlashInfer, once for each process.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ray_warmup.configs import WarmupConfig
from tests.fault_injection import FaultInjector, during, kill
from tests.faults.moments import MOMENTS, assert_measured_once
from tests.models import TINY
from tests.testbed import Case

pytestmark = pytest.mark.cluster

TRACED = "tests.traced_tuner:make_traced_tuner"
TASKS = 5
PHASES = MOMENTS | {"COMPILING": ("missing_modules", 1)}
WITHIN_S = 90.0
"""Three imports of torch and FlashInfer included; a death that is not noticed would cost 120 s."""


def tiny(case: Case, tmp_path: Path) -> WarmupConfig:
    """One rank, five GEMMs at one size."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    return case.config(
        cluster={"num_nodes": 1},
        model={"name": str(path)},
        autotune={"buckets": [1]},
        guard={"rounds": 5},
        timeouts=dict.fromkeys(("placing", "probing", "lookup", "compiling", "tuning", "guarding"), 120),
    )


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param(("PROBING", "COMPILING"), id="PROBING-COMPILING", marks=pytest.mark.long),
        pytest.param(("TUNING", "GUARDING"), id="TUNING-GUARDING"),
        pytest.param(("PUSHING", "INSTALLING"), id="PUSHING-INSTALLING", marks=pytest.mark.long),
        pytest.param(("LOADING", "REPLAYING"), id="LOADING-REPLAYING"),
    ],
)
def test_killed_in_two_phases(case: Case, tmp_path: Path, phases: tuple[str, str]) -> None:
    """Ready all the same: every task in the table, each measured once but the one in flight, both deaths named."""
    config = tiny(case, tmp_path)
    run(case, config, *phases)
    assert_measured_once(case)
    assert len({line.task for line in case.calls("tune")}) == TASKS
    if "REPLAYING" in phases:
        case.forget()
        run(case, config, "LOOKUP")  # which finds what the first run left
        assert not case.calls("tune")


def run(case: Case, config: WarmupConfig, *phases: str) -> None:
    """A run that loses its rank in each of these phases, and is ready in spite of it."""
    points = [PHASES[phase] for phase in phases]
    case.script(pause_s={method: {str(nth): 0.5} for method, nth in points})
    began = time.monotonic()
    with ExitStack() as injectors:
        for method, nth in points:
            injectors.enter_context(FaultInjector(case, during(method, nth), kill()))
        report = case.run(config, tuner=TRACED)
    assert time.monotonic() - began < WITHIN_S
    assert report.ready, report.error
    (rank,) = report.ranks
    assert (rank.digest, rank.entries, rank.hits) == (report.classes[0].digest, TASKS, TASKS)
    name = f"rank 0 on node {case.bed.nodes[0].node_id[:8]} (127.0.0.1) died in "
    for phase in phases:
        assert any(text.startswith(name + phase) for text in report.warnings), report.warnings
