"""Offer what an engine compiled for itself: after a miss, its own new entries become an unproven artifact of its node.

<root>/engine_caches/offers/<engine's name>/rank_<n>.json      until all ranks of the engine are warm

Each rank notes what its directories held before it compiled. The last one that is warm collects what all of them have
gained. Such an artifact is given to no engine, and leaves the node only after a proof start with it
(`is_unproven`). Nothing is offered where it had to be signed and cannot be.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Content, pack
from ray_warmup.warmup.artifact.manifest import UNGUARDED, Kind, parse_json
from ray_warmup.warmup.caches import engine_kinds, flashinfer_modules, triton_cache
from ray_warmup.warmup.codec import decode, encode, message
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.shared_lock import shared_lock
from ray_warmup.warmup.engines.adapter import flashinfer_workspace
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.artifacts.engine_store import OFFERED, RECORD_NAME, RecordedFacts, record_text
from ray_warmup.warmup.engines.identity.identity import Identity
from ray_warmup.warmup.engines.plugin import module_provider, remote_lookup
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

FOLDER = "offers"
_LIMIT = 16 << 20
_STALE_S = 24 * 3600.0
FRONT_END_NS = 600 * 10**9
"""Facts of models that are younger when a rank begins are taken for those of its own front end. They are no code."""
LAYOUTS = {kind.name: kind.layout for kind in engine_kinds.TREE_KINDS}


@message
class OfferedDirectory:
    """A directory of one kind, and the files that it held before the engine compiled."""

    kind: str
    directory: str
    prefix: str
    """Of the contents' paths."""
    before: tuple[str, ...]


@message
class OfferedRank:
    """One rank of an engine, with what its directories held before."""

    rank: int
    identity: tuple[tuple[str, str], ...]
    settings: dict[str, str]
    compile_factors: dict[str, str]
    directories: tuple[OfferedDirectory, ...]
    triton_cache: str
    triton_before: tuple[str, ...]
    libraries_before: tuple[str, ...]
    """FlashInfer's modules that were built already."""
    module_requirements: dict[str, str]


@dataclass(slots=True)
class Offer:
    """One rank on its way: made before it compiles, handed in when it is warm."""

    root: Path
    engine_name: str
    world_size: int
    rank: int
    identity: Identity
    settings: dict[str, str]
    compile_factors: dict[str, str]
    triton_cache: Path
    directories: list[OfferedDirectory] = field(default_factory=list)
    triton_before: tuple[str, ...] = ()
    libraries_before: tuple[str, ...] = ()

    def begin(self) -> None:
        """Note what is there before anything is compiled."""
        # Of an engine that had this name and ended before it was warm. Ranks begin before any of them is warm.
        (self._folder / f"rank_{self.rank}.json").unlink(missing_ok=True)
        self.triton_before = tuple(triton_cache.snapshot(self.triton_cache))
        self.libraries_before = tuple(flashinfer_workspace.built_libraries_here())

    def watch(self, kind: Kind, directory: Path, prefix: str = "") -> None:
        """Note what a directory holds before this engine compiles into it."""
        written = LAYOUTS[kind].results(directory, ("*",))
        held = list(written)
        if kind == engine_kinds.MODELINFOS.name:
            # The front end asks for them before any rank begins, in another process.
            began_ns = time.time_ns() - FRONT_END_NS
            held = [name for name, at in written.items() if at < began_ns]
        self.directories.append(OfferedDirectory(kind, str(directory), prefix, tuple(held)))

    def hand_in(self) -> None:
        """Note that this rank is warm. The last rank publishes what all have compiled.

        Raises StoreError, ArtifactError, ConfigError, OSError.
        """
        folder = self._folder
        base = folder.parent
        _sweep(base)
        with shared_lock(base / f"{folder.name}.lock"):
            publish_bytes(folder / f"rank_{self.rank}.json", json.dumps(encode(self._told())).encode())
            files = sorted(folder.glob("rank_*.json"))
            if len(files) < self.world_size:
                return
            ranks = [decode(OfferedRank, parse_json(path.read_bytes(), _LIMIT, str(path))) for path in files]
            try:
                _publish(self.root, ranks)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        """Return the directory in which the ranks of this engine meet."""
        return self.root / ENGINE_CACHES / FOLDER / f"{self.identity.sha256[:16]}-{self.engine_name}"

    def _told(self) -> OfferedRank:
        return OfferedRank(
            rank=self.rank,
            identity=self.identity.parts,
            settings=self.settings,
            compile_factors=self.compile_factors,
            directories=tuple(self.directories),
            triton_cache=str(self.triton_cache),
            triton_before=self.triton_before,
            libraries_before=self.libraries_before,
            module_requirements=module_provider.describe(),
        )


