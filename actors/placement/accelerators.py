"""Identify a node's GPUs by Ray's accelerator type before any process runs on that node.

Ranks ask their own device again (`warmup/rank/process.py`), for the types that are not listed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.errors import PlacementError
from ray_warmup.actors.placement.capacity import matching
from ray_warmup.configs import ConfigError
from ray_warmup.configs.schema import ClusterSection
from ray_warmup.warmup.workloads.catalog import check_quantization

LABEL = "ray.io/accelerator-type"
CAPABILITIES: Mapping[str, tuple[int, int]] = {
    "K80": (3, 7),
    "P100": (6, 0),
    "P4": (6, 1),
    "V100": (7, 0),
    "T4": (7, 5),
    "A100": (8, 0),
    "A100-40G": (8, 0),
    "A100-80G": (8, 0),
    "A10G": (8, 6),
}
"""Compute capability by Ray's accelerator type; types that can run every quantization are left out."""


def check_accelerators(cluster: ClusterSection, quantization: str, nodes: Sequence[Node]) -> None:
    """Raise PlacementError when every node that may be used has GPUs which cannot run the model's quantization.

    A node whose GPUs have no type, or an unlisted one, is given the benefit of the doubt.
    """
    usable = [node for node in matching(cluster, nodes) if node.has_gpu]
    known = {node.labels.get(LABEL, "") for node in usable}
    if not known or not known <= CAPABILITIES.keys():
        return
    newest = max(known, key=lambda name: CAPABILITIES[name])
    try:
        check_quantization(quantization, CAPABILITIES[newest])
    except ConfigError as error:
        rows = "; ".join(f"{node}: {node.labels[LABEL]}" for node in usable)
        raise PlacementError(f"{error}, and no other node may be used: {rows}", final=True) from error
