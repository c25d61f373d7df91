"""The driver without a cluster: what it hands to the coordinator, and what it refuses before it connects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self

import pytest
import ray

from ray_warmup.actors.cluster import metrics_export
from ray_warmup.actors.connection import control_service
from ray_warmup.actors.driver import coordinator_actor, following, warmup_run
from ray_warmup.actors.driver.warmup_run import _create, check_request
from ray_warmup.actors.registry import client as registry_client
from ray_warmup.actors.run.coordinator import Coordinator
from ray_warmup.configs import ConfigError, load_config
from ray_warmup.warmup.report import WarmupReport


class Remote:
    """Stands for `ray.remote(Coordinator)`: keeps what an actor would be made of."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def options(self, **_: Any) -> Self:
        """Where it would run."""
        return self

    def remote(self, *args: Any) -> Any:
        """The object, in this process."""
        return self.kind(*args)


def test_the_drivers_log_level_reaches_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read where the user set it: the coordinator, which may stand on another node, is told."""
    monkeypatch.setenv("RAY_WARMUP_LOG_LEVEL", "DEBUG")
    monkeypatch.setattr(ray, "remote", lambda **_: Remote)
    monkeypatch.setattr(ray, "nodes", list)
    here = SimpleNamespace(get_node_id=lambda: "ab" * 28)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    coordinator = _create("warmup-x", "run", load_config("cpu_two_nodes"), False, "module:tuner")
    monkeypatch.delenv("RAY_WARMUP_LOG_LEVEL")
    assert isinstance(coordinator, Coordinator)
    assert coordinator._environment["RAY_WARMUP_LOG_LEVEL"] == "DEBUG"
    assert coordinator._environment["TQDM_DISABLE"] == "1"


def test_a_log_level_that_is_none_is_refused_before_a_cluster_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the coordinator would die of it."""
    monkeypatch.setenv("RAY_WARMUP_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match="RAY_WARMUP_LOG_LEVEL"):
        check_request(load_config("cpu_two_nodes"))


@pytest.mark.parametrize("is_reachable", [True, False])
def test_a_run_whose_control_service_is_lost_asks_it_nothing_more(
    monkeypatch: pytest.MonkeyPatch, is_reachable: bool
) -> None:
    """Ray would search the registry until it ends the process, a minute after the loss, without a last line."""
    report, asked = WarmupReport(run_id="r1", config={}, error="planted"), list[str]()
    service = SimpleNamespace(is_reachable=lambda: is_reachable)
    coordinator = SimpleNamespace(until_report=lambda: report)
    monkeypatch.setattr(control_service.ControlService, "of_this_cluster", lambda _: service)
    monkeypatch.setattr(following, "following_of", lambda *_: coordinator)
    monkeypatch.setattr(warmup_run.Turn, "take", lambda *_: coordinator)
    monkeypatch.setattr(metrics_export, "count", lambda _: None)
    monkeypatch.setattr(registry_client, "tell_registry", lambda _: asked.append("registry") or ())
    monkeypatch.setattr(coordinator_actor, "give_back", lambda *_: asked.append("resources"))
    config = load_config("cpu_two_nodes")
    assert warmup_run._run(config, False, False, lambda event: None, "module:tuner", False) is report
    assert asked == (["registry", "resources"] if is_reachable else [])
