"""The compiled part of one rank's work: what it used, what it ships, what was installed for it.

One object in each rank's process, created after its fingerprint is known. Without a GPU there are neither Triton
entries nor driver kernels, and modules only where a tuner has some. A part that cannot be collected or does not fit
is a warning: the table is never held up by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.artifact import Artifact, Content
from ray_warmup.warmup.artifact.compression import oversize
from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.caches import (
    artifact_install,
    compute_cache,
    decode_profiles,
    flashinfer_modules,
    triton_cache,
    tuning_kernels,
)
from ray_warmup.warmup.caches.environment import ProcessEnvironment, decide
from ray_warmup.warmup.errors import RejectedArtifactError, WarmupError
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

TUNING_SHARE = 0.75
"""Of the driver's cache that kernels of earlier tunes may fill: winners' and new ones find room in the rest."""
COMPILED: tuple[Kind, ...] = ("flashinfer_module", "triton_cache", "cuda_compute_cache", "sparse_mla")
"""Kinds installed beside the table. Profiles of sparse-MLA decode are not compiled, but travel the same way."""


class NodeKernelCaches:
    """Collector and installer of compiled code for one process.

    `fingerprint` is the rank's.
    """

    def __init__(
        self,
        fingerprint: Mapping[str, str],
        store_directory: Path,
        flashinfer_base: Path,
        environ: Mapping[str, str],
        *,
        modes: Modes = OWNER_ONLY,
    ) -> None:
        self.has_gpu = bool(fingerprint["driver"])
        self.uses_compute_cache = self.has_gpu and environ.get("CUDA_CACHE_DISABLE", "0") in ("", "0")
        self._driver = fingerprint["driver"]
        self._device = {name: fingerprint[name] for name in ("driver", "arch")}
        self._process = flashinfer_modules.describe_process(
            fingerprint["cuda_version"], fingerprint["arch"].split("_") if self.has_gpu else ()
        )
        self._max_bytes = compute_cache.size_limit(environ.get("CUDA_CACHE_MAXSIZE"))
        self._modes = modes
        self._store_directory = store_directory
        self._profiles = decode_profiles.directory(
            environ, flashinfer_base, self._process["flashinfer"], fingerprint["arch"]
        )
        self._recorder = triton_cache.Recorder()
        self._is_recording = False
        self._kernels_before: frozenset[str] | None = None
        self.environment: ProcessEnvironment = decide(
            environ, Path(environ.get("HOME") or "/"), flashinfer_base, provider=None
        )

    def start(self) -> None:
        """Start recording the Triton entries that this process uses, and hash Triton's installation meanwhile."""
        if self.has_gpu and not self._is_recording:
            self._recorder.start()
            triton_cache.hash_installation()
            self._is_recording = True

    def start_tuning(self) -> None:
        """Remember the driver cache's kernels, so that later ones count as compiled by tuning.

        Only the first call counts.
        """
        # Only the first call, because later ones would count kernels of this tuning as older.
        if self.uses_compute_cache and self._kernels_before is None:
            self._kernels_before = tuning_kernels.names(self.environment.compute_cache)

    @property
    def triton_compilations(self) -> int:
        """Kernels that this process had to compile since `start`."""
        return self._recorder.compilations

    def collect_modules(self, libraries: Mapping[str, Path]) -> tuple[Content, ...]:
        """Compiled modules by name, to be shipped by themselves. Raises OSError, an ArtifactError."""
        return _fitting(flashinfer_modules.collect(libraries, self._process))

    def collect(
        self,
        libraries: Mapping[str, Path],
        replayed: Path | None,
        triton_entries: Iterable[str] = (),
        stored_kernels: Sequence[Content] | None = None,
    ) -> tuple[tuple[Content, ...], tuple[str, ...]]:
        """Return the contents to ship beside the table, and warnings for missing ones.

        Args:
            libraries: the compiled FlashInfer modules that the rank's workloads need, by name.
            replayed: compute cache of a process that only loaded and replayed the table; None ships no kernels.
            triton_entries: entries that another process used, besides this one's.
            stored_kernels: what earlier tunes of the key left (`tuning_kernels`); None ships no tuning's kernels.
        """
        if self._is_recording:
            self._recorder.stop(self.environment.triton_cache)
            self._is_recording = False
        entries = {*triton_entries, *self._recorder.used}
        collectors: dict[Kind, Callable[[], tuple[Content, ...]]] = {
            "flashinfer_module": lambda: self.collect_modules(libraries),
            "triton_cache": lambda: triton_cache.collect(self.environment.triton_cache, entries),
            "cuda_compute_cache": lambda: (
                () if replayed is None else compute_cache.collect(replayed, self._driver, self._max_bytes)
            ),
            "tuning_kernels": lambda: () if stored_kernels is None else self._tuning_kernels(stored_kernels),
        }
        contents: list[Content] = []
        warnings: list[str] = []
        for kind, collect in collectors.items():
            try:
                contents += _fitting(collect())
            except (OSError, WarmupError) as error:
                # A kind that cannot be collected costs time elsewhere, never the table.
                warnings.append(f"{kind} is not shipped, other nodes compile for themselves: {error}")
        return tuple(contents), tuple(warnings)

    def install(self, artifact: Artifact) -> artifact_install.Installed:
        """Put an artifact's compiled part in place on this node. One rank of a node does this."""
        node = artifact_install.Node(self._process, self._driver, self._profiles, self._max_bytes, self._modes)
        return artifact_install.install(artifact, self.provider(artifact.manifest.module_set), self.environment, node)

    def stored_tuning_kernels(self, store: NodeStore) -> Iterator[tuple[Content, ...]]:
        """Yield stored kernels of earlier tunes for this device, this key's first.

        See `tuning_kernels`.
        """
        return tuning_kernels.stored_beside(store, self._device, int(TUNING_SHARE * self._max_bytes))

    def install_tuning_kernels(self, contents: Sequence[Content]) -> list[Path]:
        """Add kernels of earlier tunes to this node's driver cache, and return the files written.

        Raises as `compute_cache.install`, and an ArtifactError for damaged bytes.
        """
        return compute_cache.install(
            tuning_kernels.opened(contents, self._max_bytes),
            self.environment.compute_cache,
            self._driver,
            self._max_bytes,
            keep_free=self._max_bytes - int(TUNING_SHARE * self._max_bytes),
            modes=self._modes,
        )

    def provider(self, module_set: str) -> Path:
        """Return the directory of a set of modules on this node, present or not."""
        return artifact_install.provider_directory(self._store_directory, module_set)

    def _tuning_kernels(self, stored: Sequence[Content]) -> tuple[Content, ...]:
        if self._kernels_before is None:  # nothing was tuned here
            return tuple(stored)
        where = self.environment.compute_cache
        return tuning_kernels.collect(where, self._kernels_before, stored, self._driver, self._max_bytes)


def _fitting(contents: tuple[Content, ...]) -> tuple[Content, ...]:
    """Raises RejectedArtifactError where one is larger than whoever receives it would read."""
    for content in contents:
        why = oversize(content.kind, content.path, len(content.data))
        if why is not None:
            raise RejectedArtifactError(why, path=content.path)
    return contents
