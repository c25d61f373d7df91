"""What a rank's `probe` and `lookup` would say on this node, from package metadata and NVML alone.

No torch, no FlashInfer, no CUDA context, so it may run anywhere and beside a serving engine. It is a
prediction: the rank itself asks FlashInfer, and may find another library than the packages promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey, cache_key
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.manifest import key_difference
from ray_warmup.warmup.artifact.table import metadata_difference, parse_table
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.device.host_facts import capability_of, describe_host, gpu_capability
from ray_warmup.warmup.errors import ForecastError, WarmupError
from ray_warmup.warmup.rank.node_paths import NodePaths, resolve_paths
from ray_warmup.warmup.rank.workloads import foreseen_skips, rank_workloads, runnable
from ray_warmup.warmup.store.node_store import NodeStore, StorePath
from ray_warmup.warmup.tasks import Skip, Workload, digest_of_tasks, tasks_of


@dataclass(frozen=True, slots=True)
class Forecast:
    """One rank on one node, predicted."""

    rank: int
    key: CacheKey
    table_path: Path
    workloads: tuple[Workload, ...]
    """Those that it would run."""
    skips: tuple[Skip, ...]
    """Those that this GPU or installation cannot run."""
    num_tasks: int
    hit: bool
    guarded: bool
    reason: str
    """Why it would be a miss, with the key part that differs from the nearest stored key; empty for a hit."""


def forecast_rank(
    config: WarmupConfig,
    rank: int,
    backend: str | None = None,
    gpu_index: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Forecast:
    """Predict one rank on this node, or on one that is simulated here and has this `environment`.

    `gpu_index` is NVML's; ignored on the cpu backend. Raises ForecastError where there is no such GPU.
    """
    if backend is None:
        backend = config.cluster.backend_beside_gpus
    dims = dimensions_of(config)
    fingerprint = _fingerprint(backend, gpu_index)
    paths = resolve_paths(config.cache, environment)
    found = rank_workloads(config, dims, rank, backend)
    capability = None if backend == "cpu" else capability_of(fingerprint["arch"]) or gpu_capability(gpu_index)
    skips = () if capability is None else _skips(found, capability, fingerprint, paths)
    workloads = runnable(found, skips)
    key = cache_key(config, dims, fingerprint, digest_of_tasks(workloads))
    directory = StorePath.of(
        paths.root, paths.override, fingerprint["flashinfer_version"], fingerprint["arch"], key.sha256
    )
    store = NodeStore(directory)
    stored = store.lookup(key.as_dict(), read_only=True, check=lambda table: _refusal(table, fingerprint))
    return Forecast(
        rank=rank,
        key=key,
        table_path=store.table_path,
        workloads=workloads,
        skips=skips,
        num_tasks=len(tasks_of(workloads)),
        hit=stored.hit,
        guarded=stored.guarded,
        reason="" if stored.hit else stored.reason + _nearest(directory, key),
    )


def check_rank(config: WarmupConfig, rank: int) -> None:
    """Raises ConfigError for a rank that the config does not have."""
    if not 0 <= rank < config.cluster.num_ranks:
        raise ConfigError(f"--rank: {rank}: the config has ranks 0 to {config.cluster.num_ranks - 1}")


def _fingerprint(backend: str, gpu_index: int) -> Fingerprint:
    try:
        arch_list = env.read("FLASHINFER_CUDA_ARCH_LIST")
        return Fingerprint.of(describe_host(gpu_index if backend == "cuda" else None, arch_list))
    except RuntimeError as error:
        raise ForecastError(
            f"this machine cannot tell what a rank with a GPU would find ({error}): ask on a node that has one, "
            "or set cluster.backend to cpu"
        ) from error


def _skips(
    workloads: tuple[Workload, ...], capability: tuple[int, int], fingerprint: Fingerprint, paths: NodePaths
) -> tuple[Skip, ...]:
    version, arch = fingerprint["flashinfer_version"], fingerprint["arch"]
    return foreseen_skips(
        workloads, capability, lambda module: flashinfer_modules.is_foreseen(module, paths.workspace, version, arch)
    )


def _refusal(table: bytes, fingerprint: Fingerprint) -> str | None:
    """Why the predicted process would refuse a table: FlashInfer compares the same seven fields."""
    try:
        saved = dict(parse_table(table).metadata)
    except WarmupError as error:
        return str(error)
    current = {name: fingerprint[name] for name in saved if name in dict(fingerprint.parts)}
    different = metadata_difference(saved, current)
    return ", ".join(f"{n}: table {old!r}, node {new!r}" for n, (old, new) in different.items()) or None


def _nearest(directory: Path, key: CacheKey) -> str:
    """Which parts differ from the stored key that is nearest to this one."""
    nearest: list[tuple[int, str]] = []
    try:
        siblings = sorted(path for path in directory.parent.iterdir() if path != directory)
    except OSError:
        return ""
    for sibling in siblings[:200]:
        try:
            _, manifest = NodeStore(sibling).current()
        except (OSError, WarmupError):
            continue
        count = len(key.differences(dict(manifest.key)))
        nearest.append((count, key_difference(manifest, key.as_dict()) or ""))
    return f"; the nearest stored key differs in {min(nearest)[1]}" if nearest else ""
