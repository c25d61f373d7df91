"""Every check of one node, in the order in which an operator reads them."""

from __future__ import annotations

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.doctor import artifacts, disks, gpus, packages, sharing
from ray_warmup.warmup.doctor.finding import Finding


def check_node(section: CacheSection) -> tuple[Finding, ...]:
    """Check this node. Starts nothing and changes nothing."""
    return (
        *packages.own_copy(),
        *packages.requirements(),
        *packages.libraries(),
        *packages.engines(),
        *artifacts.of_engines(section),
        *gpus.gpus(),
        *disks.caches(section),
        *disks.compilers(section),
        *sharing.keys(section),
        *sharing.remote(section),
    )
