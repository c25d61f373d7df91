"""Needs of a class: its phase, and the questions that its ranks are owed in it.

Nothing is remembered about steps. Each look derives them from what is done, so a lost process, a lost node and a
refused artifact need no path of their own: what they undo is owed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.engines.machine.state import EngineClass, EngineRun
from ray_warmup.warmup.messages.engine import (
    CaptureEngine,
    DescribeNode,
    EngineContent,
    EngineQuestion,
    InstallEngine,
    PackEngine,
    ProveEngine,
    Reach,
    RecordEngine,
    ShareEngine,
)


@dataclass(frozen=True, slots=True)
class Hand:
    """The coordinator takes over the blobs that a rank packed."""

    rank: int


@dataclass(frozen=True, slots=True)
class Owed:
    """A question that a rank is owed, or the hand-over of its blobs."""

    rank: int
    what: EngineQuestion | Hand


@dataclass(frozen=True, slots=True)
class Need:
    """A phase that is not finished, and what is owed in it."""

    phase: EnginePhase
    owed: tuple[Owed, ...]


def need_of(run: EngineRun) -> Need | None:
    """Return the earliest unfinished phase of the run with everything that is owed in any class, or None at the end."""
    owed = [Owed(rank, DescribeNode(run.again)) for node, rank in run.speakers().items() if node not in run.nodes]
    if owed:
        return Need(EnginePhase.PROBING, tuple(owed))
    phases: list[EnginePhase] = []
    for group in run.classes.values():
        need = need_of_class(run, group)
        if need is not None:
            phases.append(need.phase)
            owed += need.owed
    if not phases:
        return None
    return Need(min(phases, key=list(EnginePhase).index), tuple(owed))


def need_of_class(run: EngineRun, group: EngineClass) -> Need | None:
    """Return what one class needs next, or None once it is served."""
    nodes = run.nodes_in(group)
    if not nodes:
        return None
    if group.content is None:
        return _recording(run, group)
    if group.needs_proof and not group.proofs:
        return _first_proof(run, group, group.content)
    lacking = [node for node in nodes if node not in group.nodes_with or node in group.unproven_on]
    if lacking:
        return _shipping(run, group, group.content, lacking)
    owed = tuple(_proofs(run, group, group.content))
    if not owed:
        return None
    return Need(EnginePhase.PROVING, owed)


def _recording(run: EngineRun, group: EngineClass) -> Need:
    if group.recorder is None:
        able = [replica for replica in run.starts_of(group) if not run.ranks[replica[0]].is_starting]
        able = [replica for replica in able if not cannot_sign(run, replica)]
        if not able:
            return Need(EnginePhase.RECORDING, ())
        # Whoever failed at it already comes last.
        group.recorder = min(able, key=lambda replica: (run.ranks[replica[0]].restarts, replica[0]))[0]
    rank = group.recorder
    if not group.is_recorded:
        replica = next(replica for replica in run.starts_of(group) if replica[0] == rank)
        return Need(EnginePhase.RECORDING, (Owed(rank, RecordEngine(run.bundles_of(replica))),))
    return Need(EnginePhase.CAPTURING, (Owed(rank, CaptureEngine()),))


def cannot_sign(run: EngineRun, replica: tuple[int, ...]) -> str:
    """Return why a replica's launcher could not sign what it would capture, or an empty text."""
    return run.nodes[run.ranks[replica[0]].info.node_id].cannot_sign


def _shipping(run: EngineRun, group: EngineClass, content: EngineContent, lacking: list[str]) -> Need:
    if group.header is None:
        if group.packer is None:
            group.packer = _able_packer(run, group)
        if group.packer is None:
            return Need(EnginePhase.PUSHING, ())
        return Need(EnginePhase.PUSHING, (Owed(group.packer, PackEngine(content.key_sha256)),))
    if not group.is_adopted:
        assert group.packer is not None, "who packed hands over"
        return Need(EnginePhase.PUSHING, (Owed(group.packer, Hand(group.packer)),))
    speakers = run.speakers()
    question = InstallEngine(group.header, group.proven_by)
    return Need(EnginePhase.INSTALLING, tuple(Owed(speakers[node], question) for node in lacking))


