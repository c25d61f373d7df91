"""Open a rank's store, files and compiled code once its key is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.configs.loader import text_of_config
from ray_warmup.configs.schema import CacheSection, WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.caches.compiled_part import NodeKernelCaches
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.messages.replays import FreshReplay
from ray_warmup.warmup.rank.artifact_collector import TABLE_ALONE, ReplayPlan
from ray_warmup.warmup.rank.compiled_work import RankCompilation
from ray_warmup.warmup.rank.engine import off_reason
from ray_warmup.warmup.rank.rank_files import RankFiles
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.store.node_paths import NodePaths
from ray_warmup.warmup.store.node_store import NodeStore, StorePath

ENGINE_SETTINGS_THAT_COMPILE_NOTHING = ("enabled", "required", "deadlines", "monitor", "verify_requests")
REPLAY_SHARE = 0.75
"""Share of `timeouts.pushing` that the replay for the driver's kernels may take."""


@dataclass(frozen=True, slots=True)
class ReplayIdentity:
    """Identity by which a fresh process replays as this rank.

    Without `factory` there is no such process.
    """

    rank: int
    backend: str
    factory: str
    budget_bytes: int | None


@contextmanager
def workspace_is_made(workspace: Path) -> Iterator[None]:
    """Wrap FlashInfer's import, which creates its workspace. Raises StoreError naming the setting if that fails."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str):
            raise
        culprit = Path(error.filename)
        if not (culprit.is_relative_to(workspace) or workspace.is_relative_to(culprit)):
            raise
        raise StoreError(
            f"FlashInfer cannot make its workspace {workspace}: {error.strerror} (errno {error.errno}, {culprit}); set "
            "cache.root, or FLASHINFER_WORKSPACE_BASE on that node, to a directory that this user can write",
            path=str(workspace),
        ) from error


def open_store(cache: CacheSection, paths: NodePaths, fingerprint: Fingerprint, key: CacheKey) -> NodeStore:
    """The store of this node for this key."""
    version, arch = fingerprint.flashinfer_version, fingerprint.arch
    directory = StorePath.of(paths.root, paths.override, version, arch, key.sha256)
    return NodeStore(directory, modes=cache.modes)


def rank_files(config: WarmupConfig, store: NodeStore, info: RankInfo) -> RankFiles:
    """Return this rank's own files in the store."""
    return RankFiles(store, str(info), keeps_results=_is_shared(config), keeps_quarantine=config.cache.persistent)


def compiled_work(
    config: WarmupConfig,
    who: ReplayIdentity,
    tuner: Tuner,
    store: NodeStore,
    key: CacheKey,
    fingerprint: Fingerprint,
    paths: NodePaths,
) -> RankCompilation:
    """Create the rank's compiled work.

    Entries that caches get after this call count as this run's.
    """
    cache, environ = config.cache, env.snapshot()
    part = NodeKernelCaches(
        dict(fingerprint.parts),
        store.directory,
        paths.workspace,
        environ,
        modes=cache.modes,
    )
    part.start()
    request = FreshReplay(text_of_config(config), who.rank, who.backend, who.factory, who.budget_bytes)
    timeout_s, covers = REPLAY_SHARE * config.timeouts.pushing, coverage_of(config, who.backend)
    replay, kept = None, None
    if who.factory:
        replay = ReplayPlan(request, environ, timeout_s, covers)
    if _is_shared(config):
        kept = store
    return RankCompilation(tuner, part, kept, key, replay, config.cache.tuning_kernels)


def coverage_of(config: WarmupConfig, backend: str) -> str:
    """Return the coverage of this configuration's replay: the engine's settings, which are not in the cache key."""
    if off_reason(config, backend) is not None:
        return TABLE_ALONE
    asked = config.engine.model_dump(mode="json", exclude=set(ENGINE_SETTINGS_THAT_COMPILE_NOTHING))
    return f"engine {hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()}"


def _is_shared(config: WarmupConfig) -> bool:
    """Return True if this run's results are kept for others."""
    return config.cache.persistent and config.autotune.strategy != "independent"
