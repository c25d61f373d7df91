"""What one rank does about compiled things: builds modules, hands them to other nodes, takes theirs, collects the rest.

Taking over is never an obstacle: what does not fit or cannot be written is a warning, and this node compiles for
itself. Which node builds and which ones take is the machine's (`warmup/machine/compiling.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmup.artifact.artifact import Artifact, Blob, Content, encode, pack, sha256, verify
from warmup.artifact.manifest import BlobEntry, GuardSummary
from warmup.cache_key import CacheKey
from warmup.compiled import flashinfer_modules, tuning_kernels
from warmup.compiled.compiled_part import COMPILED, CompiledPart
from warmup.errors import LoadError, WarmupError
from warmup.fresh_replay import FreshProcess
from warmup.rank.module_build import ModuleBuild
from warmup.rank.packing import blob_rows
from warmup.store.node_store import NodeStore
from warmup.tuner import Tuner

logger = logging.getLogger(__name__)

Answer = dict[str, Any]
TABLE_ALONE = "table"
"""What is collected where no engine warmup runs."""


@dataclass(frozen=True, slots=True)
class FreshReplay:
    """How to replay a table in a process of its own; see `warmup/fresh_replay.py`."""

    request: Mapping[str, Any]
    variables: Mapping[str, str]
    """The environment of that process."""
    timeout_s: float
    covers: str
    """What an artifact must say to have everything that such a replay compiles; `warmup/rank/opening.py` decides it."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What goes into an artifact beside its table."""

    contents: tuple[Content, ...]
    warnings: tuple[str, ...]
    covers: str = ""
    """What a replay was made for; empty without one, or when it failed."""


