"""COMPILING: one node of a class builds what is missing, the others take its modules before anything is tuned.

After every event `_advance` looks at what is known and what is under way, and asks for what comes next, so a death
needs no path of its own: what the dead rank was about is open again, and another rank of its node, or its
replacement, finds there what was finished. Where nothing is kept on disk every node builds for itself.
"""

from __future__ import annotations

from typing import Any

from warmup.machine.commands import Adopt, Call, Failure
from warmup.machine.logic import PhaseLogic
from warmup.machine.lookup import keeps_files
from warmup.machine.phases import Phase
from warmup.machine.state import ClassState, Commands, ModuleState, Run


class Compiling(PhaseLogic):
    """Survey every node; build on one; hand over, adopt, take; let every rank use what its node took."""

    phase = Phase.COMPILING

    def enter(self, run: Run) -> Commands:
        for group in run.classes.values():
            begin_again(group.modules)
        return [command for group in run.classes.values() for command in _advance(run, group)]

    def returned(self, run: Run, call: Call, value: dict[str, Any]) -> Commands:
        group = run.class_of(call.rank)
        modules, node = group.modules, run.ranks[call.rank].info.node_id
        for warning in value.get("warnings", ()):
            run.warn(f"{run.ranks[call.rank].info}: {warning}")
        if call.method in ("survey", "take"):
            modules.missing[node] = tuple(value["missing"])
            self._use(run, call, value["modules"])
            if call.method == "take":
                (modules.alone.add if value["missing"] else modules.received.append)(node)
        elif call.method == "compile":
            modules.missing[node] = ()
            modules.built[call.rank] = (*modules.built.get(call.rank, ()), *value["built"])
        elif call.method == "hand_over":
            return self._handed_over(run, group, call, value)
        elif call.method == "activate":
            modules.active[call.rank] = call.process
            return []
        return _advance(run, group)

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        """Handing over and taking may fail: then a node builds for itself. What cannot be built fails the run."""
        group = run.class_of(call.rank)
        said = f"{run.ranks[call.rank].info}: {failure.kind}: {failure.message}"
        if isinstance(call, Adopt) or call.method == "hand_over":
            run.warn(f"{said}; every node builds its modules itself")
            _give_up_shipping(run, group)
        elif call.method == "take":
            run.warn(f"{said}; its node builds its modules itself")
            group.modules.alone.add(run.ranks[call.rank].info.node_id)
        else:
            return None
        return _advance(run, group)

    def adopted(self, run: Run, adopt: Adopt) -> Commands:
        group = run.classes[adopt.key]
        group.modules.is_adopted = True
        return _advance(run, group)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        group, node = run.class_of(rank), run.ranks[rank].info.node_id
        modules = group.modules
        if any(isinstance(call, Call) and call.method in ("survey", "compile", "take") for call in calls):
            modules.missing.pop(node, None)  # some may be finished: whoever is next there looks first
        if modules.packer == rank and not modules.is_adopted:
            modules.packer = modules.header = None
        return _advance(run, group)

    def joined(self, run: Run, rank: int) -> Commands:
        return _advance(run, run.class_of(rank))

    def _use(self, run: Run, call: Call, module_set: str | None) -> None:
        if module_set is not None:
            modules = run.class_of(call.rank).modules
            modules.in_use[run.ranks[call.rank].info.node_id] = module_set
            modules.active[call.rank] = call.process

    def _handed_over(self, run: Run, group: ClassState, call: Call, value: dict[str, Any]) -> Commands:
        if value["digest"] is None:
            _give_up_shipping(run, group)
            return _advance(run, group)
        group.modules.header = value
        return [run.adopt(call.rank, group, value)]


def begin_again(modules: ModuleState) -> None:
    """What is installed and adopted stays; every node is asked anew, because others may be there now."""
    modules.missing.clear()
    modules.alone.clear()
    if not modules.is_adopted:
        modules.packer = modules.header = None


def _advance(run: Run, group: ClassState) -> Commands:
    """What a class needs next and nobody does yet."""
    modules, nodes = group.modules, _nodes(run, group)
    unknown = [node for node in nodes if node not in modules.missing]
    if unknown:
        return [call for node in unknown for call in _ask(run, nodes[node], "survey")]
    lacking = [node for node in nodes if modules.missing[node]]
    if not lacking:
        return _activate(run, group)
    donor = _donor(run, group, list(nodes))
    builders = [node for node in lacking if node == donor or node in modules.alone or not _ships(run, nodes)]
    takers = [node for node in lacking if node not in builders]
    commands = [call for node in builders for call in _ask(run, nodes[node], "compile")]
    if takers and not modules.missing[donor]:
        commands += _deliver(run, group, [nodes[node] for node in takers], nodes[donor])
    return commands


def _deliver(run: Run, group: ClassState, takers: list[list[int]], donors: list[int]) -> Commands:
    """Pack once, adopt once, then every node that lacks modules takes them."""
    modules = group.modules
    if modules.header is None:
        used = modules.in_use.get(run.ranks[donors[0]].info.node_id)
        commands = _ask(run, donors, "hand_over", modules=used) if modules.packer is None else []
        modules.packer = commands[0].rank if commands else modules.packer
        return commands
    if not modules.is_adopted:
        return []
    return [call for ranks in takers for call in _ask(run, ranks, "take", artifact=group.key)]


def _activate(run: Run, group: ClassState) -> Commands:
    """Every rank's process must be told of the set that its node took."""
    modules = group.modules
    commands: Commands = []
    for rank in run.alive(group):
        state = run.ranks[rank]
        module_set = modules.in_use.get(state.info.node_id)
        is_told = modules.active.get(rank) == state.restarts or run.calls_of.get(rank)
        if module_set is not None and not is_told:
            commands.append(run.call(rank, "activate", modules=module_set))
    return commands


def _ask(run: Run, ranks: list[int], method: str, artifact: str | None = None, **args: Any) -> Commands:
    """The call to the first live rank of a node, unless one of its ranks is busy for the class already."""
    alive = [rank for rank in ranks if run.ranks[rank].is_alive]
    if not alive or any(run.calls_of.get(rank) for rank in ranks):
        return []
    return [run.call(alive[0], method, artifact=artifact, **args)]


def _donor(run: Run, group: ClassState, nodes: list[str]) -> str:
    """The node that has, or will have, every module first: the one that lacks least, the leader's among equals."""
    home = run.ranks[group.leader].info.node_id
    return min(nodes, key=lambda node: (len(group.modules.missing[node]), node != home, nodes.index(node)))


def _nodes(run: Run, group: ClassState) -> dict[str, list[int]]:
    """The class's ranks by node, in order."""
    nodes: dict[str, list[int]] = {}
    for rank in group.ranks:
        nodes.setdefault(run.ranks[rank].info.node_id, []).append(rank)
    return nodes


def _ships(run: Run, nodes: dict[str, list[int]]) -> bool:
    """Whether modules can be installed on other nodes: they go into the node stores."""
    return keeps_files(run) and len(nodes) > 1


def _give_up_shipping(run: Run, group: ClassState) -> None:
    modules: ModuleState = group.modules
    modules.packer = modules.header = None
    modules.alone |= {node for node, missing in modules.missing.items() if missing}
