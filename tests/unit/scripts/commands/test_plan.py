"""Where `ray-warmup plan` cannot be answered, without Ray."""

from __future__ import annotations

import pytest

from ray_warmup.configs import ConfigError, load_config
from ray_warmup.scripts.commands.plan import plan_and_show


def test_a_plan_through_ray_client_is_refused_by_name() -> None:
    """Nothing is connected: the address is named, and what works instead."""
    config = load_config("cpu_two_nodes", ["cluster.address=ray://127.0.0.1:10001"])
    with pytest.raises(ConfigError, match=r"ray://127\.0\.0\.1:10001: run and plan need .*ray job submit"):
        plan_and_show(config, as_json=False)