class CompiledWork:
    """One probed rank's. `store` is None where nothing is kept on disk; `replay` where no kernels can be collected."""

    def __init__(
        self,
        tuner: Tuner,
        part: CompiledPart,
        store: NodeStore | None,
        key: CacheKey,
        replay: FreshReplay | None,
        keeps_tuning_kernels: bool = True,
    ) -> None:
        self._tuner = tuner
        self._part = part
        self._store = store
        self._key = key
        self._replay = replay
        self._keeps_tuning_kernels = keeps_tuning_kernels
        self._provider: Path | None = None
        self._waiting: FreshProcess | None = None
        self._build: ModuleBuild | None = None
        self._encoded: dict[tuple[str, str], tuple[BlobEntry, Blob]] = {}
        """What was handed over, by path and sha256: it is compressed once, however often it is packed."""
        self.artifact: Artifact | None = None
        """The modules that were handed over, by themselves."""

    def survey(self, tunes: bool) -> Answer:
        """Put back what this node's stored artifact has compiled, then say which modules are still missing.

        `tunes`: this node will measure, so what the driver compiled for earlier tunes is put back, too.
        """
        modules, warnings = self._restore()
        if tunes:
            self._restore_tuning_kernels()
            self.start_tuning()  # before any rank of this node does, should this one lead
        return {"missing": list(self.missing()), "modules": modules, "warnings": list(warnings)}

    def start_tuning(self) -> None:
        """This process measures next: what the driver compiles from now on is kept for nodes that tune again."""
        if self._store is not None and self._keeps_tuning_kernels:
            self._part.start_tuning()

    def missing(self) -> tuple[str, ...]:
        """Modules that this process would have to compile, those that it is building included."""
        building = () if self._build is None else self._build.unfinished
        return tuple(dict.fromkeys((*self._tuner.missing_modules(), *building)))

    def compile(self, jobs: int, say: Callable[[str], None]) -> Answer:
        """Build what is missing until something more is finished; what is left goes on building until the next call.

        `say` hears how far it is. Raises CompileError.
        """
        if self._build is None:
            self._build = ModuleBuild(self._tuner, self.missing(), jobs)
        build, self._build = self._build, None
        built = build.step(say)
        self._build = build if build.unfinished else None
        return {"built": list(built), "missing": list(build.unfinished)}

    def hand_over(self) -> Answer:
        """The modules that are compiled so far as an artifact of their own, kept here until its blobs are fetched.

        `digest` is None where there is nothing that another node could use; `warnings` then say why.
        """
        unfinished = () if self._build is None else self._build.unfinished
        try:
            found = {name: path for name, path in self._tuner.libraries().items() if name not in unfinished}
            contents = self._part.collect_modules(found)
        except (OSError, WarmupError) as error:
            return {"digest": None, "blobs": [], "warnings": [f"its modules are not shipped: {error}"]}
        if not contents:
            return {"digest": None, "blobs": [], "warnings": []}
        self.artifact = pack(
            contents,
            encode=self._encode,
            key=self._key.as_dict(),
            key_sha256=self._key.sha256,
            fingerprint={},
            created_at=0.0,
            strategy="modules",
            guard=GuardSummary("unguarded"),
        )
        manifest = self.artifact.manifest
        return {
            "digest": manifest.module_set,
            "names": list(flashinfer_modules.names_of(manifest)),
            "manifest": manifest.to_bytes().decode(),
            "blobs": blob_rows(manifest),
            "warnings": [],
        }

    def take(self, header: Answer, blobs: Mapping[str, Blob]) -> Answer:
        """Install modules that another node built, and use them; `missing` is what is still to be compiled here.

        Raises an ArtifactError for bytes that are not what the header says.
        """
        if not self.missing():  # a directory that is shared with the node that built them
            return {"modules": None, "missing": [], "warnings": []}
        artifact = verify(header["manifest"].encode(), blobs, expected_key=self._key.as_dict())
        done = self._part.install(artifact)
        modules = artifact.manifest.module_set if self.activate(artifact.manifest.module_set) else None
        if modules is not None and self._build is not None:
            self._build.forget(flashinfer_modules.names_of(artifact.manifest))
        return {"modules": modules, "missing": list(self.missing()), "warnings": list(done.warnings)}

    def activate(self, module_set: str) -> bool:
        """Let this process find an installed set of modules; without it the process would compile them."""
        provider = self._part.provider(module_set)
        try:
            if not self._tuner.activate(provider):
                return False
        except (OSError, WarmupError) as error:
            logger.warning("%s cannot be used, its modules are compiled: %s", provider, error)
            return False
        self._provider = provider
        return True

    def install(self, artifact: Artifact) -> Answer:
        """Put the compiled part of a whole artifact in place on this node; counts by kind, and warnings."""
        done = self._part.install(artifact)
        return {"installed": dict(done.counts), "warnings": list(done.warnings)}

    def is_covered_by(self, covers: str) -> bool:
        """Whether an artifact that was collected for this has all that a replay here would compile."""
        if self._store is None or self._replay is None or not self._part.has_gpu:
            return True
        return covers == self._replay.covers or (self._replay.covers == TABLE_ALONE and covers != "")

    def collect(self, table: bytes) -> Collected:
        """What goes into the artifact: modules, and what a fresh process needs to replay and to warm an engine."""
        if self._store is None:
            return Collected((), ())
        if self._replay is None or not self._part.has_gpu:
            return Collected(*self._part.collect(self._tuner.libraries(), None))
        kernels = self._stored_kernels()
        provider = None if self._provider is None else str(self._provider)
        request = {
            **self._replay.request,
            "provider": provider,
            "triton_cache": str(self._part.environment.triton_cache),
        }
        try:
            with self._fresh_process(self._replay) as fresh:
                answer = fresh.replay(request, table, self._replay.timeout_s)
                logger.info("a fresh process replayed the table: %s", answer)
                contents, warnings = self._part.collect(
                    self._tuner.libraries(answer["modules"]), fresh.compute_cache, answer["triton_entries"], kernels
                )
        except LoadError as error:
            contents, warnings = self._part.collect(self._tuner.libraries(), None, stored_kernels=kernels)
            return Collected(contents, (f"the kernels of a replay are not shipped: {error}", *warnings))
        return Collected(contents, (*warnings, *_not_shipped(answer["engine"])), self._replay.covers)

    def expect_collect(self) -> None:
        """`collect` will follow: what it needs a process for begins to import now. Does nothing the second time."""
        if self._store is None or self._replay is None or not self._part.has_gpu or self._waiting is not None:
            return
        try:
            self._waiting = FreshProcess(self._replay.request["factory"], self._replay.variables)
        except LoadError as error:
            logger.info("tried again when the table is packed: %s", error)

    def close(self) -> None:
        """End the process that waits for a `collect`, if there is one."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _fresh_process(self, replay: FreshReplay) -> FreshProcess:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.is_alive:
            return waiting
        if waiting is not None:
            waiting.close()
        return FreshProcess(replay.request["factory"], replay.variables)

    def _encode(self, content: Content) -> tuple[BlobEntry, Blob]:
        known = (content.path, sha256(content.data))
        if known not in self._encoded:
            self._encoded[known] = encode(content)
        return self._encoded[known]

    def _restore(self) -> tuple[str | None, tuple[str, ...]]:
        """Install the compiled part of the stored artifact and activate its modules; their set, and warnings."""
        if self._store is None or not self._store.generations.pointer_path.exists():  # not looked for again and again
            return None, ()
        try:
            artifact, lease = self._store.load_artifact(COMPILED)
        except WarmupError as error:
            logger.info("nothing compiled is taken from the store: %s", error)
            return None, ()
        try:
            if not any(artifact.manifest.of_kind(kind) for kind in COMPILED):
                return None, ()
            done = self._part.install(artifact)
        finally:
            lease.release()
        modules = artifact.manifest.module_set
        return (modules if self.activate(modules) else None), done.warnings

    def _restore_tuning_kernels(self) -> None:
        """Into the driver's cache, from this key's artifact and those of others; what does not fit is compiled."""
        if self._store is None or not self._part.uses_compute_cache or not self._keeps_tuning_kernels:
            return
        for kernels in self._part.stored_tuning_kernels(self._store):
            try:
                written = self._part.install_tuning_kernels(kernels)
            except (OSError, WarmupError) as error:
                logger.info("kernels of an earlier tune are not used: %s", error)
            else:
                logger.info("%d files that the driver compiled for an earlier tune were put in place", len(written))

    def _stored_kernels(self) -> tuple[Content, ...] | None:
        """What earlier tunes of this key left; None where none are kept."""
        if self._store is None or not self._keeps_tuning_kernels:
            return None
        try:
            return tuning_kernels.stored_in(self._store)
        except (OSError, WarmupError) as error:
            logger.info("no kernels of an earlier tune: %s", error)
            return ()


def _not_shipped(engine: Answer | None) -> tuple[str, ...]:
    """Warnings about engine warmups that did not run to their end, so that other nodes may have to compile for them."""
    if engine is None:
        return ()
    broken = [f"{one['name']}: {one['reason']}" for one in engine["outcomes"] if one["state"] == "failed"]
    lines = broken or (engine["warnings"] if engine["reason"] else [])
    return tuple(f"not all that an engine compiles is shipped: {line}" for line in lines)
