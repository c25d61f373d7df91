"""Files of a cache directory as contents, entry by entry. `placing.py` puts them into another directory.

Most compiler caches are directories of independent entries that never hold a path of their own. What differs between
them is how many path components name one entry, and which names are not finished.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.artifact.manifest import Kind


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """Division of a kind's directory into entries."""

    kind: Kind
    entry_depth: int
    """Path components that name one entry, which is placed whole; 0 places each file by itself."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that are not finished or that hold no result: locks, temporary files."""

    def collect(self, directory: Path, prefix: str = "") -> tuple[Content, ...]:
        """Read every finished file below a directory, or none if it is absent.

        Names that begin with a dot, links and special files are left out. Raises OSError.
        """
        contents = []
        for path in self._files(directory):
            relative = path.relative_to(directory).as_posix()
            contents.append(Content(self.kind, f"{prefix}{relative}", path.read_bytes()))
        return tuple(contents)

    def results(self, directory: Path, patterns: Sequence[str]) -> frozenset[str]:
        """Relative paths of the files in a directory whose names match one of these patterns."""
        found = set()
        for path in self._files(directory):
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
                found.add(path.relative_to(directory).as_posix())
        return frozenset(found)

    def entries(self, contents: Sequence[Content]) -> dict[str, dict[str, bytes | memoryview]]:
        """Map each entry's name to its files by relative path.

        The path is empty if the entry is one file.
        """
        entries: dict[str, dict[str, bytes | memoryview]] = {}
        for content in contents:
            parts = content.path.split("/")
            depth = self.entry_depth or len(parts)
            name, rest = "/".join(parts[:depth]), "/".join(parts[depth:])
            entries.setdefault(name, {})[rest] = content.data
        return entries

    def _files(self, directory: Path) -> Iterator[Path]:
        if not directory.is_dir():
            return
        for entry in sorted(os.scandir(directory), key=lambda found: found.name):
            if entry.name.startswith(".") or any(fnmatch.fnmatch(entry.name, pattern) for pattern in self.ignored):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
