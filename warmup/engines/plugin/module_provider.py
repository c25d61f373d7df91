"""Let this process' FlashInfer find the modules of an artifact, through its lookup of ahead-of-time modules."""

from __future__ import annotations

import logging
import sys
from importlib import metadata
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.caches.provider import is_installed
from ray_warmup.warmup.errors import ArtifactError

logger = logging.getLogger(__name__)


def activate(artifact: Artifact, store_directory: Path) -> int:
    """Install the artifact's modules beside its store once, activate them, and return their number.

    Files that were changed since are written again. Raises RejectedArtifactError for modules of another CUDA,
    architecture or C library, UnsafeArchiveError where somebody else could have written or added files.
    """
    contents = artifact.contents("flashinfer_module")
    if not contents:
        return 0
    provider = provider_directory(store_directory, artifact.manifest.module_set)
    if not is_installed(provider):
        flashinfer_modules.install(contents, provider, describe())
    try:
        flashinfer_modules.activate(provider)
    except ArtifactError as error:
        logger.warning(
            "%s was changed after it was put there and is restored: %s -> look who else writes there", provider, error
        )
        flashinfer_modules.install(contents, provider, describe())
        flashinfer_modules.activate(provider)
    return len(flashinfer_modules.names_of(artifact.manifest))


def describe() -> dict[str, str]:
    """Return the facts of this process that a module's binary depends on, or none without FlashInfer or a GPU."""
    try:
        metadata.version("flashinfer-python")
        metadata.version("apache-tvm-ffi")
    except metadata.PackageNotFoundError:
        return {}
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return flashinfer_modules.describe_process("", ())
    major, minor = torch.cuda.get_device_capability()
    suffix = "a" if major >= 9 else ""
    return flashinfer_modules.describe_process(str(torch.version.cuda), (f"{major}{minor}{suffix}",))
