"""An engine that stays after its trial requests: it is called, answers, and ends when it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.warmup.engines.vllm.launch import EngineStart, Home
from ray_warmup.warmup.errors import EngineError
from tests.engines.fake_engine import environment

TRIALS = "ray_warmup.warmup.engines.vllm.start:shut_down"


def test_a_live_engine_answers_calls_until_it_is_told_to_end(tmp_path: Path) -> None:
    """A function of this project gets the engine; what raises or is foreign is an error, and the engine lives on."""
    engine = EngineStart(
        {"model": "/models/fake"},
        Home(tmp_path / "home"),
        tmp_path / "start",
        environment(tmp_path),
        purpose="record",
        stays=True,
    )
    try:
        engine.until_answered(60)
        assert engine.stage == "waiting for the launcher (rank 0: warm)"
        assert engine.call(TRIALS, {}, 10) is None
        with pytest.raises(EngineError, match="os is no module of this project"):
            engine.call("os:getpid", {}, 10)
        with pytest.raises(EngineError, match=r"TypeError: shut_down\(\) got an unexpected keyword argument"):
            engine.call(TRIALS, {"unknown": 1}, 10)
        started = engine.finish(30)
    finally:
        engine.kill()
    assert [record.is_warm for record in started.records] == [True]
    assert started.result["requests"] > 0
