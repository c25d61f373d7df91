"""Making an artifact the current one of its store: one generation for each artifact, however many publish it at once.

A generation is added, then the others are looked at: of several with one artifact the current one stays, else the
lowest. Whoever commits looks again afterwards, so that publishers who did not see each other end with one number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import Manifest, parse_manifest
from ray_warmup.warmup.errors import RejectedArtifactError, StoreError, WarmupError
from ray_warmup.warmup.store.generations import Generations, Pointer
from ray_warmup.warmup.store.leases import Lease

Hold = Callable[[int], Lease]


def commit_artifact(store: Generations, manifest: Manifest, hold: Hold) -> tuple[Pointer, list[Path]]:
    """Make the generation with this artifact current, and return it with the files written.

    A missing generation is added. Its blobs must be in the store already. Raises StoreError, or FileNotFoundError if a
    pruner removed a blob meanwhile.
    """
    _refuse_other_version(store)
    current = _current(store)
    stored = _with_artifact(store, manifest.digest)
    if current is not None and current.generation in stored:
        return current, []
    if stored:
        return _go_to(store, min(stored)), [store.pointer_path]
    return _add(store, manifest, hold)


def _refuse_other_version(store: Generations) -> None:
    """Raise StoreError if another version of ray-warmup wrote the current generation."""
    try:
        store.current()
    except RejectedArtifactError as error:
        raise StoreError(f"{store.directory}: what is current there is not replaced: {error}") from error
    except (FileNotFoundError, WarmupError):  # absent or damaged: it is replaced
        return


def _add(store: Generations, manifest: Manifest, hold: Hold) -> tuple[Pointer, list[Path]]:
    """A new generation is held from before it exists, so that no pruner takes it."""
    number = store.reserve()
    use = hold(number)
    try:
        pointer = store.add(manifest, number)
        files = [store.manifest_path(number), store.pointer_path]
        other = _other(store, manifest.digest, number)
        if other is None:
            store.commit(pointer)
            other = _lower(store, manifest.digest, number)
            if other is None:
                return pointer, files
        current = _current(store)
        chosen = current if current is not None and current.generation == other else _go_to(store, other)
        store.drop(number)
        return chosen, [store.pointer_path]
    finally:
        use.release()


def _other(store: Generations, digest: str, mine: int) -> int | None:
    """The number that serves this artifact in place of mine: the current one, else a lower one."""
    current = _current(store)
    if current is not None and current.generation != mine and current.generation in _with_artifact(store, digest):
        return current.generation
    return _lower(store, digest, mine)


def _lower(store: Generations, digest: str, mine: int) -> int | None:
    return min((number for number in _with_artifact(store, digest) if number < mine), default=None)


def _go_to(store: Generations, number: int) -> Pointer:
    pointer = Pointer(number, sha256(store.manifest_bytes(number)))
    store.commit(pointer)
    return pointer


def _current(store: Generations) -> Pointer | None:
    with suppress(FileNotFoundError, WarmupError):  # absent or damaged: it is replaced
        return store.pointer()
    return None


def _with_artifact(store: Generations, digest: str) -> list[int]:
    """Return the numbers of the readable generations with this artifact."""
    found = []
    for number in store.numbers():
        with suppress(FileNotFoundError, WarmupError):
            if parse_manifest(store.manifest_bytes(number)).digest == digest:
                found.append(number)
    return found
