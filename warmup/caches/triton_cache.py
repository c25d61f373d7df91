"""Triton's cache entries: collected after a warmup, published into another node's Triton cache.

An entry is one directory named by Triton's own key (its installation, the kernel's source, signature, options, target
and compile-time variables), so it hits wherever Triton computes the same key and is ignored elsewhere. A kernel's
files form a group: `__grp__<name>.json` lists absolute child paths; it is shipped with bare names and written last,
rewritten to the directory it lands in.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, UnsafeArchiveError, WarmupError

logger = logging.getLogger(__name__)

GROUP_PREFIX = "__grp__"
_LIMIT = 1 << 20
_TEMPORARY = ("tmp.pid_", "lock")


class Recorder:
    """Recorder of the entries that this process uses between `start` and `stop`.

    Entries count whether found or compiled. Imports Triton.
    """

    def __init__(self) -> None:
        self.used: set[str] = set()
        """Entry names: kernels, and the compiled launchers that this process has mapped."""
        self.compilations = 0
        """Number of kernels that were missing and had to be compiled."""
        self._previous: Any = None

    def start(self) -> None:
        """Start listening.

        A listener that was set before is still called.
        """
        from triton import knobs

        # Triton has one listener, and an engine may have set its own.
        self._previous = knobs.compilation.listener
        knobs.compilation.listener = self._listen

    def stop(self, directory: Path) -> None:
        """Stop listening, and add the launchers of `directory` that are mapped into this process."""
        from triton import knobs

        knobs.compilation.listener = self._previous
        root = str(directory.resolve()) + "/"
        # Launchers are mapped without a call to the listener, so only the kernel knows of them.
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            _, found, rest = line.partition(root)
            if found:
                self.used.add(rest.split("/")[0])

    def _listen(self, **event: Any) -> None:
        self.compilations += not event["cache_hit"]
        for path in event["metadata_group"].values():
            self.used.add(Path(path).parent.name)
        if self._previous is not None:
            self._previous(**event)


def hash_installation() -> threading.Thread:
    """Start what Triton does once per process before it can look into its cache: hash its own installation.

    That takes half a second, mostly of a large library; done in the background it is over when the first kernel comes.
    """
    from triton.runtime.cache import triton_key

    thread = threading.Thread(target=triton_key, name="triton-key", daemon=True)
    thread.start()
    return thread


def snapshot(directory: Path) -> frozenset[str]:
    """Return the names of the cache's present entries, or none without a cache."""
    if not directory.is_dir():
        return frozenset()
    return frozenset(path.name for path in directory.iterdir() if path.is_dir())


def collect(directory: Path, names: Iterable[str]) -> tuple[Content, ...]:
    """Collect these entries (of `Recorder.used`), with bare child names in group files.

    An entry that is unfinished or gone is left out.
    """
    contents: list[Content] = []
    for name in sorted(set(names) & snapshot(directory)):
        contents += _entry(directory / name)
    return tuple(contents)


def install(contents: Sequence[Content], directory: Path, *, modes: Modes = OWNER_ONLY) -> list[Path]:
    """Publish entries into a Triton cache, groups last, and return the files written.

    A file that is there already is kept. Raises CorruptArtifactError or UnsafeArchiveError for a group that names
    other files than its own, StoreError when the disk refuses.
    """
    members = {content.path for content in contents}
    written = []
    # A group makes an entry complete for Triton, so it is written after its children.
    for content in sorted(contents, key=lambda content: _is_group(content.path)):
        path = directory / content.path
        data = content.data
        is_group = _is_group(content.path)
        if is_group:
            data = _absolute_group(content, path.parent, members)
        # Names hold the hash of the source, so a plain file that is there has the same content.
        if path.exists() and (not is_group or _is_group_usable(path)):
            continue
        publish_bytes(path, data, modes=modes)
        written.append(path)
    return written


def entries(contents: Sequence[Content], directory: Path) -> dict[str, dict[str, bytes | memoryview]]:
    """Map each entry's name to its files as they shall lie in a Triton cache, groups with absolute paths.

    Raises CorruptArtifactError or UnsafeArchiveError for a group that names other files than its own.
    """
    members = {content.path for content in contents}
    found: dict[str, dict[str, bytes | memoryview]] = {}
    for content in contents:
        name, _, file = content.path.partition("/")
        path = directory / content.path
        data = content.data
        if _is_group(content.path):
            data = _absolute_group(content, path.parent, members)
        found.setdefault(name, {})[file] = data
    return found


def is_whole(entry: Path) -> bool:
    """Return True if every group of an entry names files that are there, as Triton checks."""
    return all(_is_group_usable(path) for path in entry.glob(f"{GROUP_PREFIX}*"))


def _entry(directory: Path) -> list[Content]:
    contents = []
    for path in sorted(directory.iterdir()):
        if not path.is_file() or path.name.startswith((*_TEMPORARY, ".")):
            continue
        data = path.read_bytes()
        if _is_group(path.name):
            children = _children(data, str(path))
            if not all((directory / name).is_file() for name in children):
                logger.info("Triton entry %s is unfinished and is not collected", directory)
                return []
            # Absolute paths of this node mean nothing on another.
            data = json.dumps({"child_paths": dict(zip(children, children, strict=True))}, sort_keys=True).encode()
        contents.append(Content("triton_cache", f"{directory.name}/{path.name}", data))
    return contents


def _absolute_group(content: Content, directory: Path, members: set[str]) -> bytes:
    children = _children(content.data, f"triton_cache/{content.path}")
    entry = content.path.split("/")[0]
    for name in children:
        # A group with a path outside would make Triton load that file.
        if f"{entry}/{name}" not in members:
            raise UnsafeArchiveError(f"triton_cache/{content.path} names {name!r}, which it does not carry")
    paths = {name: str(directory.resolve() / name) for name in children}
    return json.dumps({"child_paths": paths}).encode()


def _children(data: bytes | memoryview, what: str) -> list[str]:
    document: Any = parse_json(data, _LIMIT, what)
    children = None
    if isinstance(document, dict):
        children = document.get("child_paths")
    if not isinstance(children, dict):
        raise CorruptArtifactError(f"{what} is not a Triton group")
    return sorted(children)


def _is_group(path: str) -> bool:
    return path.rpartition("/")[2].startswith(GROUP_PREFIX)


def _is_group_usable(path: Path) -> bool:
    """Return True if every child named by an existing group is present, as Triton checks."""
    try:
        document = parse_json(read_regular(path, _LIMIT), _LIMIT, str(path))
        return all(Path(child).exists() for child in document["child_paths"].values())
    except (OSError, KeyError, AttributeError, TypeError, WarmupError) as error:
        logger.info("Triton group %s cannot be read and is replaced: %s", path, error)
        return False
