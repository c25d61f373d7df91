"""Contexts around the tiny runners of `tests/unit/warmup/conftest.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tests.flashinfer_quietly  # noqa: F401
from ray_warmup.configs.schema import EngineSection
from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmupOptions, WarmupContext


@pytest.fixture
def make_context() -> Callable[..., WarmupContext]:
    """`make_context(runner, slot_mapping_for_any=True, ...)`; `synchronized` collects the synchronisations."""

    def make(
        runner: Any,
        *,
        is_leader: bool = True,
        capability: tuple[int, int] | None = None,
        synchronize: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> WarmupContext:
        configured = EngineSection.model_fields.keys() - {"required", "deadlines"}
        engine = {name: options.pop(name) for name in configured & options.keys()}
        return WarmupContext(
            runner,
            runner.execute_model,
            runner.sample_tokens,
            synchronize,
            EngineWarmupOptions(EngineSection(**engine), **options),
            is_leader=is_leader,
            capability=capability,
        )

    return make
