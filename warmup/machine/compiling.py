"""COMPILING: one node of a class builds what is missing, the others take its modules before anything is tuned.

A build is seen step by step: `compile` answers as soon as something more is finished, that is handed over and adopted
by the coordinator, and the rest goes on building meanwhile. So what was finished outlives the node that built it, and
whoever builds next takes it first. After every event `_advance` looks at what is known and what is under way, and asks
for what comes next, so a death needs no path of its own. Where nothing is kept on disk every node builds for itself.
"""

from __future__ import annotations

from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.logic import PhaseLogic
from ray_warmup.warmup.machine.lookup import keeps_files
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.state import ClassState, Commands, Run
from ray_warmup.warmup.messages.answers import (
    Activated,
    Answer,
    Compiled,
    InstalledModules,
    PackedModules,
    Surveyed,
)
from ray_warmup.warmup.messages.questions import (
    ActivateModules,
    Compile,
    InstallModules,
    PackModules,
    Question,
    Survey,
)


class Compiling(PhaseLogic):
    """Survey every node, build on one, share its modules, and make every rank use those of its node."""

    phase = Phase.COMPILING

    def enter(self, run: Run) -> Commands:
        for group in run.classes.values():
            group.modules.begin_again()
        return [command for group in run.classes.values() for command in _advance(run, group)]

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        group = run.class_of(call.rank)
        modules, node = group.modules, run.ranks[call.rank].info.node_id
        if isinstance(value, Surveyed | InstalledModules | PackedModules):
            for warning in value.warnings:
                run.warn(f"{run.ranks[call.rank].info}: {warning}")
        match value:
            case Surveyed():
                modules.missing[node] = value.missing
                self._use(run, call, value.modules)
            case InstalledModules():
                self._installed(run, call, value)
            case Compiled():
                modules.advance(call.rank, call.process, node, value.built, value.missing)
            case PackedModules(header=None):
                modules.give_up_shipping()
            case PackedModules(header=header) if header is not None:
                modules.offer = value
                return [run.adopt(call.rank, group, header)]
            case Activated():
                modules.active[call.rank] = call.process
                return []
        return _advance(run, group)

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        """Handing over and taking may fail: then a node builds for itself. What cannot be built fails the run."""
        group = run.class_of(call.rank)
        said = f"{run.ranks[call.rank].info}: {failure.kind}: {failure.message}"
        if isinstance(call, Adopt) or isinstance(call.question, PackModules):
            run.warn(f"{said}; every node builds its modules itself")
            group.modules.give_up_shipping()
        elif isinstance(call.question, InstallModules):
            run.warn(f"{said}; its node builds its modules itself")
            group.modules.alone.add(run.ranks[call.rank].info.node_id)
        else:
            return None
        return _advance(run, group)

    def adopted(self, run: Run, adopt: Adopt) -> Commands:
        group = run.classes[adopt.key]
        group.modules.adopt()
        return _advance(run, group)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        group, node = run.class_of(rank), run.ranks[rank].info.node_id
        modules = group.modules
        was_building = modules.builders.pop(rank, None) is not None
        kinds = Survey | Compile | InstallModules
        asked = any(isinstance(call, Call) and isinstance(call.question, kinds) for call in calls)
        if was_building or asked:
            modules.missing.pop(node, None)  # some may be finished: whoever is next there looks first
        if modules.packer == rank:
            modules.packer = modules.offer = None
        return _advance(run, group)

    def joined(self, run: Run, rank: int) -> Commands:
        return _advance(run, run.class_of(rank))

    def _installed(self, run: Run, call: Call, value: InstalledModules) -> None:
        modules, node = run.class_of(call.rank).modules, run.ranks[call.rank].info.node_id
        modules.missing[node] = value.missing
        self._use(run, call, value.modules)
        if modules.sent.get(node, frozenset()).intersection(value.missing):
            modules.alone.add(node)
        elif node not in modules.received:
            modules.received.append(node)

    def _use(self, run: Run, call: Call, module_set: str | None) -> None:
        if module_set is not None:
            modules = run.class_of(call.rank).modules
            modules.in_use[run.ranks[call.rank].info.node_id] = module_set
            modules.active[call.rank] = call.process


