"""Putting the compiled part of an artifact in place on one node, part by part: one that does not fit is left out.

Each kind's own module knows its needs and its directory. This one turns refusals into warnings, because a process that
lacks a compiled part compiles it for itself. Trouble with the table is never treated so.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup import remedies
from ray_warmup.warmup.artifact.artifact import Artifact, Content
from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.caches import compute_cache, decode_profiles, flashinfer_modules, triton_cache
from ray_warmup.warmup.caches.environment import ProcessEnvironment
from ray_warmup.warmup.caches.provider import is_installed
from ray_warmup.warmup.errors import WarmupError

logger = logging.getLogger(__name__)


LAYOUT = "2"
"""Of a provider's files; another one lies elsewhere, so that neither version takes the other's for damaged."""


@dataclass(frozen=True, slots=True)
class Node:
    """Facts of this node that decide whether compiled code fits it."""

    process: Mapping[str, str]
    """`flashinfer_modules.describe_process` of the processes that will load the modules."""
    driver: str
    """Driver version; empty without a GPU."""
    decode_profiles: Path
    """Directory of FlashInfer's calibrations."""
    cuda_cache_max_bytes: int = compute_cache.DEFAULT_MAX_BYTES
    modes: Modes = OWNER_ONLY


@dataclass(frozen=True, slots=True)
class Installed:
    """Result of an installation.

    A kind with nothing to write counts 0.
    """

    provider: Path | None
    files: tuple[Path, ...]
    counts: tuple[tuple[Kind, int], ...]
    """(kind, files written), in the order of installation."""
    warnings: tuple[str, ...]
    seconds: tuple[tuple[Kind, float], ...] = ()
    """(kind, time to put it in place), in the order of installation."""


def provider_directory(store_directory: Path, module_set: str) -> Path:
    """Return the directory of a set of modules (`Manifest.module_set`) below its node store."""
    name = hashlib.sha256(f"{LAYOUT} {module_set}".encode()).hexdigest()[:32]
    return store_directory / "installed" / name


def install(artifact: Artifact, provider: Path, environment: ProcessEnvironment, node: Node) -> Installed:
    """Install every compiled part that the artifact carries. Parts whose blobs it lacks are warned of.

    Never raises for a part: processes then compile it themselves, as the warning says.
    """
    installers: dict[Kind, Callable[[tuple[Content, ...]], list[Path]]] = {
        "flashinfer_module": lambda found: flashinfer_modules.install(found, provider, node.process, modes=node.modes),
        "triton_cache": lambda found: triton_cache.install(found, environment.triton_cache, modes=node.modes),
        "cuda_compute_cache": lambda found: compute_cache.install(
            found, environment.compute_cache, node.driver, node.cuda_cache_max_bytes, modes=node.modes
        ),
        "sparse_mla": lambda found: decode_profiles.install(found, node.decode_profiles, modes=node.modes),
    }
    files: list[Path] = []
    counts: list[tuple[Kind, int]] = []
    seconds: list[tuple[Kind, float]] = []
    warnings: list[str] = []
    for kind, install_kind in installers.items():
        began = time.monotonic()
        try:
            written = install_kind(artifact.contents(kind))
        except KeyError as error:
            warnings.append(f"{kind}: blob {error} was not fetched; this node compiles for itself")
            continue
        except (OSError, WarmupError) as error:  # a cache that is another user's, or that a driver tidies meanwhile
            warnings.append(f"{kind}: {error}; this node compiles for itself")
            continue
        files += written
        counts.append((kind, len(written)))
        seconds.append((kind, time.monotonic() - began))
    for warning in warnings:
        logger.warning("%s -> %s", warning, remedies.COMPILES)
    is_usable = any(kind == "flashinfer_module" for kind, _ in counts) and is_installed(provider)
    return Installed(provider if is_usable else None, tuple(files), tuple(counts), tuple(warnings), tuple(seconds))
