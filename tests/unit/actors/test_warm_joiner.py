"""Processes that `ensure_warm` refuses before it does anything."""

from __future__ import annotations

import pytest
import ray

from ray_warmup.actors import warm_joiner
from ray_warmup.actors.errors import ClusterError
from tests.engines.tiny_engine import tiny_config


@pytest.mark.parametrize(("is_connected", "said"), [(False, "call ray.init first"), (True, "through Ray Client")])
def test_a_process_of_no_node_is_refused(monkeypatch: pytest.MonkeyPatch, is_connected: bool, said: str) -> None:
    """Not connected, or from a machine that is no node: the message says where to call it."""
    monkeypatch.setattr(ray, "is_initialized", lambda: is_connected)
    monkeypatch.setattr(warm_joiner, "is_connected_by_client", lambda: True)
    with pytest.raises(ClusterError, match=said):
        warm_joiner.ensure_warm(tiny_config())