def _advance(run: Run, group: ClassState) -> Commands:
    """Return the next commands that a class needs and no rank is doing yet."""
    modules, nodes = group.modules, run.nodes_of(group)
    unknown = [node for node in nodes if node not in modules.missing]
    if unknown:
        if run.num_asked(group, Survey) >= len(unknown):
            return []
        return _survey(run, group, unknown)
    donor = _donor(run, group, list(nodes))
    ships = modules.ships and keeps_files(run)
    alone = {node for node in nodes if node == donor or node in modules.alone or not ships}
    commands = _hand_over(run, group, donor, nodes, alone) if ships else []
    busy = {run.ranks[command.rank].info.node_id for command in commands}
    lacking = [node for node in nodes if modules.missing[node]]
    for node in lacking:
        if node not in busy:
            commands += _obtain(run, group, node, may_build=node in alone)
    return commands if commands or lacking else _activate(run, group)


def _survey(run: Run, group: ClassState, nodes: list[str]) -> Commands:
    """Ask these nodes for missing modules.

    Nodes whose ranks will measure also restore the driver's kernels of earlier tunes.
    """
    is_left = not group.is_hit and any(task.task_id not in group.results for task in group.tasks)
    everyone, home = group.strategy != "leader", run.ranks[group.leader].info.node_id
    commands: Commands = []
    for node in nodes:
        commands += _ask(run, group, node, Survey(tunes=is_left and (everyone or node == home)))
    return commands


def _obtain(run: Run, group: ClassState, node: str, *, may_build: bool) -> Commands:
    """Install modules the coordinator already holds, and build only the rest.

    A node that may not build waits until every missing module is available.
    """
    modules = group.modules
    missing = set(modules.missing[node])
    there = missing & modules.held
    if there and node not in modules.alone and (may_build or there == missing):
        assert modules.header is not None, "what is held was adopted"
        commands = _ask(run, group, node, InstallModules(modules.header))
        if commands:
            modules.sent[node] = modules.held
        return commands
    return _ask(run, group, node, Compile()) if may_build else []


def _hand_over(run: Run, group: ClassState, donor: str, nodes: dict[str, list[int]], alone: set[str]) -> Commands:
    """Ask the donor to pack modules other nodes wait for.

    It must have installed everything adopted so far, so that each new offer is a superset.
    """
    modules = group.modules
    lacks = set(modules.missing[donor])
    wanted = {name for node in nodes if node not in alone for name in modules.missing[node]}
    if run.config.cluster.on_node_loss == "replace":  # the next builder may be a node that is not there yet
        wanted.update(name for rank in nodes[donor] for name in modules.built.get(rank, ()))
    offered = frozenset(wanted - lacks)
    if offered <= modules.held or lacks & modules.held or modules.packer is not None:
        return []
    commands = _ask(run, group, donor, PackModules(modules.in_use.get(donor)))
    if commands:
        modules.packer, modules.offered = commands[0].rank, offered
    return commands


def _activate(run: Run, group: ClassState) -> Commands:
    """Every rank's process must be told of the set that its node took."""
    modules = group.modules
    commands: Commands = []
    for rank in run.alive(group):
        state = run.ranks[rank]
        module_set = modules.in_use.get(state.info.node_id)
        is_told = modules.active.get(rank) == state.restarts or run.calls_of.get(rank)
        if module_set is not None and not is_told:
            commands.append(run.call(rank, ActivateModules(module_set)))
    return commands


def _ask(run: Run, group: ClassState, node: str, question: Question) -> Commands:
    """Ask a live rank of a node, preferably the one that builds there, unless one of its ranks is busy."""
    ranks = run.nodes_of(group)[node]
    if any(rank in run.calls_of for rank in ranks):
        return []
    alive = [rank for rank in ranks if run.ranks[rank].is_alive]
    builders = _builders(run, group)
    alive.sort(key=lambda rank: rank not in builders)
    return [run.call(alive[0], question)] if alive else []


def _donor(run: Run, group: ClassState, nodes: list[str]) -> str:
    """The node that has, or will have, every module first: the one that lacks least.

    Among equals the one that builds already, then the leader's.
    """
    home, missing = run.ranks[group.leader].info.node_id, group.modules.missing
    at_work = {run.ranks[rank].info.node_id for rank in _builders(run, group)}
    return min(nodes, key=lambda node: (len(missing[node]), node not in at_work, node != home))


def _builders(run: Run, group: ClassState) -> set[int]:
    """Ranks whose present process has a build under way."""
    number = group.modules.builders
    return {rank for rank in number if rank in run.ranks and number[rank] == run.ranks[rank].restarts}
