"""Put entries of an artifact into the cache directories of a starting engine, and know them again.

An entry that the engine made is never changed. An entry that was placed before and changed since is replaced. If the
disk refuses a kind, the other kinds are placed all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import triton_cache
from ray_warmup.warmup.caches.placed import (
    PlacedEntry,
    PlacedRegister,
    entry_of,
    is_changed,
    remove_entry,
    used_from,
)
from ray_warmup.warmup.caches.tree import TreeLayout
from ray_warmup.warmup.disk.create_once import place_directory, place_file
from ray_warmup.warmup.disk.publish import Buffer
from ray_warmup.warmup.disk.shared_lock import shared_lock
from ray_warmup.warmup.errors import StoreError, WarmupError

logger = logging.getLogger(__name__)

Files = Mapping[str, Buffer]


@dataclass(frozen=True, slots=True)
class Placed:
    """Outcome of placing one kind."""

    written: tuple[Path, ...]
    """Entries that were not there before: files or directories."""
    present: tuple[Path, ...]
    """Entries that were there already, and that were left alone."""


NOTHING = Placed((), ())


@dataclass(slots=True)
class Placing:
    """One round of placing, under the register's lock."""

    register: PlacedRegister | None
    """None for directories that end with this process' launcher: nothing in them is known again."""
    store: Path
    """Node store that the entries come from."""
    modes: Modes = OWNER_ONLY
    troubles: list[str] = field(default_factory=list)
    """Kinds that could not be placed, each with the reason."""

    def tree(self, layout: TreeLayout, contents: Sequence[Content], directory: Path) -> Placed:
        """Place entries of a kind whose files hold no path of their own."""
        return self._guarded(layout.kind, layout.entries(contents), directory)

    @staticmethod
    def _is_stale(entry: Path) -> bool:
        """Return True if an entry is present and Triton would not use it."""
        return entry.is_dir() and not triton_cache.is_whole(entry)

    def triton(self, contents: Sequence[Content], directory: Path) -> Placed:
        """Place entries of Triton's cache, whose group files hold absolute paths."""
        try:
            entries = triton_cache.entries(contents, directory)
        except WarmupError as error:
            self.troubles.append(f"triton_cache: {error}")
            return NOTHING
        stale = [name for name in entries if self._is_stale(directory / name)]
        placed = self._guarded("triton_cache", entries, directory)
        for name in stale:  # a copy of another home's: Triton would compile it anew and write over it
            mine = [content for content in contents if content.path.startswith(f"{name}/")]
            try:
                triton_cache.install(mine, directory, modes=self.modes)
            except WarmupError as error:
                self.troubles.append(f"triton_cache: {error}")
        return placed

    def _guarded(self, kind: str, entries: Mapping[str, Files], directory: Path) -> Placed:
        try:
            return self._place(kind, entries, directory)
        except StoreError as error:
            # One kind that fails must not keep the others from being placed.
            self.troubles.append(f"{kind}: {error}")
            return NOTHING

    def _place(self, kind: str, entries: Mapping[str, Files], directory: Path) -> Placed:
        if not entries:
            return NOTHING
        known: dict[str, PlacedEntry] = {}
        if self.register is not None:
            known = self.register.of(directory, kind)
        noted, missing = dict(known), set[str]()
        for name, files in entries.items():
            if name in known:
                self._remove_changed(directory, known[name])
            if not (directory / name).exists():
                missing.add(name)
                noted[name] = entry_of(name, files, self.store)
            elif name in known:
                noted[name] = used_from(known[name], self.store)
        # Registered before it is written: a kill in between leaves a name without an entry, not an unknown entry.
        self._save(kind, directory, noted, known)
        written: list[Path] = []
        present: list[Path] = []
        ours = dict(noted)
        for name, files in entries.items():
            # The write refuses an existing name, since an engine takes no lock of ours.
            if name in missing and self._write(directory / name, files):
                written.append(directory / name)
                continue
            present.append(directory / name)
            if name in missing:  # the engine itself was quicker: this one is its own
                del ours[name]
        self._save(kind, directory, ours, noted)
        return Placed(tuple(written), tuple(present))

    @staticmethod
    def _remove_changed(directory: Path, entry: PlacedEntry) -> None:
        """Remove an entry of ours that is damaged or forged, because an engine would load it."""
        path = directory / entry.name
        if path.exists() and is_changed(directory, entry):
            logger.warning("%s was changed after it was put there and is replaced -> look who else writes there", path)
            remove_entry(path)

    def _write(self, path: Path, files: Files) -> bool:
        if "" in files:
            return place_file(path, files[""], modes=self.modes)
        return place_directory(path, files, modes=self.modes)

    def _save(
        self, kind: str, directory: Path, entries: dict[str, PlacedEntry], before: Mapping[str, PlacedEntry]
    ) -> None:
        """Register entries.

        A register that cannot be written costs the knowledge of them, not the entries.
        """
        if self.register is None or entries == before:
            return
        try:
            self.register.save(directory, kind, entries)
        except StoreError as error:
            logger.warning(
                "ray-warmup: entries in %s will count as the engine's own: %s "
                "-> make the cache root writable (`ray-warmup doctor`)",
                directory,
                error,
            )


@contextmanager
def placing(register: PlacedRegister | None, store: Path, *, modes: Modes = OWNER_ONLY) -> Iterator[Placing]:
    """Place entries of one artifact, alone on this node.

    Raises StoreError at the end, once for all kinds that the disk or the artifact refused.
    """
    round_ = Placing(register, store, modes)
    if register is None:
        yield round_
    else:
        # Two engines that start at once would each register only their own entries.
        with shared_lock(register.lock, modes=modes):
            yield round_
    if round_.troubles:
        raise StoreError("not placed: " + "; ".join(round_.troubles))
