"""The part of the modelled cluster in which modules are built, handed over and taken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.machine.state import ClassState
from ray_warmup.warmup.ranks import RankInfo
from tests.sim.group import Group, module_digest
from tests.sim.holdings import Directory, Process, RefusedError, Value


class Workshop:
    """Who is where with which directory, and which modules they have; `World` adds everything else."""

    def __init__(
        self,
        infos: Sequence[RankInfo],
        group_of: Callable[[int], Group],
        directory_of: Callable[[str], int],
        rng: random.Random,
    ) -> None:
        self.infos = {info.rank: info for info in infos}
        self._group_of = group_of
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

    def group(self, rank: int) -> Group:
        """What the rank's class will be."""
        return self._group_of(rank)

    def directory(self, rank: int) -> Directory:
        """The store that the rank's node uses."""
        return self.directories.setdefault(self._directory_of(self.infos[rank].node_id), Directory())

    def lacks(self, process: Process) -> list[str]:
        """Modules that the process would have to compile."""
        group = self.group(process.rank)
        there = set(self.workspaces.setdefault(self.infos[process.rank].node_id, set()))
        if process.uses_installed:
            there |= self.directory(process.rank).modules.get(group.key, set())
        return [name for name in group.modules if name not in there]

    def _survey(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        """Modules of an earlier run that are installed here are used again."""
        self._is_builder(process, group)
        mine, directory = self.group(process.rank), self.directory(process.rank)
        process.uses_installed = bool(directory.modules.get(mine.key))
        modules = f"modules of {mine.key}" if process.uses_installed else None
        return {"missing": self.lacks(process), "modules": modules, "warnings": []}

    def _compile(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        """Some more are finished, at least one; the process goes on with the rest."""
        self._is_builder(process, group)
        lacks = self.lacks(process)
        built = lacks[: self.build_at_once or self._rng.randint(1, max(1, len(lacks)))]
        process.building = lacks[len(built) :]
        self.workspaces[self.infos[process.rank].node_id].update(built)
        return {"built": built, "missing": process.building}

    def _is_builder(self, process: Process, group: ClassState | None) -> None:
        """A build that goes on in a live process of the node is that process' business."""
        assert group is not None
        node = self.infos[process.rank].node_id
        for other in (self.processes[rank] for rank in group.ranks if rank != process.rank):
            if self.infos[other.rank].node_id == node and other.died_at is None and other.building:
                raise RefusedError("CompileError", f"rank {other.rank} builds {other.building} there")

    def _hand_over(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        assert group is not None
        process.uses_installed |= call.args["modules"] is not None
        if not self.ships_modules:
            return {"digest": None, "blobs": [], "warnings": ["its modules are not shipped"]}
        lacks = {*self.lacks(process), *process.building}
        names = {name for name in self.group(process.rank).modules if name not in lacks}
        if gone := self.handed_over.get(group.key, set()) - names:
            raise RefusedError("StoreError", f"it lacks {sorted(gone)}, which were handed over before")
        process.packed_modules = names
        digests = self._module_digests(group.key, names)
        rows = [{"sha256": digest} for digest in digests]
        return {
            "digest": f"modules of {group.key}",
            "names": sorted(names),
            "manifest": "",
            "blobs": rows,
            "warnings": [],
        }

    def _module_digests(self, key: str, names: set[str]) -> tuple[str, ...]:
        return tuple(module_digest(key, name) for name in sorted(names))

    def _take(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        sent = self.handed_over.get(call.artifact or "", set())
        if not sent:
            raise RefusedError("CorruptArtifactError", "no modules were adopted")
        mine, directory = self.group(process.rank), self.directory(process.rank)
        if not self.lacks(process):
            return {"modules": None, "missing": [], "warnings": []}
        if directory.is_read_only:
            return {"modules": None, "missing": self.lacks(process), "warnings": ["Read-only file system"]}
        directory.modules.setdefault(mine.key, set()).update(sent)
        process.uses_installed = True
        process.building = [name for name in process.building if name not in sent]
        return {"modules": f"modules of {mine.key}", "missing": self.lacks(process), "warnings": []}

    def _activate(self, process: Process, call: Call, group: ClassState | None, now: float) -> Value:
        process.uses_installed = bool(self.directory(process.rank).modules.get(self.group(process.rank).key))
        return {"active": process.uses_installed}

    def _adopt_modules(self, process: Process, command: Adopt) -> None:
        if command.digests != self._module_digests(command.key, process.packed_modules):
            raise RefusedError("StoreError", "it did not pack these modules")
        self.handed_over[command.key] = set(process.packed_modules)
