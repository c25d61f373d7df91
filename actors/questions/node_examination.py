"""The part of `ray-warmup doctor --cluster` that runs on every node.

A module of its own: a node's worker imports the module of its task before it answers, and the command that asks needs
none of the checks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ray_warmup.configs.version import VERSION
from ray_warmup.warmup.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class NodeFindings:
    """Findings of one node."""

    version: str
    """Version of this project there."""
    clock: float
    """Seconds since the epoch by the node's clock, when it answered."""
    findings: tuple[Finding, ...]


def check_here(section: str) -> NodeFindings:
    """Check this node. Runs as a task."""
    from ray_warmup.configs.schema import CacheSection
    from ray_warmup.warmup.doctor.all_checks import check_node

    findings = check_node(CacheSection.model_validate_json(section))
    return NodeFindings(VERSION, time.time(), findings)
