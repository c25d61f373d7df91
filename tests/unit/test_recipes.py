"""The recipes of ARCHITECTURE.md: where a new phase, question or cache kind is not entered yet is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest

from ray_warmup.configs import env
from ray_warmup.configs.schema import TimeoutsSection
from ray_warmup.warmup.artifact.compression import LIMITS
from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.caches import compiled_part, engine_kinds
from ray_warmup.warmup.caches.left_out import LEFT_OUT
from ray_warmup.warmup.engines.adapter.adapter import EngineAdapter
from ray_warmup.warmup.engines.known_engines import ADAPTERS
from ray_warmup.warmup.engines.plugin import process
from ray_warmup.warmup.engines.vllm.process import AT_FIRST_FORWARD
from ray_warmup.warmup.machine.phases.sequence import ORDER
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.questions import name_of
from ray_warmup.warmup.messages.wire import EXPECTED, QUESTIONS
from tests.sim import schedule, simulation

ROOT = Path(__file__).resolve().parents[2]
NEVER_STRUCK = {"tune_engine", "conclude"}
"""The first strikes by its own draw; the second is asked when the machine has stopped."""
NOT_OF_ENGINES = {
    "autotune_configs",
    "timings",
    "sparse_mla",
    "cuda_compute_cache",
    "tuning_kernels",
    "engine_record",
    "recorded_requests",
}
"""Kinds beside a table, and the record of an engine's start, which lies in no cache."""


def test_a_phase_is_entered_everywhere() -> None:
    """Its logic, its deadline, and the description of that deadline."""
    phases = [phase for phase in Phase if phase is not Phase.PLACING and not phase.is_final]
    assert phases == [logic.phase for logic in ORDER], "ORDER of machine/phases/sequence.py"
    described = (ROOT / "configs/README.md").read_text()
    for phase in phases:
        setting = phase.value.lower()
        assert setting in TimeoutsSection.model_fields, f"{phase} has no deadline in TimeoutsSection"
        assert f"`{setting}`" in described, f"{phase} is not described in configs/README.md"


def test_a_question_is_entered_everywhere() -> None:
    """Its answers at the border, and in the simulation how long it takes and that its rank may die in it."""
    for kind in QUESTIONS:
        name = name_of(kind)
        assert kind in EXPECTED, f"{name} has no answers in EXPECTED of wire.py"
        struck = schedule.STRUCK_AS.get(name, name)
        assert struck in {*schedule.METHODS, *NEVER_STRUCK}, f"METHODS of tests/sim/schedule.py lacks {name}"
        is_about_task = "task_id" in {field.name for field in dataclasses.fields(kind)}
        if not is_about_task and name != "conclude":
            assert name in simulation.DURATIONS, f"DURATIONS of tests/sim/simulation.py lacks {name}"


def test_a_cache_kind_is_entered_everywhere() -> None:
    """Its limit, the schema, the moment of placing, its directory, and the variable that moves the directory."""
    kinds: set[Kind] = set(get_args(Kind))
    assert set(LIMITS) == kinds, "LIMITS of compression.py"
    schema = (ROOT / "warmup/schemas/manifest.schema.json").read_text()
    for kind in kinds:
        assert json.dumps(kind) in schema, f"{kind} is not in manifest.schema.json"
    trees = {kind.name for kind in engine_kinds.TREE_KINDS}
    engines = {*trees, *engine_kinds.REWRITTEN_KINDS}
    assert engines == kinds - NOT_OF_ENGINES, "TREE_KINDS of engine_kinds.py"
    on_request = engine_kinds.placed_kinds("on request")
    assert {*process.WHEN_CONFIGURED, *AT_FIRST_FORWARD, *on_request} == engines
    assert set(compiled_part.COMPILED) <= kinds


@pytest.mark.parametrize("adapter", list(ADAPTERS.values()), ids=list(ADAPTERS))
def test_every_directory_of_an_engine_is_moved(
    adapter: EngineAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording starts with empty caches: no kind's directory lies outside the home that the launcher makes."""
    for name, value in adapter.home(tmp_path).items():
        monkeypatch.setenv(name, value)
    for row in LEFT_OUT:
        directory = row.directory(env.snapshot(), "user", "/elsewhere")
        assert directory is None or directory.is_relative_to(tmp_path), f"no variable moves {row.name}: {directory}"
    for kind, directory in adapter.looks_in().items():
        assert directory.is_relative_to(tmp_path), f"no variable of the adapter's home moves {kind}: {directory}"
        assert kind in adapter.moved_by, f"the adapter does not say what moves {kind}"


def test_every_kind_that_is_placed_early_has_a_directory_of_some_engine() -> None:
    """Which one it is, is the places.py of an engine's package."""
    looked = {kind for adapter in ADAPTERS.values() for kind in adapter.looks_in()}
    assert set(engine_kinds.placed_kinds("when configured")) <= looked
