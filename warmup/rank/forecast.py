"""Predict a rank's `probe` and `lookup` on this node from package metadata and NVML.

Needs no torch, no FlashInfer and no CUDA context, so it may run anywhere and beside a serving engine. It is a
prediction: the rank itself asks FlashInfer, and may find another library than the packages state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection, WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey, cache_key, config_digest
from ray_warmup.warmup.artifact.fingerprint import PARTS, Fingerprint
from ray_warmup.warmup.artifact.manifest import key_difference
from ray_warmup.warmup.artifact.table import metadata_difference, parse_table
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.device.host_facts import capability_of, describe_host, gpu_capability
from ray_warmup.warmup.errors import ForecastError, StoreError, WarmupError
from ray_warmup.warmup.rank.missing_tasks import missing_tasks
from ray_warmup.warmup.rank.rank_workloads import foreseen_skips, rank_workloads, runnable
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_index import NodeIndex
from ray_warmup.warmup.store.node_paths import NodePaths, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore, StorePath
from ray_warmup.warmup.store.table_at import quarantined
from ray_warmup.warmup.tasks import Skip, Workload, digest_of_tasks, tasks_of


@dataclass(frozen=True, slots=True)
class Forecast:
    """One rank on one node, predicted."""

    rank: int
    key: CacheKey
    table_path: Path
    workloads: tuple[Workload, ...]
    """Workloads that the rank would run."""
    skips: tuple[Skip, ...]
    """Workloads that this GPU or installation cannot run."""
    num_tasks: int
    hit: bool
    guarded: bool
    reason: str
    """Reason for a miss, with the differences from the nearest stored key, or for a hit the missing tasks."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """Facts of one rank predicted from packages and hardware.

    Nothing stored has been read.
    """

    key: CacheKey
    paths: NodePaths
    workloads: tuple[Workload, ...]
    skips: tuple[Skip, ...]

    def directory_of(self, key: CacheKey) -> Path:
        """Return the path of a key's store on its node."""
        return directory_of(self.paths, key)


def directory_of(paths: NodePaths, key: CacheKey) -> Path:
    """Return the path of a key's store below a node's directories."""
    return StorePath.of(paths.root, paths.override, key.flashinfer_version, key.arch, key.sha256)


def foretell(
    config: WarmupConfig,
    rank: int,
    backend: str | None = None,
    gpu_index: int = 0,
    environment: Mapping[str, str] | None = None,
    fingerprint: Fingerprint | None = None,
) -> Foretold:
    """The key that a rank would have on this node, or on one that is simulated here and has this `environment`.

    `gpu_index` is NVML's; ignored on the cpu backend. `fingerprint` is what `fingerprint_of` said before; it takes a
    while. Raises ForecastError where there is no such GPU.
    """
    believe(config.cache)
    if backend is None:
        backend = config.cluster.backend_beside_gpus
    dims = dimensions_of(config)
    fingerprint = fingerprint or fingerprint_of(backend, gpu_index)
    paths = resolve_paths(config.cache, environment)
    found = rank_workloads(config, dims, rank, backend)
    skips: tuple[Skip, ...] = ()
    if backend != "cpu":
        capability = capability_of(fingerprint.arch) or gpu_capability(gpu_index)
        if capability is not None:
            skips = _skips(found, capability, fingerprint, paths)
    workloads = runnable(found, skips)
    return Foretold(cache_key(config, dims, fingerprint, digest_of_tasks(workloads)), paths, workloads, skips)


