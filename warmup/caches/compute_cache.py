"""The driver's compute cache: kernels that cuDNN, cuBLAS and PTX are compiled to on first use.

Collected from a process that did nothing but load and replay the final table with an empty `CUDA_CACHE_PATH`, so that
only the winners' kernels are shipped. Only the same driver reads it. The directory's `index` keeps the driver's
accounts, so a cache that has one is never overwritten: files that it lacks are added beside it.
"""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches.requirements import REQUIREMENTS, required
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError

logger = logging.getLogger(__name__)

INDEX = "index"
DEFAULT_MAX_BYTES = 256 << 20
"""The smallest default of `CUDA_CACHE_MAXSIZE` over driver versions."""


def collect(
    directory: Path, driver: str, max_bytes: int = DEFAULT_MAX_BYTES, kernels: Collection[str] | None = None
) -> tuple[Content, ...]:
    """Return the files of a compute cache and its driver's version, or none if the cache is empty.

    `kernels` restricts them to these paths in the cache, and its index. A cache larger than `max_bytes`
    (`CUDA_CACHE_MAXSIZE`) is left out with a warning, because a driver would evict it.
    """
    paths: list[Path] = []
    for path in sorted(directory.rglob("*")):
        is_asked = kernels is None or path.name == INDEX or str(path.relative_to(directory)) in kernels
        if is_asked and path.is_file() and not path.is_symlink():
            paths.append(path)
    total = _total(paths)
    # An index alone names kernels that are not there.
    if all(path.name == INDEX for path in paths):
        return ()
    if total > max_bytes:
        logger.warning(
            "the compute cache of %d bytes is more than CUDA_CACHE_MAXSIZE=%d and is not shipped "
            "-> raise that variable",
            total,
            max_bytes,
        )
        return ()
    contents = []
    for path in paths:
        with suppress(FileNotFoundError):  # another process' driver made room
            contents.append(Content("cuda_compute_cache", str(path.relative_to(directory)), path.read_bytes()))
    contents.append(Content("cuda_compute_cache", REQUIREMENTS, json.dumps({"driver": driver}).encode()))
    return tuple(contents)


def install(
    contents: Sequence[Content],
    directory: Path,
    driver: str,
    max_bytes: int = DEFAULT_MAX_BYTES,
    *,
    keep_free: int = 0,
    modes: Modes = OWNER_ONLY,
) -> list[Path]:
    """Add kernels to a compute cache and return the files written, or none if the kernels would not fit.

    `keep_free` is the number of bytes below `max_bytes` that stay free for other kernels.

    Raises RejectedArtifactError when another driver compiled them, StoreError when the disk refuses.
    """
    if not contents:
        return []
    built_by = _driver(contents)
    if built_by != driver:
        raise RejectedArtifactError(
            f"the compute cache was written by driver {built_by!r}, this node has {driver!r}", driver=built_by
        )
    missing = _missing(contents, directory)
    present, added = _total(directory.rglob("*")), sum(len(content.data) for content in missing)
    # All or nothing, because a driver over its limit evicts kernels that others need.
    if added and present + added > max_bytes - keep_free:
        level = logging.WARNING
        if keep_free:
            level = logging.INFO
        logger.log(
            level,
            "%d bytes are in %s and CUDA_CACHE_MAXSIZE is %d: %d bytes of kernels are not added",
            *(present, directory, max_bytes, added),
        )
        return []
    # An index that is there is the driver's own, which another node's must not replace.
    if not (directory / INDEX).exists():
        missing += [content for content in contents if content.path == INDEX]
    written = []
    for content in missing:
        written.append(directory / content.path)
        publish_bytes(written[-1], content.data, modes=modes)
    return written


def _missing(contents: Sequence[Content], directory: Path) -> list[Content]:
    """Return the kernels that a cache does not have."""
    found = []
    for content in contents:
        is_kernel = content.path not in (INDEX, REQUIREMENTS)
        if is_kernel and not (directory / content.path).exists():
            found.append(content)
    return found


def size_limit(setting: str | None) -> int:
    """Parse `CUDA_CACHE_MAXSIZE` in bytes.

    Returns the default if it is unset or not a number.
    """
    if setting is not None and setting.isdecimal():
        return int(setting)
    return DEFAULT_MAX_BYTES


def replay_environment(directory: Path) -> Mapping[str, str]:
    """Variables for the process that replays the table so that its kernels can be collected from `directory`."""
    return {"CUDA_CACHE_PATH": str(directory), "CUDA_CACHE_DISABLE": "0"}


def _total(paths: Iterable[Path]) -> int:
    """Bytes of the files among these paths that are still there."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                total += status.st_size
    return total


def _driver(contents: Sequence[Content]) -> str:
    driver = required(contents).get("driver")
    if not isinstance(driver, str):
        raise CorruptArtifactError(f"the compute cache comes without {REQUIREMENTS}; it was not installed")
    return driver
