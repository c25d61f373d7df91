"""Making an artifact the current one of its store: one generation for each artifact, however many publish it at once.

A publisher adds its generation and then compares it with the others. Of several generations with one artifact the
current one stays, or else the lowest. The publisher compares once more after its commit, so two publishers that did not
see each other end with one number. It holds a lease on a generation from before it reads it until `current` names it. A
generation that it gives up is removed as by a pruner, so a process with a lease on it keeps it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import Manifest, parse_manifest
from ray_warmup.warmup.errors import RejectedArtifactError, StoreError, WarmupError
from ray_warmup.warmup.store.generations import Generations, Pointer, move_to_trash
from ray_warmup.warmup.store.leases import EVERYTHING, Lease, held_generations
from ray_warmup.warmup.store.trash import delete, restore_from_trash

logger = logging.getLogger(__name__)

Hold = Callable[[int], Lease]


def commit_artifact(store: Generations, manifest: Manifest, hold: Hold) -> tuple[Pointer, list[Path]]:
    """Make the generation with this artifact current, and return it with the files written.

    A missing generation is added. Its blobs must be in the store already. Raises StoreError, or FileNotFoundError if a
    pruner removed a blob meanwhile.
    """
    _refuse_other_version(store)
    current = _current(store)
    # The pointer is read before the manifests, so a generation that becomes current in between is found among them.
    stored = _with_artifact(store, manifest)
    if current is not None and current.generation in stored:
        return current, []
    if stored:
        # Of equal generations every publisher takes the lowest, so that all of them choose the same one.
        chosen, files = _go_to(store, min(stored), hold), [store.pointer_path]
    else:
        chosen, files = _add(store, manifest, hold)
    # Only after the commit, since until then another publisher may still choose a generation that would go here.
    _leave_one(store, manifest, chosen.generation)
    return chosen, files


def _refuse_other_version(store: Generations) -> None:
    """Raise StoreError if another version of ray-warmup wrote the current generation."""
    try:
        store.current()
    except RejectedArtifactError as error:
        raise StoreError(f"{store.directory}: what is current there is not replaced: {error}") from error
    except (FileNotFoundError, WarmupError):  # absent or damaged: it is replaced
        return


def _add(store: Generations, manifest: Manifest, hold: Hold) -> tuple[Pointer, list[Path]]:
    """Add a generation and make it current, or go to the one that another publisher of this artifact made meanwhile.

    It is held from before it exists, so that no pruner takes it.
    """
    # The number exists first as an empty directory, so that it can be held before a pruner sees a manifest in it.
    number = store.reserve()
    use = hold(number)
    try:
        pointer = store.add(manifest, number)
        # Two publishers of one artifact that add at once see each other here at the latest.
        other = _other(store, manifest, number)
        if other is None:
            store.commit(pointer)
    finally:
        use.release()
    if other is None:
        # A publisher that committed between the comparison and this commit is seen only now.
        other = _lowest_before(_with_artifact(store, manifest), number)
    if other is None:
        return pointer, [store.manifest_path(number), store.pointer_path]
    current = _current(store)
    if current is None or current.generation != other:
        current = _go_to(store, other, hold)
    return current, [store.pointer_path]


def _other(store: Generations, manifest: Manifest, mine: int) -> int | None:
    """The number that serves this artifact in place of mine: the current one, else a lower one."""
    current = _current(store)
    same = _with_artifact(store, manifest)
    others = [number for number in same if number != mine]
    if current is not None and current.generation in others:
        return current.generation
    return _lowest_before(same, mine)


def _lowest_before(numbers: list[int], mine: int) -> int | None:
    return min((number for number in numbers if number < mine), default=None)


def _go_to(store: Generations, number: int, hold: Hold) -> Pointer:
    use = hold(number)
    try:
        # The digest is of the bytes as stored, which the other publisher wrote with its own generation number.
        pointer = Pointer(number, sha256(store.manifest_bytes(number)))
        store.commit(pointer)
    finally:
        use.release()
    return pointer


def _leave_one(store: Generations, manifest: Manifest, chosen: int) -> None:
    """Remove the other generations with this artifact, but for those that are current or held."""
    for number in _with_artifact(store, manifest):
        if number != chosen:
            _give_up(store, number)


def _give_up(store: Generations, number: int) -> None:
    """Remove a generation that another one stands for, unless somebody uses it."""
    path = store.manifest_path(number).parent
    try:
        # A generation in use is not hidden even for a moment.
        if _is_used(store, number):
            return
        trash = move_to_trash(path)
        if trash is None:
            return
        if _is_used(store, number):  # by who came before it was hidden
            restore_from_trash(trash, path)
        else:
            delete(trash)
    except StoreError as error:
        logger.info("generation %d of %s stays: %s", number, store.directory, error)


def _is_used(store: Generations, number: int) -> bool:
    """Return True if a generation is held or current, or if that cannot be told."""
    try:
        held = held_generations(store.directory / "leases")
    except StoreError as error:
        logger.info("generation %d of %s stays: %s", number, store.directory, error)
        return True
    if held & {number, EVERYTHING}:
        return True
    current = _current(store)
    # An unreadable pointer may name this very generation, so the generation counts as used.
    return current is None or current.generation == number


def _current(store: Generations) -> Pointer | None:
    with suppress(FileNotFoundError, WarmupError):  # absent or damaged: it is replaced
        return store.pointer()
    return None


def _with_artifact(store: Generations, manifest: Manifest) -> list[int]:
    """Return the numbers of the readable generations with this artifact.

    A signed one is the same only under the same signature, so that signing it again makes a generation of its own.
    """
    digest = manifest.digest
    found = []
    for number in store.numbers():
        with suppress(FileNotFoundError, WarmupError):
            stored = parse_manifest(store.manifest_bytes(number))
            if stored.digest == digest and manifest.signature in (None, stored.signature):
                found.append(number)
    return found
