"""Checks of what real engines recorded on this node."""

from __future__ import annotations

from collections.abc import Iterator

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.doctor.finding import Finding, ok, warning
from ray_warmup.warmup.engines.node.request_status import all_standings


def of_engines(section: CacheSection) -> Iterator[Finding]:
    """Check the artifacts of the engines that are installed here: whole, believed and proven."""
    try:
        standings = list(all_standings(section))
    except ConfigError:
        return  # told where the cache root is checked
    for found in standings:
        text = f"{found.engine} in {found.store}: {found.text}"
        if found.state == "failed":
            yield warning("engine", text, "run the warmup with --retune, or remove it with `ray-warmup cache prune`")
        elif found.state == "unproven":
            yield warning("engine", text, "`ray-warmup engine prove --config ...` on this node, or the run again")
        else:
            yield ok("engine", text)
