"""What is said where processes of one cluster differ: in the cache section, in the GPU's driver."""

from __future__ import annotations

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.cluster_facts import DriverVersions, cache_difference


def test_a_config_change_at_a_running_registry_is_said() -> None:
    """By field, with both values and the command; what a registry does not read makes no difference."""
    running = CacheSection(root="/a", remote="s3://b/c")
    changed = running.model_copy(update={"root": "/b", "remote": None})
    said = cache_difference(running.model_dump_json(), changed.model_dump_json())
    assert 'cache.root "/b" (the registry: "/a")' in said
    assert 'cache.remote unset (the registry: "s3://b/c")' in said
    assert "ray-warmup registry stop" in said
    other = running.model_copy(update={"remote_timeout": 5.0, "tuning_kernels": False})
    assert cache_difference(running.model_dump_json(), other.model_dump_json()) == ""


def test_two_driver_versions_are_said() -> None:
    """With the number of nodes; a node without a GPU has none; a lost node does not count."""
    drivers = DriverVersions()
    for node_id, driver in (("a", "550.54"), ("b", ""), ("c", "550.54")):
        drivers.seen(node_id, driver)
    assert drivers.note() == ""
    drivers.seen("d", "560.28")
    assert "2 driver versions (550.54 on 2, 560.28 on 1)" in drivers.note()
    drivers.forget_node("d")
    assert drivers.note() == ""
