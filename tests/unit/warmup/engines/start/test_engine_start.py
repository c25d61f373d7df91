"""An engine that stays after its trial requests, and ends when it is told to."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.warmup.engines.start.engine_start import EngineStart
from tests.engines.fake_engine import environment


def test_an_engine_stays_until_it_is_told_to_end(tmp_path: Path) -> None:
    """Its trial requests are answered and it waits; its records are read once it has ended by itself."""
    engine = EngineStart(
        VllmSection(kind="vllm", args={"model": "/models/fake"}),
        tmp_path / "home",
        tmp_path / "start",
        environment(tmp_path),
        purpose="record",
        stays=True,
    )
    try:
        engine.until_answered(60)
        assert engine.stage == "waiting for the launcher (rank 0: warm)"
        assert not engine.is_over
        started = engine.finish(30)
    finally:
        engine.kill()
    assert [record.is_warm for record in started.records] == [True]
    assert started.result["requests"] > 0