def new_contents(ranks: Sequence[OfferedRank]) -> tuple[Content, ...]:
    """Collect what the directories of all ranks have gained, each kind and path once. Raises OSError, ArtifactError."""
    unique: dict[tuple[Kind, str], Content] = {}
    for content in (*_of_trees(ranks), *_of_triton(ranks), *_of_flashinfer(ranks)):
        unique.setdefault((content.kind, content.path), content)
    return tuple(unique.values())


def _publish(root: Path, ranks: Sequence[OfferedRank]) -> None:
    first = ranks[0]
    identity = Identity(first.identity)
    if any(told.identity != first.identity for told in ranks):
        logger.info("ray-warmup: ranks of one engine differ, nothing of it is offered")
        return
    parts = identity.as_dict()
    store = NodeStore(engine_store.store_directory(root, parts["engine"], parts["engine_version"], identity.sha256))
    contents = new_contents(ranks)
    if not contents or store.lookup(parts).hit:  # nothing was compiled, or a run has recorded it meanwhile
        return
    facts = RecordedFacts(settings=dict(first.settings), compile_factors=dict(first.compile_factors))
    artifact = pack(
        (*contents, Content("engine_record", RECORD_NAME, record_text(facts))),
        key=parts,
        key_sha256=identity.sha256,
        fingerprint={"engine_version": parts["engine_version"]},
        created_at=time.time(),
        strategy=OFFERED,
        guard=UNGUARDED,
    )
    store.publish(artifact)
    logger.info("ray-warmup: what this engine compiled is kept, unproven: artifact %s", artifact.digest[:12])
    remote_lookup.offer(artifact.manifest)


def _of_trees(ranks: Sequence[OfferedRank]) -> Iterator[Content]:
    """Files that some rank has not found: ranks share directories, and one finds what another has just made."""
    before: dict[tuple[str, str, str], set[str]] = {}
    for told in ranks:
        for found in told.directories:
            place = (found.kind, found.directory, found.prefix)
            before[place] = before.get(place, set(found.before)) & set(found.before)
    for (kind, directory, prefix), held in before.items():
        layout = next(row.layout for row in engine_kinds.TREE_KINDS if row.name == kind)
        for content in layout.collect(Path(directory), prefix):
            if content.path.removeprefix(prefix) not in held:
                yield content


def _of_triton(ranks: Sequence[OfferedRank]) -> Iterable[Content]:
    directory = Path(ranks[0].triton_cache)
    before = _common(told.triton_before for told in ranks)
    return triton_cache.collect(directory, triton_cache.snapshot(directory) - before)


def _of_flashinfer(ranks: Sequence[OfferedRank]) -> Iterable[Content]:
    before = _common(told.libraries_before for told in ranks)
    built = flashinfer_workspace.built_libraries_here()
    new = {name: path for name, path in built.items() if name not in before}
    return flashinfer_modules.collect(new, ranks[0].module_requirements)


def _common(groups: Iterable[tuple[str, ...]]) -> frozenset[str]:
    """Return what all groups have."""
    sets = [frozenset(group) for group in groups]
    return frozenset.intersection(*sets)


def _sweep(base: Path) -> None:
    """Remove what engines left that ended before they were warm."""
    if not base.is_dir():
        return
    for folder in base.iterdir():
        if time.time() - folder.stat().st_mtime > _STALE_S:
            shutil.rmtree(folder, ignore_errors=True)
