"""Compiled code of one rank: restore stored code, build modules, share them, and install those of other ranks.

A failed installation is a warning, and this node compiles for itself. `warmup/machine/phases/compiling.py` chooses the
nodes that build, `warmup/rank/artifact_collector.py` the contents of an artifact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from ray_warmup.warmup import remedies
from ray_warmup.warmup.artifact.artifact import Artifact, Blob, Content, encode, pack, sha256, verify
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.header import header as header_of
from ray_warmup.warmup.artifact.manifest import UNGUARDED, BlobEntry, Manifest
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.caches.artifact_install import Installed
from ray_warmup.warmup.caches.compiled_part import COMPILED, NodeKernelCaches
from ray_warmup.warmup.caches.provider import check, is_installed
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.messages.answers import Compiled, InstalledModules, PackedModules, Surveyed
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.rank.artifact_collector import ArtifactCollector, ReplayPlan
from ray_warmup.warmup.rank.module_build import ModuleBuild
from ray_warmup.warmup.rank.stored_tuning_kernels import StoredTuningKernels
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)


class RankCompilation:
    """Compiled code of one probed rank.

    `store` is None without a disk. `replay` is None if no kernels can be collected.
    """

    def __init__(
        self,
        tuner: Tuner,
        part: NodeKernelCaches,
        store: NodeStore | None,
        key: CacheKey,
        replay: ReplayPlan | None,
        keeps_tuning_kernels: bool = True,
    ) -> None:
        self._tuner = tuner
        self._part = part
        self._store = store
        self._key = key
        self._kernels = StoredTuningKernels(part, store if keeps_tuning_kernels else None)
        self.collector = ArtifactCollector(tuner, part, store, replay, self._kernels)
        self.provider: Path | None = None
        """The installed set of modules that this process uses."""
        self._refused: tuple[str, ...] = ()
        """Why the last set of modules is not used."""
        self._build: ModuleBuild | None = None
        self._encoded: dict[tuple[str, str], tuple[BlobEntry, Blob]] = {}
        """What was handed over, by path and sha256: it is compressed once, however often it is packed."""
        self.artifact: Artifact | None = None
        """The modules that were handed over, by themselves."""
        self.checked: Mapping[str, Blob] = {}
        """Blobs of the stored artifact that this process has received and hashed, so that they are not read again."""

    def survey(self, tunes: bool) -> Surveyed:
        """Put back what this node's stored artifact has compiled, then say which modules are still missing.

        `tunes`: this node will measure, so what the driver compiled for earlier tunes is put back, too.
        """
        modules, warnings = self._restore()
        if tunes:
            self._kernels.restore()
            self.start_tuning()  # before any rank of this node does, should this one lead
        return Surveyed(self.missing(), modules, warnings)

    def start_tuning(self) -> None:
        """This process measures next: what the driver compiles from now on is kept for nodes that tune again."""
        self._kernels.start_tuning()

    def missing(self) -> tuple[str, ...]:
        """Modules that this process would have to compile, those that it is building included."""
        return tuple(dict.fromkeys((*self._tuner.missing_modules(), *self._being_built)))

    @property
    def _being_built(self) -> tuple[str, ...]:
        """Modules whose build has begun and has not ended."""
        if self._build is None:
            return ()
        return self._build.unfinished

    def compile(self, jobs: int, say: Callable[[str], None]) -> Compiled:
        """Build missing modules until some are finished. The build of the others continues until the next call.

        `say` receives the progress. Raises CompileError.
        """
        if self._build is None:
            self._build = ModuleBuild(self._tuner, self.missing(), jobs)
        # Taken out first, so that a build that raises is not continued.
        build, self._build = self._build, None
        built = build.step(say)
        if build.unfinished:
            self._build = build
        return Compiled(built, build.unfinished)

    def pack_modules(self) -> PackedModules:
        """The modules that are compiled so far as an artifact of their own, kept here until its blobs are fetched.

        `header` is None where there is nothing that another node could use; `warnings` then say why.
        """
        try:
            found = dict(self._tuner.libraries())
            for name in self._being_built:
                found.pop(name, None)  # its file may be half written
            contents = self._part.collect_modules(found)
        except (OSError, WarmupError) as error:
            return PackedModules(None, warnings=(f"its modules are not shipped: {error}",))
        if not contents:
            return PackedModules(None)
        self.artifact = pack(
            contents,
            encode=self._encode,
            key=self._key.as_dict(),
            key_sha256=self._key.sha256,
            fingerprint={},
            # Fixed, so that equal modules give equal bytes whenever they are packed.
            created_at=0.0,
            strategy="modules",
            guard=UNGUARDED,
        )
        manifest = self.artifact.manifest
        header = header_of(manifest, manifest.module_set)
        return PackedModules(header, tuple(flashinfer_modules.names_of(manifest)))

    def install_modules(self, header: Header, blobs: Mapping[str, Blob]) -> InstalledModules:
        """Install and use another node's modules.

        Raises an ArtifactError for bytes that do not match the header.
        """
        if not self.missing():  # a directory that is shared with the node that built them
            return InstalledModules(None, ())
        artifact = verify(header.manifest, blobs, expected_key=self._key.as_dict())
        done = self._part.install(artifact)
        modules = self._activated(artifact.manifest)
        if modules is not None and self._build is not None:
            self._build.forget(flashinfer_modules.names_of(artifact.manifest))
        return InstalledModules(modules, self.missing(), (*done.warnings, *self._refused))

    def _activated(self, manifest: Manifest) -> str | None:
        """Use an artifact's installed modules, and return their set, or None if this process cannot use them."""
        if self.activate(manifest.module_set):
            return manifest.module_set
        return None

    def activate(self, module_set: str) -> bool:
        """Make this process find an installed set of modules, which it would otherwise compile."""
        provider = self._part.provider(module_set)
        try:
            # Checked again at every use, since these files are code and the disk may be shared.
            if is_installed(provider):
                check(provider, module_set)
            if not self._tuner.activate(provider):
                return False
        except (OSError, WarmupError) as error:
            logger.warning("%s cannot be used, its modules are compiled: %s -> %s", provider, error, remedies.COMPILES)
            self._refused = (f"{provider} cannot be used, its modules are compiled: {error}",)
            return False
        self._refused = ()
        self.provider = provider
        return True

    def install(self, artifact: Artifact) -> Installed:
        """Install the compiled part of a whole artifact on this node, and return counts by kind, and warnings."""
        return self._part.install(artifact)

    def _encode(self, content: Content) -> tuple[BlobEntry, Blob]:
        known = (content.path, sha256(content.data))
        if known not in self._encoded:
            self._encoded[known] = encode(content)
        return self._encoded[known]

    def _restore(self) -> tuple[str | None, tuple[str, ...]]:
        """Install the compiled part of the stored artifact, activate its modules, and return their set, and
        warnings."""
        if self._store is None or not self._store.generations.pointer_path.exists():  # not looked for again and again
            return None, ()
        try:
            artifact, lease = self._store.load_artifact(COMPILED, checked=self.checked)
        except WarmupError as error:
            logger.info("nothing compiled is taken from the store: %s", error)
            return None, ()
        try:
            if not any(artifact.manifest.of_kind(kind) for kind in COMPILED):
                return None, ()
            done = self._part.install(artifact)
        finally:
            lease.release()
        return self._activated(artifact.manifest), (*done.warnings, *self._refused)
