"""What a rank's `probe` and `lookup` would say on this node, from package metadata and NVML alone.

No torch, no FlashInfer, no CUDA context, so it may run anywhere and beside a serving engine. It is a
prediction: the rank itself asks FlashInfer, and may find another library than the packages promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.model import load_model
from configs.schema import WarmupConfig
from warmup.artifact.manifest import key_difference
from warmup.cache_key import CacheKey, cache_key
from warmup.errors import WarmupError
from warmup.fingerprint import Fingerprint
from warmup.rank.node_paths import resolve_paths
from warmup.rank.workloads import rank_workloads
from warmup.store.node_store import NodeStore, StorePath
from warmup.table import metadata_difference, parse_table
from warmup.tasks import Workload, digest_of_tasks, tasks_of
from warmup.tuning.host_facts import describe_host


@dataclass(frozen=True, slots=True)
class Forecast:
    """One rank on one node, predicted."""

    rank: int
    key: CacheKey
    table_path: Path
    workloads: tuple[Workload, ...]
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

    `gpu_index` is NVML's; ignored on the cpu backend.
    """
    if backend is None:
        backend = "cpu" if config.cluster.backend == "cpu" else "cuda"
    dims = load_model(config.model.name)
    fingerprint = Fingerprint.of(describe_host(gpu_index if backend == "cuda" else None))
    workloads = rank_workloads(config, dims, rank, backend)
    key = cache_key(config, dims, fingerprint, digest_of_tasks(workloads))
    paths = resolve_paths(config.cache, environment)
    directory = StorePath.of(
        paths.root, paths.override, fingerprint["flashinfer_version"], fingerprint["arch"], key.sha256
    )
    store = NodeStore(directory)
    found = store.lookup(key.as_dict(), check=lambda table: _refusal(table, fingerprint))
    return Forecast(
        rank=rank,
        key=key,
        table_path=store.table_path,
        workloads=workloads,
        num_tasks=len(tasks_of(workloads)),
        hit=found.hit,
        guarded=found.guarded,
        reason="" if found.hit else found.reason + _nearest(directory, key),
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
