"""FlashInfer's lookup of compiled modules in this process, and a provider added to it after FlashInfer's import.

From 0.7 on FlashInfer has any number of providers. Before, it has one directory.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.caches.provider import MARK, MODULES, PACKAGE
from ray_warmup.warmup.errors import CorruptArtifactError
from ray_warmup.warmup.families.known import installed_families

logger = logging.getLogger(__name__)

PROVIDER_ID = "ray-warmup"
_LIMIT = 1 << 20


def path_of(name: str) -> Path:
    """Return where this process' FlashInfer looks for a module that it did not build."""
    from flashinfer.jit import env as jit_env

    if _has_one_directory():
        return Path(jit_env.FLASHINFER_AOT_DIR) / name / f"{name}.so"
    return Path(jit_env.get_aot_path(name))


def add(provider: Path) -> None:
    """Let the imported FlashInfer find a provider's modules.

    Raises CorruptArtifactError for a provider that does not describe itself.
    """
    mark = provider / PACKAGE / MARK
    document = parse_json(mark.read_bytes(), _LIMIT, str(mark))
    try:
        modules = frozenset(document["modules"])
        version, architectures = document["version"], frozenset(document["cuda_architectures"])
    except (LookupError, TypeError) as error:
        raise CorruptArtifactError(f"{mark} does not describe what is installed", path=str(provider)) from error
    if _has_one_directory():
        _set_directory(provider / PACKAGE / MODULES)
    else:
        _add_provider(provider / PACKAGE / MODULES, version, architectures, modules)
    logger.info("FlashInfer was imported already; %d modules of %s were added", len(modules), provider)


def _has_one_directory() -> bool:
    return any(family.modules_through == "one directory" for family in installed_families()[:1])


def _add_provider(directory: Path, version: str, architectures: frozenset[str], modules: frozenset[str]) -> None:
    from flashinfer.jit import env as jit_env

    added = jit_env.AOTProvider(
        provider_id=PROVIDER_ID,
        distribution=PROVIDER_ID,
        version=version,
        jit_cache_dir=directory,
        cuda_architectures=architectures,
        modules=modules,
    )
    others = tuple(p for p in jit_env.FLASHINFER_AOT_PROVIDERS if p.jit_cache_dir != added.jit_cache_dir)
    jit_env.FLASHINFER_AOT_PROVIDERS = (*others, added)


def _set_directory(directory: Path) -> None:
    """Replace FlashInfer's one directory, unless an installed package of prebuilt modules is there: it has them all."""
    from flashinfer.jit import env as jit_env

    if not Path(jit_env.FLASHINFER_AOT_DIR).is_dir():
        jit_env.FLASHINFER_AOT_DIR = directory