def forecast_rank(
    config: WarmupConfig,
    rank: int,
    backend: str | None = None,
    gpu_index: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Forecast:
    """Predict one rank and its lookup in the node's store. Arguments and errors are those of `foretell`.

    If an earlier run with the same forecast had another key, for example because a library differs from its package,
    that key counts.
    """
    told = foretell(config, rank, backend, gpu_index, environment)
    key = _found_key(config, told)
    store = store_at(config.cache, told.directory_of(key))
    check = partial(refusal_in, store, key)
    stored = store.lookup(key.as_dict(), read_only=True, check=check)
    reason = ""
    if not stored.hit:
        reason = stored.reason + _nearest(store.directory, key)
    elif stored.manifest is not None:
        reason = missing_tasks(config, store, stored.manifest, told.workloads)
    return Forecast(
        rank=rank,
        key=key,
        table_path=store.table_path,
        workloads=told.workloads,
        skips=told.skips,
        num_tasks=len(tasks_of(told.workloads)),
        hit=stored.hit,
        guarded=stored.guarded,
        reason=reason,
    )


def index_of(config: WarmupConfig, paths: NodePaths) -> NodeIndex:
    """Return the index of this configuration's runs below a node's directories."""
    believe(config.cache)
    return NodeIndex(paths.root, paths.override, config_digest(config, dimensions_of(config)), modes=config.cache.modes)


def store_at(cache: CacheSection, directory: Path) -> NodeStore:
    """A store with the configured modes."""
    return NodeStore(directory, modes=cache.modes)


def _found_key(config: WarmupConfig, told: Foretold) -> CacheKey:
    """Return the key that ranks had under this forecast, or the forecast itself if no run recorded one."""
    try:
        rows = [row for row in index_of(config, told.paths).rows() if row.foretold == told.key.parts]
    except StoreError:
        rows = []  # the lookup, which comes next, says what is wrong
    if not rows:
        return told.key
    return CacheKey(max(rows, key=lambda row: row.began_at).key)


def check_rank(config: WarmupConfig, rank: int | None) -> None:
    """Raise ConfigError for a rank that the config does not have.

    None means no particular rank.
    """
    if rank is not None and not 0 <= rank < config.cluster.num_ranks:
        raise ConfigError(f"--rank: {rank}: the config has ranks 0 to {config.cluster.num_ranks - 1}")


def fingerprint_of(backend: str, gpu_index: int = 0) -> Fingerprint:
    """Return a rank's fingerprint on this machine from packages and NVML.

    Raises ForecastError.
    """
    gpu = None
    if backend == "cuda":
        gpu = gpu_index
    try:
        return Fingerprint.of(describe_host(gpu, env.read("FLASHINFER_CUDA_ARCH_LIST")))
    except RuntimeError as error:
        raise ForecastError(
            f"this machine cannot tell what a rank with a GPU would find ({error}): ask on a node that has one, "
            "or set cluster.backend to cpu"
        ) from error


def _skips(
    workloads: tuple[Workload, ...], capability: tuple[int, int], fingerprint: Fingerprint, paths: NodePaths
) -> tuple[Skip, ...]:
    version, arch = fingerprint.flashinfer_version, fingerprint.arch
    return foreseen_skips(
        workloads, capability, lambda module: flashinfer_modules.is_foreseen(module, paths.workspace, version, arch)
    )


def refusal_in(store: NodeStore, key: CacheKey, table: bytes) -> str | None:
    """Return the reason to refuse a stored table, including a tactic quarantined in its store, or None."""
    return refusal(table, key) or quarantined(store, table)


def refusal(table: bytes, key: CacheKey) -> str | None:
    """Return the reason why a process with this key refuses a table, or None.

    FlashInfer compares the same seven fields.
    """
    try:
        saved = dict(parse_table(table).metadata)
    except WarmupError as error:
        return str(error)
    parts = key.as_dict()
    current = {name: parts[name] for name in saved if name in PARTS}
    different = metadata_difference(saved, current)
    return ", ".join(f"{n}: table {old!r}, node {new!r}" for n, (old, new) in different.items()) or None


def _nearest(directory: Path, key: CacheKey) -> str:
    """Describe the differences from the nearest stored key."""
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
        count = len(key.differences(dict(manifest.key.parts)))
        nearest.append((count, key_difference(manifest, key.as_dict()) or ""))
    if not nearest:
        return ""
    return f"; the nearest stored key differs in {min(nearest)[1]}"
