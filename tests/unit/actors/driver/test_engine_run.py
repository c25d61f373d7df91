"""The driver of a run with a real engine whose cluster has lost its control service."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from ray_warmup.actors.cluster import metrics_export
from ray_warmup.actors.connection import control_service
from ray_warmup.actors.driver import coordinator_actor, engine_run, following
from ray_warmup.actors.registry import client as registry_client
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.reports.report import EngineReport

CONFIG = EngineRunConfig.model_validate(
    {
        "cluster": {"num_nodes": 1, "ranks_per_node": 1, "gpus_per_rank": 0, "backend": "cpu"},
        "engine": {"kind": "vllm", "args": {"model": "/models/one"}},
    }
)


@pytest.mark.parametrize("is_reachable", [True, False])
def test_a_lost_control_service_is_asked_nothing_more(monkeypatch: pytest.MonkeyPatch, is_reachable: bool) -> None:
    """As by the driver of a tuning run: Ray would search the registry until it ends the process."""
    report, asked = EngineReport(run_id="r1", config={}, phases={}, error="planted"), list[str]()
    service = SimpleNamespace(is_reachable=lambda: is_reachable)
    coordinator = SimpleNamespace(until_report=lambda: report)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "ab" * 28))
    monkeypatch.setattr(control_service.ControlService, "of_this_cluster", lambda _: service)
    monkeypatch.setattr(following, "Following", lambda *_: coordinator)
    monkeypatch.setattr(engine_run.Turn, "take", lambda *_: coordinator)
    monkeypatch.setattr(metrics_export, "count", lambda _: None)
    monkeypatch.setattr(registry_client, "tell_registry", lambda _: asked.append("registry") or ())
    monkeypatch.setattr(coordinator_actor, "give_back", lambda *_: asked.append("resources"))
    assert engine_run._run(CONFIG, False, False, lambda event: None, False) is report
    assert asked == (["registry", "resources"] if is_reachable else [])