def _able_packer(run: EngineRun, group: EngineClass) -> int | None:
    """Return the first rank that speaks for a node with the content and has a process."""
    speakers = run.speakers()
    for node in sorted(group.nodes_with):
        if node in speakers and not run.ranks[speakers[node]].is_starting:
            return speakers[node]
    return None


def _first_proof(run: EngineRun, group: EngineClass, content: EngineContent) -> Need:
    """Return the proof start that what a serving engine has left needs before engines get it, or the way there.

    Whatever `engine.proof` says. On another node than the engine's if the class has one, because a proof in another
    home of the same node says nothing about other machines.
    """
    able = [replica for replica in run.starts_of(group) if not run.ranks[replica[0]].is_starting]
    if not able:
        return Need(EnginePhase.PROVING, ())
    # Another node first, and whoever failed at it already comes last.
    replica = min(able, key=lambda ranks: (_reach(run, ranks) == "home", run.ranks[ranks[0]].restarts, ranks[0]))
    lacking = [node for node in run.nodes_of(replica) if node not in group.nodes_with]
    if lacking:
        return _shipping(run, group, content, lacking)
    return Need(EnginePhase.PROVING, (_proof(run, content, replica),))


def _proof(run: EngineRun, content: EngineContent, replica: tuple[int, ...]) -> Owed:
    bundles, reach = run.bundles_of(replica), _reach(run, replica)
    return Owed(replica[0], ProveEngine(bundles, content.artifact, content.key_sha256, reach))


def _reach(run: EngineRun, replica: tuple[int, ...]) -> Reach:
    """Return `home` where a node of a replica has compiled the artifact, or may have."""
    is_from_elsewhere = {run.roles.get(node, "installed") for node in run.nodes_of(replica)} == {"installed"}
    return "node" if is_from_elsewhere else "home"


def _proofs(run: EngineRun, group: EngineClass, content: EngineContent) -> Iterator[Owed]:
    """Every start that `engine.proof` asks for and that has not been made."""
    for replica in needed_proofs(run, group, content):
        if replica[0] not in group.proofs:
            yield _proof(run, content, replica)


def needed_proofs(run: EngineRun, group: EngineClass, content: EngineContent) -> list[tuple[int, ...]]:
    """Return the starts that have to be proven in this run: those without a valid record, or one of the class."""
    starts = run.starts_of(group)
    if run.config.engine.proof == "off":
        return []
    unproven = [replica for replica in starts if not _is_proven(run, content, replica)]
    if run.config.engine.proof == "node":
        return unproven
    if len(unproven) < len(starts):
        return []
    # A node that installed it says more than the one that recorded it.
    elsewhere = [replica for replica in starts if group.recorder_node not in run.nodes_of(replica)]
    made = [replica for replica in starts if replica[0] in group.proofs]
    return (made or elsewhere or starts)[:1]


def sharers(run: EngineRun) -> Iterator[tuple[int, ShareEngine]]:
    """Yield one launcher of each class that holds its artifact, with the question by which it fills the remote store.

    The node that recorded it comes first.
    """
    speakers = run.speakers()
    for group in run.classes.values():
        nodes = [node for node in speakers if node in group.nodes_with]
        nodes.sort(key=lambda node: node != group.recorder_node)
        if nodes and group.content is not None:
            yield speakers[nodes[0]], ShareEngine(group.content.key_sha256)


def _is_proven(run: EngineRun, content: EngineContent, replica: tuple[int, ...]) -> bool:
    """Every node of a start has a valid record of a proof of this very artifact."""
    for node_id in run.nodes_of(replica):
        node = run.nodes[node_id]
        if not node.is_proven or node.content is None or node.content.artifact != content.artifact:
            return False
    return True
