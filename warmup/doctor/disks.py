"""Checks of the cache directories: room, owners and modes, and whether this user can write them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.cache_admin import store_inspection
from ray_warmup.warmup.caches.environment import decide
from ray_warmup.warmup.disk import trust
from ray_warmup.warmup.disk.clock import now_in
from ray_warmup.warmup.disk.writable import why_not_writable
from ray_warmup.warmup.doctor.finding import Finding, error, ok, warning
from ray_warmup.warmup.store.node_paths import NodePaths, resolve_paths

FEW_BYTES = 2 << 30
"""Less free space than one artifact of a large engine with its home may take."""
SHM_BYTES = 256 << 20
CLOCKS_S = 5.0
"""A disk whose clock is further off makes leases look older or newer than they are."""


def caches(section: CacheSection) -> Iterator[Finding]:
    """Check the directories that a configuration or the environment names."""
    try:
        paths = resolve_paths(section)
    except ConfigError as refused:
        yield error("cache", str(refused), "set cache.root or RAY_WARMUP_CACHE_ROOT to an absolute directory")
        return
    root = paths.override or paths.root
    yield from _directory("cache root", root)
    yield from _room(root)
    yield from _clock(root)
    yield from _stores(paths)
    yield from _shared_memory()


def _directory(what: str, path: Path) -> Iterator[Finding]:
    why = why_not_writable(path)
    if why is not None:
        yield error(
            "cache", f"{what} {path}: nothing can be kept there: {why}", "set cache.root to a writable directory"
        )
        return
    refusal = trust.code_refusal(_nearest(path))
    if refusal is not None:
        yield error(
            "cache",
            f"{what}: {refusal}",
            "take the right to write away from others, or name them in cache.trusted_gids",
        )
    else:
        yield ok("cache", f"{what} {path}")


def _room(path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(_nearest(path)).free
    text = f"{free / (1 << 30):.1f} GiB free at {path}"
    if free < FEW_BYTES:
        yield warning("cache", text, "free some space, or run `ray-warmup cache prune --yes`")
    else:
        yield ok("cache", text)


def _clock(path: Path) -> Iterator[Finding]:
    """Compare the clock of a disk, by which leases age, with this machine's."""
    place = _nearest(path)
    off = now_in(place) - time.time()
    if abs(off) > CLOCKS_S:
        text = f"the disk of {place} is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's clock"
        yield warning("clocks", text, "let NTP set this machine's clock and the file server's")
    else:
        yield ok("clocks", f"the disk of {place} has this machine's time")


def _stores(paths: NodePaths) -> Iterator[Finding]:
    found = store_inspection.search(paths.root, paths.override)
    for problem in found.problems:
        yield error("cache", problem, "give this user the right to read it, or move it away")
    rows = store_inspection.list_stores(found.stores, ())
    for row in rows:
        if row.problem:
            yield warning("cache", f"{row.path}: {row.problem}", "run `ray-warmup cache verify`, then the warmup again")
    yield ok("cache", f"{len(rows)} keys are stored")


def _shared_memory() -> Iterator[Finding]:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return
    free = shutil.disk_usage(shm).free
    if free < SHM_BYTES:
        yield warning(
            "cache",
            f"{free >> 20} MiB free in {shm}, which Ray's object store uses",
            "start the container with --shm-size",
        )
    else:
        yield ok("cache", f"{free >> 20} MiB free in {shm}")


def compilers(section: CacheSection) -> Iterator[Finding]:
    """Check the caches of FlashInfer, Triton and the driver, which tuning and engines fill."""
    try:
        workspace = resolve_paths(section).workspace
        process = decide(env.snapshot(), Path(env.read("HOME") or os.sep), workspace, None)
    except ConfigError:
        return  # told already
    places = (
        ("FLASHINFER_WORKSPACE_BASE", process.flashinfer_base),
        ("TRITON_CACHE_DIR", process.triton_cache),
        ("CUDA_CACHE_PATH", process.compute_cache),
    )
    for name, path in places:
        refusal = trust.code_refusal(_nearest(path))
        if refusal is not None:
            yield error("cache", f"{name}: {refusal}", f"set {name} to a directory that only this user can write")
        why = why_not_writable(path)
        if why is not None:
            yield warning(
                "cache", f"{name}: new kernels cannot be kept there: {why}", f"set {name} to a writable directory"
            )


def _nearest(path: Path) -> Path:
    """Return the path, or the directory above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
