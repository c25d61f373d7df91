"""The part of the modelled cluster in which modules are built, handed over and taken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ray_warmup.warmup.machine.commands import Adopt
from ray_warmup.warmup.machine.state.run import ClassState
from ray_warmup.warmup.messages import answers, questions
from ray_warmup.warmup.messages.values import BlobRow, Header
from ray_warmup.warmup.ranks import RankInfo
from tests.sim.model_class import ModelClass, module_digest
from tests.sim.model_state import Directory, Process, RefusedError


class ModulesModel:
    """Who is where with which directory, and which modules they have; `World` adds everything else."""

    def __init__(
        self,
        infos: Sequence[RankInfo],
        class_of: Callable[[int], ModelClass],
        directory_of: Callable[[str], int],
        rng: random.Random,
    ) -> None:
        self.infos = {info.rank: info for info in infos}
        self._class_of = class_of
        self._directory_of = directory_of
        self._rng = rng
        self.processes = {info.rank: Process(info.rank, 0) for info in infos}
        self.directories: dict[int, Directory] = {}
        self.workspaces: dict[str, set[str]] = {}
        """Node -> modules that were compiled on it."""
        self.build_at_once: int | None = None
        """How many modules are finished in one step; None: any number."""
        self.handed_over: dict[str, set[str]] = {}
        """Key of a class -> its modules that were adopted."""
        self.ships_modules = True
        """Whether what one node compiled is of any use on another."""

    def rank_class(self, rank: int) -> ModelClass:
        """What the rank's class will be."""
        return self._class_of(rank)

    def directory(self, rank: int) -> Directory:
        """The store that the rank's node uses."""
        return self.directories.setdefault(self._directory_of(self.infos[rank].node_id), Directory())

    def lacks(self, process: Process) -> list[str]:
        """Modules that the process would have to compile."""
        rank_class = self.rank_class(process.rank)
        there = set(self.workspaces.setdefault(self.infos[process.rank].node_id, set()))
        if process.uses_installed:
            there |= self.directory(process.rank).modules.get(rank_class.key, set())
        return [name for name in rank_class.modules if name not in there]

    def _survey(self, process: Process, rank_class: ClassState | None) -> answers.Surveyed:
        """Modules of an earlier run that are installed here are used again."""
        self._is_builder(process, rank_class)
        mine, directory = self.rank_class(process.rank), self.directory(process.rank)
        process.uses_installed = bool(directory.modules.get(mine.key))
        modules = f"modules of {mine.key}" if process.uses_installed else None
        return answers.Surveyed(tuple(self.lacks(process)), modules)

    def _compile(self, process: Process, rank_class: ClassState | None) -> answers.Compiled:
        """Some more are finished, at least one; the process goes on with the rest."""
        self._is_builder(process, rank_class)
        lacks = self.lacks(process)
        built = lacks[: self.build_at_once or self._rng.randint(1, max(1, len(lacks)))]
        process.building = lacks[len(built) :]
        self.workspaces[self.infos[process.rank].node_id].update(built)
        return answers.Compiled(tuple(built), tuple(process.building))

    def _is_builder(self, process: Process, rank_class: ClassState | None) -> None:
        """A build that goes on in a live process of the node is that process' business."""
        assert rank_class is not None
        node = self.infos[process.rank].node_id
        for other in (self.processes[rank] for rank in rank_class.ranks if rank != process.rank):
            if self.infos[other.rank].node_id == node and other.died_at is None and other.building:
                raise RefusedError("CompileError", f"rank {other.rank} builds {other.building} there")

    def _pack_modules(
        self, process: Process, asked: questions.PackModules, rank_class: ClassState | None
    ) -> answers.PackedModules:
        assert rank_class is not None
        process.uses_installed |= asked.modules is not None
        if not self.ships_modules:
            return answers.PackedModules(None, warnings=("its modules are not shipped",))
        lacks = {*self.lacks(process), *process.building}
        names = {name for name in self.rank_class(process.rank).modules if name not in lacks}
        if gone := self.handed_over.get(rank_class.key, set()) - names:
            raise RefusedError("StoreError", f"it lacks {sorted(gone)}, which were handed over before")
        process.packed_modules = names
        rows = tuple(BlobRow(digest, 1, "m") for digest in self._module_digests(rank_class.key, names))
        header = Header(f"modules of {rank_class.key}", "", b"", rows)
        return answers.PackedModules(header, tuple(sorted(names)))

    def _module_digests(self, key: str, names: set[str]) -> tuple[str, ...]:
        return tuple(module_digest(key, name) for name in sorted(names))

    def _install_modules(
        self, process: Process, asked: questions.InstallModules, rank_class: ClassState | None
    ) -> answers.InstalledModules:
        assert rank_class is not None
        adopted = self.handed_over.get(rank_class.key, set())
        sent = {name for name in adopted if module_digest(rank_class.key, name) in asked.header.digests}
        if len(sent) < len(asked.header.digests) or not sent:
            raise RefusedError("CorruptArtifactError", "what is sent was not adopted")
        mine, directory = self.rank_class(process.rank), self.directory(process.rank)
        if not self.lacks(process):
            return answers.InstalledModules(None, ())
        if directory.is_read_only:
            return answers.InstalledModules(None, tuple(self.lacks(process)), ("Read-only file system",))
        directory.modules.setdefault(mine.key, set()).update(sent)
        process.uses_installed = True
        process.building = [name for name in process.building if name not in sent]
        return answers.InstalledModules(f"modules of {mine.key}", tuple(self.lacks(process)))

    def _activate_modules(self, process: Process) -> answers.Activated:
        process.uses_installed = bool(self.directory(process.rank).modules.get(self.rank_class(process.rank).key))
        return answers.Activated(process.uses_installed)

    def _adopt_modules(self, process: Process, command: Adopt) -> None:
        if command.digests != self._module_digests(command.key, process.packed_modules):
            raise RefusedError("StoreError", "it did not pack these modules")
        self.handed_over[command.key] = self.handed_over.get(command.key, set()) | process.packed_modules
