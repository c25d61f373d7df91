"""Facts that processes of one cluster should share, and what to say where they differ: cache settings, drivers."""

from __future__ import annotations

import json

from ray_warmup.warmup.remedies import with_remedy

READ = ("root", "override_dir", "root_env", "override_env", "persistent", "trust", "public_keys", "remote")
"""Settings of the cache section that decide what a registry learns from the nodes."""


def cache_difference(running: str, asked: str) -> str:
    """Say how a process' cache section differs from the one that a registry was started with, or return an empty text.

    Args:
        running: the registry's section as JSON.
        asked: the process' section as JSON.
    """
    old, new = json.loads(running), json.loads(asked)
    changed: list[str] = []
    for name in READ:
        if old.get(name) != new.get(name):
            changed.append(f"cache.{name} {_shown(new.get(name))} (the registry: {_shown(old.get(name))})")
    if not changed:
        return ""
    return with_remedy(
        f"the registry was started with another config and learns nothing of this one's stores: {', '.join(changed)}",
        "run `ray-warmup registry stop`, then `ray-warmup registry start --config ...`",
    )


class DriverVersions:
    """Versions of the GPU driver on the nodes whose processes have asked."""

    def __init__(self) -> None:
        self._of_node: dict[str, str] = {}

    def seen(self, node_id: str, driver: str) -> None:
        """Take note of a node's driver. An empty text, of a node without a GPU, changes nothing."""
        if driver:
            self._of_node[node_id] = driver

    def forget_node(self, node_id: str) -> None:
        """A node is lost."""
        self._of_node.pop(node_id, None)

    def note(self) -> str:
        """Return what to say where nodes have several versions, or an empty text."""
        counts: dict[str, int] = {}
        for driver in self._of_node.values():
            counts[driver] = counts.get(driver, 0) + 1
        if len(counts) < 2:
            return ""
        versions = ", ".join(f"{driver} on {count}" for driver, count in sorted(counts.items()))
        return with_remedy(
            f"nodes have {len(counts)} driver versions ({versions}), and a table is for one of them: each measures",
            "install one driver on all nodes",
        )


# A border: any value of JSON.
def _shown(value: object) -> str:
    return "unset" if value is None else json.dumps(value)
