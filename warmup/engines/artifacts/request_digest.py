"""Digest of what a config asks of the engine that is installed on this node: the key of the node's request index."""

from __future__ import annotations

import platform

from ray_warmup.configs.engine_schema import RealEngineSection
from ray_warmup.warmup.device.host_facts import gpu_parts
from ray_warmup.warmup.engines.artifacts.request_index import request_digest


def digest_of(section: RealEngineSection, version: str, device: str) -> str:
    """Return the digest of a request, without what is secret."""
    options = (section.weights, *section.resolved_as)
    return request_digest(section.kind, version, device, section.shown_args, *options)


def device_here() -> str:
    """Return the name of this node's first GPU, or the processor's architecture without one."""
    try:
        return gpu_parts(0)["gpu"]
    except (ImportError, RuntimeError):
        return platform.machine()


def driver_here() -> str:
    """Return the version of this node's GPU driver, empty without a GPU."""
    try:
        return gpu_parts(0)["driver"]
    except (ImportError, RuntimeError):
        return ""
