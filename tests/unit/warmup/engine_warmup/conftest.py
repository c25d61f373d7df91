"""Contexts around the tiny runners of `tests/unit/warmup/conftest.py`. FlashInfer is imported here, once, because its
own dependencies warn while they are imported and it needs a place for its workspace.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", str(Path(tempfile.gettempdir()) / f"ray-warmup-tests-{os.getuid()}"))
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("FLASHINFER_LOGGING_LEVEL", "WARNING")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import flashinfer.autotuner  # noqa: F401

from warmup.engine_warmup.spec import EngineWarmupOptions, WarmupContext


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
        return WarmupContext(
            runner,
            runner.execute_model,
            runner.sample_tokens,
            synchronize,
            EngineWarmupOptions(**options),
            is_leader=is_leader,
            capability=capability,
        )

    return make
