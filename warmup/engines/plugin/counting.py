"""Count what one engine process compiles and what it finds, by cache kind, from the moment of `install`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

from ray_warmup.warmup.caches.engine_kinds import EngineKind
from ray_warmup.warmup.engines.artifacts.rank_record import CompileCounts, WatchedDirectory
from ray_warmup.warmup.engines.plugin.import_hooks import when_imported
from ray_warmup.warmup.monitor.compile_hooks import Compilation, CompileHook, default_hooks

logger = logging.getLogger(__name__)

KIND_OF_COMPILER = {"flashinfer": "flashinfer_module", "triton": "triton_cache", "cute_dsl": "cute_dsl"}


@dataclass(slots=True)
class Counts:
    """Compiled and found entries per kind, with the names of what was compiled."""

    compiled: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def add(self, kind: str, *, is_compiled: bool, name: str = "") -> None:
        """Count one entry."""
        counts = self.compiled if is_compiled else self.found
        counts[kind] = counts.get(kind, 0) + 1
        if is_compiled and name:
            self.names.append(f"{kind}: {name}")

    def frozen(self) -> CompileCounts:
        """Return the counts so far."""
        return CompileCounts(dict(self.compiled), dict(self.found), tuple(self.names))


@dataclass(frozen=True, slots=True)
class DirectoryWatch:
    """A kind that reports to nobody: its directory's results before, to be compared with those of later."""

    kind: EngineKind
    directory: Path
    before: dict[str, int]
    """Result -> when it was written."""

    def gained(self) -> frozenset[str]:
        """Results that were not there before, or that were written anew."""
        return gained_since(self.before.items(), self.kind.layout.results(self.directory, self.kind.results))


class CompileCounter:
    """Hooks on the compilers that can be heard, an engine's own counters, and directories that are compared."""

    def __init__(self, on_event: Callable[[], None], compiled_models: Callable[[], tuple[int, int]]) -> None:
        """Keep the arguments.

        Args:
            on_event: called after each compilation or load that a hook hears.
            compiled_models: the engine's own count of models that torch compiled, and of those that it loaded.
        """
        self._compiled_models = compiled_models
        self._heard = Counts()
        self._on_event = on_event
        self._hooks = default_hooks()
        self._watches: list[DirectoryWatch] = []
        self.deaf: dict[str, str] = {}
        """Compiler that is installed -> why it cannot be heard here."""

    def install(self) -> None:
        """Listen to each compiler from its import on: an engine that never imports one does not pay for it."""
        for hook in self._hooks:
            when_imported(hook.module, partial(self._listen, hook))

    def counts(self) -> Counts:
        """Return the counts of this process's hooks, of torch and of the engine."""
        total = Counts(dict(self._heard.compiled), dict(self._heard.found), list(self._heard.names))
        compiled, found = self._compiled_models()
        _add(total, "torch_compile", compiled, found)
        for watch in self._watches:
            name = watch.kind.name
            if name in total.compiled:  # heard already, with the kernels' own names
                continue
            gained = watch.gained()
            _add(total, name, len(gained), 0 if name in KIND_OF_COMPILER.values() else len(watch.before))
            total.names += [f"{name}: {result}" for result in sorted(gained)]
        return total

    def watched(self) -> tuple[WatchedDirectory, ...]:
        """Return the watched directories, to be compared once more after the process has ended."""
        return tuple(
            WatchedDirectory(watch.kind.name, str(watch.directory), tuple(sorted(watch.before.items())))
            for watch in self._watches
        )

    def watch(self, kind: EngineKind, directory: Path) -> None:
        """Count what a directory gains from here on as compiled, and what it holds now as found."""
        self._watches.append(DirectoryWatch(kind, directory, kind.layout.results(directory, kind.results)))

    def _listen(self, hook: CompileHook, module: ModuleType) -> None:
        try:
            reason = hook.install(self._hear)
        except Exception as error:  # it runs inside the engine's import of the compiler, which must not fail
            reason = f"{module.__name__} is another than was read: {type(error).__name__}: {error}"
        if reason is not None:
            self.deaf[hook.kind] = reason

    def _hear(self, seen: Compilation) -> None:
        self._heard.add(KIND_OF_COMPILER[seen.kind], is_compiled=not seen.from_disk, name=seen.kernel)
        self._on_event()


def gained_since(before: Iterable[tuple[str, int]], now: Mapping[str, int]) -> frozenset[str]:
    """Return the results that are new or were written anew."""
    known = dict(before)
    return frozenset(name for name, written in now.items() if known.get(name) != written)


def _add(total: Counts, kind: str, compiled: int, found: int) -> None:
    if compiled:
        total.compiled[kind] = compiled
    if found:
        total.found[kind] = found
