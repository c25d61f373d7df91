"""Changing a node's caches: import, rollback and pruning. Each is planned or checked before anything moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.archive import read_archive, unpack
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.artifact.manifest import parse_manifest
from ray_warmup.warmup.cache_admin.importing import refusal
from ray_warmup.warmup.cache_admin.removals import Removal
from ray_warmup.warmup.cache_admin.store_inspection import disk_bytes, version_and_arch
from ray_warmup.warmup.disk.clock import SLACK_S
from ray_warmup.warmup.disk.looking import is_there
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.errors import RejectedArtifactError, StoreError, WarmupError
from ray_warmup.warmup.store import pruning
from ray_warmup.warmup.store.inventory import Inventory, take_inventory
from ray_warmup.warmup.store.leases import PUBLISHING, uses_of
from ray_warmup.warmup.store.node_store import NodeStore, Published, StorePath

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class PruneRules:
    """Rules for removal.

    A rule that is None removes nothing. A current generation goes only with its whole store.
    """

    keep_generations: int | None = 3
    """Newest different artifacts kept in each store, the current one among them or besides."""
    older_than_days: float | None = None
    """Whole stores whose current artifact was made longer ago."""
    max_bytes: int | None = None
    """Whole stores, oldest first, until the rest has at most so many bytes."""
    installed_version: str | None = None
    """Whole stores of tables of every other FlashInfer version."""
    installed_engines: Mapping[str, str] = field(default_factory=dict)
    """Engine -> installed version: whole stores of its artifacts of every other version."""


@dataclass(frozen=True, slots=True)
class PruneResult:
    """Removed paths, including unreferenced blobs."""

    removed: tuple[str, ...]
    freed_bytes: int
    kept: tuple[str, ...]
    """Planned removals that are in use and stayed."""
    untouched: tuple[str, ...] = ()
    """Unreadable stores, left unchanged, each with the reason."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """A store's current generation, before and after."""

    path: str
    key: str
    old: int
    new: int
    table: str
    """Digest of the table that is served afterwards; empty without one."""


def import_archive(
    source: Path | Blob,
    root: Path,
    override: Path | None = None,
    *,
    modes: Modes | None = None,
    force: bool = False,
) -> Published:
    """Check a file (or what was read from one) as a whole and publish its artifact where it belongs.

    Raises an ArtifactError for what the file holds, or for one that is older or less checked than what is there
    (unless `force`), StoreError for the disk.
    """
    try:
        place, artifact = read_archive(source) if isinstance(source, Path) else unpack(source)
    except FileNotFoundError as error:
        raise StoreError(f"{source!s} does not exist", path=str(source)) from error
    where = engine_store.directory_of(root, artifact.manifest) or StorePath.of(
        root, override, place.flashinfer_version, place.arch, place.key_sha256
    )
    store = NodeStore(where, modes=modes)
    problem = refusal(artifact.manifest, store, force=force)
    if problem is not None:
        raise RejectedArtifactError(problem, path=str(where))
    return store.publish(artifact, is_checked=True)


def plan_rollback(path: Path, generation: int | None = None) -> Rollback:
    """Return the effect of a rollback to a generation, by default the newest one before the current. Changes nothing.

    Raises StoreError if there is no such generation, or an ArtifactError if its manifest is damaged.
    """
    store = NodeStore(path)
    try:
        current = store.current()[0].generation
    except FileNotFoundError as error:
        raise StoreError(f"{path}: nothing is committed, so there is nothing to go back from") from error
    earlier = [number for number in store.generations.numbers() if number < current]
    wanted = generation
    if generation is None:
        wanted = max(earlier, default=None)
    if wanted is None or wanted not in store.generations.numbers():
        have = ", ".join(map(str, store.generations.numbers()))
        asked = "an earlier one"
        if generation is not None:
            asked = f"generation {generation}"
        raise StoreError(f"{path}: cannot go back to {asked}; stored: {have}", path=str(path))
    table = parse_manifest(store.generations.manifest_bytes(wanted)).table
    return Rollback(str(path), path.name, current, wanted, "" if table is None else table.content_sha256)


def rollback(path: Path, generation: int | None = None, *, force: bool = False) -> Rollback:
    """Make an earlier generation current. Raises as `plan_rollback`, CorruptArtifactError when a blob is damaged.

    A store into which a live run (or an import) will publish is refused unless `force`: it would overwrite the choice.
    """
    if not force:
        refuse_live(path)
    plan = plan_rollback(path, generation)
    NodeStore(path).make_current(plan.new)
    return plan


def refuse_live(path: Path) -> None:
    """Raises StoreError where a live run uses this store, or where that cannot be told."""
    uses = uses_of(path / "leases")
    if uses.unreadable:
        raise StoreError(f"{path}: a run may be live: {uses.unreadable[0]}; --force goes on", path=str(path))
    if PUBLISHING in uses.held:
        raise StoreError(
            f"{path}: a run of this key is live and would publish over a rollback: wait for its end (`ray-warmup "
            "status`), or give --force",
            path=str(path),
        )


