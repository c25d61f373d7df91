"""COMPILING: one node of a class builds what is missing, the others take its modules before anything is tuned.

A build is seen step by step: `compile` answers as soon as something more is finished, that is handed over and adopted
by the coordinator, and the rest goes on building meanwhile. So what was finished outlives the node that built it, and
whoever builds next takes it first. After every event `_advance` looks at what is known and what is under way, and asks
for what comes next, so a death needs no path of its own. Where nothing is kept on disk every node builds for itself.
"""

from __future__ import annotations

from functools import partial

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure, any_asks
from ray_warmup.warmup.machine.phases.lookup import keeps_files
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
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
        for rank_class in run.classes.values():
            rank_class.modules.begin_again()
        return run.each_class(partial(_advance, run))

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        rank_class = run.class_of(call.rank)
        modules, node = rank_class.modules, run.ranks[call.rank].info.node_id
        if isinstance(value, Surveyed | InstalledModules | PackedModules):
            for warning in value.warnings:
                run.warn(f"{run.ranks[call.rank].info}: {warning}", remedies.COMPILES)
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
                return [run.adopt(call.rank, rank_class, header)]
            case Activated():
                modules.active[call.rank] = call.process
                return []
        return _advance(run, rank_class)

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        """Handing over and taking may fail: then a node builds for itself. What cannot be built fails the run."""
        rank_class = run.class_of(call.rank)
        said = f"{run.ranks[call.rank].info}: {failure.kind}: {failure.message}"
        if isinstance(call, Adopt) or isinstance(call.question, PackModules):
            run.warn(f"{said}; every node builds its modules itself", remedies.COMPILES)
            rank_class.modules.give_up_shipping()
        elif isinstance(call.question, InstallModules):
            run.warn(f"{said}; its node builds its modules itself", remedies.COMPILES)
            rank_class.modules.alone.add(run.ranks[call.rank].info.node_id)
        else:
            return None
        return _advance(run, rank_class)

    def adopted(self, run: Run, adopt: Adopt) -> Commands:
        rank_class = run.classes[adopt.key]
        rank_class.modules.adopt()
        return _advance(run, rank_class)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        rank_class, node = run.class_of(rank), run.ranks[rank].info.node_id
        modules = rank_class.modules
        was_building = modules.builders.pop(rank, None) is not None
        if was_building or any_asks(calls, Survey, Compile, InstallModules):
            modules.missing.pop(node, None)  # some may be finished: whoever is next there looks first
        # Its blobs lived in the process, so the offer went with it.
        if modules.packer == rank:
            modules.packer = modules.offer = None
        return _advance(run, rank_class)

    def joined(self, run: Run, rank: int) -> Commands:
        return _advance(run, run.class_of(rank))

    def _installed(self, run: Run, call: Call, value: InstalledModules) -> None:
        modules, node = run.class_of(call.rank).modules, run.ranks[call.rank].info.node_id
        modules.missing[node] = value.missing
        self._use(run, call, value.modules)
        # Modules that were sent and are still missing do not fit there, and sending them again would not help.
        if modules.sent.get(node, frozenset()).intersection(value.missing):
            modules.alone.add(node)
        elif node not in modules.received:
            modules.received.append(node)

    def _use(self, run: Run, call: Call, module_set: str | None) -> None:
        if module_set is not None:
            modules = run.class_of(call.rank).modules
            modules.in_use[run.ranks[call.rank].info.node_id] = module_set
            modules.active[call.rank] = call.process


def _advance(run: Run, rank_class: ClassState) -> Commands:
    """Return the next commands that a class needs and no rank is doing yet."""
    modules, nodes = rank_class.modules, run.nodes_of(rank_class)
    unknown = [node for node in nodes if node not in modules.missing]
    if unknown:
        # Nothing is built before all nodes are known, because the donor is chosen among them.
        if run.num_asked(rank_class, Survey) >= len(unknown):
            return []
        return _survey(run, rank_class, unknown)
    donor = _donor(run, rank_class, list(nodes))
    ships = modules.ships and keeps_files(run)
    # Without shipping every node builds for itself.
    alone = set(nodes)
    if ships:
        alone = {donor, *modules.alone}
    commands: Commands = []
    if ships:
        commands += _hand_over(run, rank_class, donor, nodes, alone)
    is_packing = bool(commands)
    incomplete = [node for node in nodes if modules.missing[node]]
    for node in incomplete:
        # A donor that packs now installs nothing beside it.
        if node != donor or not is_packing:
            commands += _obtain(run, rank_class, node, may_build=node in alone)
    if commands or incomplete:
        return commands
    return _activate(run, rank_class)


