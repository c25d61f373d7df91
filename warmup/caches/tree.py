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
    mark: str = ""
    """Name of an empty file by which the compiler knows a whole entry; an entry without it is not finished.

    Not collected, and written again with each entry.
    """

    def collect(self, directory: Path, prefix: str = "") -> tuple[Content, ...]:
        """Read every finished file below a directory, or none if it is absent.

        Names that begin with a dot, links and special files are left out, and so are entries without their mark.
        Raises OSError.
        """
        contents = []
        for path in self._files(directory):
            if not self._is_finished(path, directory):
                continue
            relative = path.relative_to(directory).as_posix()
            contents.append(Content(self.kind, f"{prefix}{relative}", path.read_bytes()))
        return tuple(contents)

    def results(self, directory: Path, patterns: Sequence[str]) -> dict[str, int]:
        """Map files whose names match one of these patterns, by relative path, to when each was written.

        In nanoseconds: a compiler that finds an entry and does not take it writes over it.
        """
        found = {}
        for path in self._files(directory):
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns):
                found[path.relative_to(directory).as_posix()] = path.stat().st_mtime_ns
        return found

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
        if self.mark:
            for files in entries.values():
                files[self.mark] = b""
        return entries

    def _is_finished(self, path: Path, directory: Path) -> bool:
        """Return True unless the entry that a file belongs to lacks its mark."""
        if not self.mark:
            return True
        parts = path.relative_to(directory).parts[: self.entry_depth]
        return directory.joinpath(*parts, self.mark).is_file()

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