def plan_prune(stores: Iterable[Path], rules: PruneRules, now: float) -> tuple[Removal, ...]:
    """Return the removals that the rules ask for, generations first. Changes nothing.

    Names nothing in an unreadable store. `untouchable` lists those.
    """
    generations: list[Removal] = []
    whole: dict[Path, str] = {}
    ages: list[tuple[float, Path]] = []
    for path in stores:
        try:
            found = take_inventory(NodeStore(path), remove_dead=False)
            made_at = _made_at(path, found, now)
        except (OSError, WarmupError):
            continue
        ages.append((made_at, path))
        reason = _store_reason(path, made_at, rules, now)
        if reason is not None:
            whole[path] = reason
        elif rules.keep_generations is not None:
            generations += _old_generations(path, found, rules.keep_generations)
    if rules.max_bytes is not None:
        total = 0
        for made_at, path in sorted(ages, reverse=True):
            if path in whole:
                continue
            total += disk_bytes(path)
            if total > rules.max_bytes:
                whole[path] = f"over {rules.max_bytes} bytes together with the newer ones, made at {made_at:.0f}"
    removals = [removal for removal in generations if Path(removal.path) not in whole]
    for path, why in whole.items():
        removals.append(Removal(str(path), "store", None, disk_bytes(path), why))
    return tuple(removals)


def untouchable(stores: Iterable[Path]) -> tuple[str, ...]:
    """Return a message for each store with unreadable content, from which nothing may be removed."""
    found = []
    for path in stores:
        try:
            take_inventory(NodeStore(path), remove_dead=False)
        except (OSError, WarmupError) as error:
            found.append(str(error))
    return tuple(found)


def apply_prune(plan: Iterable[Removal], stores: Iterable[Path], clock: Callable[[], float]) -> PruneResult:
    """Carry a plan out, then remove blobs and installations that no generation names.

    A store that cannot be read is left as it is and named. The other stores are pruned.
    """
    paths = list(stores)
    before = sum(map(disk_bytes, paths))
    removed: list[str] = []
    kept: list[str] = []
    untouched: dict[str, None] = {}
    for removal in plan:
        store = NodeStore(Path(removal.path), clock=clock)
        try:
            gone = _remove(store, removal, clock)
            removed += map(str, gone)
            if not gone and _is_there(store, removal.generation):  # else another prune was quicker
                kept.append(f"{removal.path} {removal.generation or ''}".strip())
        except (OSError, WarmupError) as error:
            untouched[str(error)] = None
    for path in paths:
        try:
            if is_there(path):
                removed += map(str, pruning.collect_garbage(NodeStore(path, clock=clock), clock))
                removed += map(str, NodeStore(path, clock=clock).sweep())
        except (OSError, WarmupError) as error:
            untouched[str(error)] = None
    for directory in sorted({path.parent for path in paths}):
        try:
            removed += map(str, pruning.sweep_trash(directory, clock))
        except (OSError, WarmupError) as error:
            untouched[str(error)] = None
    freed = before - sum(disk_bytes(path) for path in paths)
    return PruneResult(tuple(removed), freed, tuple(kept), tuple(untouched))


def _remove(store: NodeStore, removal: Removal, clock: Callable[[], float]) -> list[Path]:
    if removal.generation is None:
        return pruning.remove_store(store, clock)
    return pruning.prune_generations(store, [removal.generation], clock)


def _is_there(store: NodeStore, generation: int | None) -> bool:
    if generation is None:
        return is_there(store.directory)
    return is_there(store.generations.manifest_path(generation))


def _store_reason(path: Path, made_at: float, rules: PruneRules, now: float) -> str | None:
    made_by = engine_store.engine_of(path)
    here = ""
    if made_by is not None:
        here = rules.installed_engines.get(made_by[0], "")
    if made_by is not None and here not in ("", made_by[1]):
        return f"made by {made_by[0]} {made_by[1]}, {here} is installed"
    version, _ = version_and_arch(path)
    if rules.installed_version is not None and version not in ("", rules.installed_version):
        return f"made by FlashInfer {version}, {rules.installed_version} is installed"
    if rules.older_than_days is not None and now - made_at > rules.older_than_days * DAY_S:
        return f"made {(now - made_at) / DAY_S:.1f} days ago, more than {rules.older_than_days:g}"
    return None


def _made_at(path: Path, found: Inventory, now: float) -> float:
    """Return the time of a store's current artifact.

    Without one, or with a future time, return the time of its files.
    """
    if found.pointer is None:
        return path.stat().st_mtime
    made_at = found.manifests[found.pointer.generation].created_at
    if made_at <= now + SLACK_S:
        return made_at
    return NodeStore(path).generations.pointer_path.stat().st_mtime


def _old_generations(path: Path, found: Inventory, keep: int) -> list[Removal]:
    """All but the newest `keep` different artifacts, each of those once, and the current generation."""
    store = NodeStore(path)
    current = None if found.pointer is None else found.pointer.generation
    kept: dict[str, int] = {}
    if current is not None:
        kept[found.manifests[current].digest] = current
    newest: list[str] = []
    old: list[tuple[int, str]] = []
    for number in sorted(found.manifests, reverse=True):
        digest = found.manifests[number].digest
        if digest not in newest:
            newest.append(digest)
        if kept.get(digest) == number or (len(newest) <= max(keep, 1) and digest not in kept):
            kept[digest] = number
        elif digest in kept:
            old.append((number, f"the same artifact as generation {kept[digest]}"))
        else:
            old.append((number, f"older than the newest {max(keep, 1)} different artifacts"))
    removals = []
    for number, reason in sorted(old):
        size = disk_bytes(store.generations.manifest_path(number).parent)
        removals.append(Removal(str(path), "generation", number, size, reason))
    return removals