def _survey(run: Run, rank_class: ClassState, nodes: list[str]) -> Commands:
    """Ask these nodes for missing modules.

    Nodes whose ranks will measure also restore the driver's kernels of earlier tunes.
    """
    is_left = not rank_class.is_hit and bool(rank_class.unfinished_tasks())
    everyone, home = rank_class.strategy != "leader", run.ranks[rank_class.leader].info.node_id
    commands: Commands = []
    for node in nodes:
        commands += _ask_node(run, rank_class, node, Survey(tunes=is_left and (everyone or node == home)))
    return commands


def _obtain(run: Run, rank_class: ClassState, node: str, *, may_build: bool) -> Commands:
    """Install modules the coordinator already holds, and build only the rest.

    A node that may not build waits until every missing module is available.
    """
    modules = rank_class.modules
    missing = set(modules.missing[node])
    there = missing & modules.held
    if there and node not in modules.alone and (may_build or there == missing):
        assert modules.header is not None, "what is held was adopted"
        commands = _ask_node(run, rank_class, node, InstallModules(modules.header))
        if commands:
            modules.sent[node] = modules.held
        return commands
    if may_build:
        return _ask_node(run, rank_class, node, Compile())
    return []


def _hand_over(run: Run, rank_class: ClassState, donor: str, nodes: dict[str, list[int]], alone: set[str]) -> Commands:
    """Ask the donor to pack modules other nodes wait for.

    It must have installed everything adopted so far, so that each new offer is a superset.
    """
    modules = rank_class.modules
    lacks = set(modules.missing[donor])
    wanted: set[str] = set()
    for node in nodes.keys() - alone:
        wanted.update(modules.missing[node])
    if run.config.cluster.on_node_loss == "replace":  # the next builder may be a node that is not there yet
        for rank in nodes[donor]:
            wanted.update(modules.built.get(rank, ()))
    offered = frozenset(wanted - lacks)
    # One packing at a time, and only for something new.
    if offered <= modules.held or lacks & modules.held or modules.packer is not None:
        return []
    commands = _ask_node(run, rank_class, donor, PackModules(modules.in_use.get(donor)))
    if commands:
        modules.packer, modules.offered = commands[0].rank, offered
    return commands


def _activate(run: Run, rank_class: ClassState) -> Commands:
    """Every rank's process must be told of the set that its node took."""
    modules = rank_class.modules
    commands: Commands = []
    for rank in run.alive(rank_class):
        state = run.ranks[rank]
        module_set = modules.in_use.get(state.info.node_id)
        # The number of restarts names the process: a fresh one must be told again.
        is_told = modules.active.get(rank) == state.restarts or run.calls_of.get(rank)
        if module_set is not None and not is_told:
            commands.append(run.call(rank, ActivateModules(module_set)))
    return commands


def _ask_node(run: Run, rank_class: ClassState, node: str, question: Question) -> Commands:
    """Ask a live rank of a node, preferably the one that builds there, unless one of its ranks is busy."""
    ranks = run.nodes_of(rank_class)[node]
    # Ranks of a node share its disk and CPUs, so one of them works for all.
    if not run.calls_of.keys().isdisjoint(ranks):
        return []
    alive = [rank for rank in ranks if run.ranks[rank].is_alive]
    if not alive:
        return []
    builders = _builders(run, rank_class)
    first = min(alive, key=lambda rank: rank not in builders)
    return [run.call(first, question)]


def _donor(run: Run, rank_class: ClassState, nodes: list[str]) -> str:
    """The node that has, or will have, every module first: the one that lacks least.

    Among equals the one that builds already, then the leader's.
    """
    home, missing = run.ranks[rank_class.leader].info.node_id, rank_class.modules.missing
    at_work = {run.ranks[rank].info.node_id for rank in _builders(run, rank_class)}
    return min(nodes, key=lambda node: (len(missing[node]), node not in at_work, node != home))


def _builders(run: Run, rank_class: ClassState) -> set[int]:
    """Ranks whose present process has a build under way."""
    number = rank_class.modules.builders
    return {rank for rank in number if rank in run.ranks and number[rank] == run.ranks[rank].restarts}
