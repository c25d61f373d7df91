"""Everything that a run with a real engine knows: its processes, replicas, nodes and classes. The machine changes it.

A *replica* is as many ranks as one engine needs. Its first rank is the launcher, the others only hold their place. A
*start* is a replica that is started in this run: as few as cover every node. A *class* is the nodes of one device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.messages.engine import EngineContent, EngineProven, NodeDescribed
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.remedies import with_remedy


@dataclass(slots=True)
class LauncherState:
    """One process, of a launcher or of a rank that watches."""

    info: RankInfo
    is_starting: bool = False
    """A replacement was asked for and has not come up."""
    restarts: int = 0
    """Also the number of the current process; the first is 0."""
    excused: int = 0
    """Restarts for which its lost node was the reason."""
    moves: int = 0
    watched_since: float = 0.0
    """When its present process was first expected to beat."""
    is_silent: bool = False
    error: str | None = None


@dataclass(slots=True)
class EngineClass:
    """The nodes of one device, and the artifact that they share."""

    device: str
    content: EngineContent | None = None
    is_found: bool = False
    """A node held it before the run."""
    is_renewed: bool = False
    """What was found did not fit, so it is recorded anew; this happens once."""
    recorder: int | None = None
    """Rank whose engine is recorded and runs until it is captured."""
    recorder_node: str = ""
    is_recorded: bool = False
    packer: int | None = None
    """Rank that hands the blobs over."""
    header: Header | None = None
    is_adopted: bool = False
    """The coordinator owns the blobs."""
    nodes_with: set[str] = field(default_factory=set)
    """Nodes whose store holds the content."""
    unproven_on: set[str] = field(default_factory=set)
    """Nodes that hold what a serving engine has left, and give it to no engine yet."""
    needs_proof: bool = False
    """A serving engine has left the content, and no proof start has used it anywhere."""
    proven_by: str = ""
    """Node that admits the content, in words, for the others."""
    proofs: dict[int, EngineProven] = field(default_factory=dict)
    """Launcher -> its proof of the content."""

    def hold(self, node: str, content: EngineContent) -> None:
        """A node holds the content since before the run."""
        self.nodes_with.add(node)
        if content.is_offered:
            self.unproven_on.add(node)
        else:
            self.admit(node)

    def admit(self, node: str) -> None:
        """A node gives the content to engines."""
        self.unproven_on.discard(node)
        self.needs_proof, self.proven_by = False, f"node {node[:8]}"

    def replace_content(self, completed: EngineContent, node: str) -> None:
        """Take what a proof start on a node has completed instead of what it should have proven."""
        is_renewed = self.is_renewed
        self.forget_content()
        self.content, self.is_found, self.is_renewed = completed, True, is_renewed
        self.recorder_node, self.needs_proof = node, True
        self.hold(node, completed)

    def forget_recording(self) -> None:
        """The recorded engine is gone before it was captured."""
        self.recorder, self.is_recorded = None, False

    def forget_content(self) -> None:
        """No artifact is left that may be used."""
        self.forget_recording()
        self.content, self.packer, self.header = None, None, None
        self.is_found, self.is_adopted = False, False
        self.needs_proof, self.proven_by = False, ""
        self.nodes_with.clear()
        self.unproven_on.clear()
        self.proofs.clear()


@dataclass(slots=True)
class EngineRun:
    """The whole run."""

    config: EngineRunConfig
    run_id: str
    ranks: dict[int, LauncherState]
    again: bool = False
    """Record also where an artifact is found."""
    phase: EnginePhase = EnginePhase.PROBING
    phase_began: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    nodes: dict[str, NodeDescribed] = field(default_factory=dict)
    classes: dict[str, EngineClass] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    """Node -> `recorded`, `found` or `installed`."""
    calls: dict[int, Call | Adopt] = field(default_factory=dict)
    """In flight, at most one per rank."""
    call_began: dict[int, float] = field(default_factory=dict)
    recorded_requests: int = 0
    """Of engines' own calls, in this run."""
    tuned_tasks: int = 0
    """Of these requests."""
    tuned_elsewhere: int = 0
    """Of these tasks, the ones that other replicas than the recorded one measured."""
    tuning_notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    is_refused: bool = False
    """What failed is the request itself: the engine refuses it, or it is not covered."""
    left: dict[int, LauncherState] = field(default_factory=dict)
    """Ranks without which the run goes on."""
    _next_call: int = 0

    def next_call(self) -> int:
        """Return a number for a new call."""
        self._next_call += 1
        return self._next_call

    def warn(self, text: str, remedy: str) -> None:
        """Keep a warning for the report, once: what happened, and what to do about it."""
        message = with_remedy(text, remedy)
        if message not in self.warnings:
            self.warnings.append(message)

    def busy(self) -> set[int]:
        """Return the ranks with a call in flight."""
        return {call.rank for call in self.calls.values()}

    def replicas(self) -> list[tuple[int, ...]]:
        """Return the whole replicas of the run, each as its ranks in order."""
        size = self.config.engine.ranks_per_replica
        by_replica: dict[int, list[int]] = {}
        for rank in sorted(self.ranks):
            by_replica.setdefault(rank // size, []).append(rank)
        return [tuple(ranks) for ranks in by_replica.values() if len(ranks) == size]

    def nodes_of(self, replica: Iterable[int]) -> tuple[str, ...]:
        """Return the nodes of a replica in order, each once."""
        return tuple(dict.fromkeys(self.ranks[rank].info.node_id for rank in replica))

    def starts(self) -> list[tuple[int, ...]]:
        """Return the replicas that are started: each that has a node which no earlier one has."""
        chosen, covered = [], set[str]()
        for replica in self.replicas():
            nodes = set(self.nodes_of(replica))
            if nodes - covered:
                chosen.append(replica)
                covered |= nodes
        return chosen

    def speakers(self) -> dict[str, int]:
        """Node -> the rank that does the node's own work: the first one there of a replica that is started."""
        speakers: dict[str, int] = {}
        for replica in self.starts():
            for rank in replica:
                speakers.setdefault(self.ranks[rank].info.node_id, rank)
        return speakers

    def ranks_on(self, node_id: str) -> list[int]:
        """Return the ranks of a node."""
        return [rank for rank, state in self.ranks.items() if state.info.node_id == node_id]

    def with_replicas(self, ranks: Iterable[int]) -> list[int]:
        """Return these ranks together with those that share a whole replica with one of them."""
        found = set(ranks)
        for replica in self.replicas():
            if not found.isdisjoint(replica):
                found.update(replica)
        return sorted(found)

    def starts_of(self, group: EngineClass) -> list[tuple[int, ...]]:
        """Return the starts whose nodes are all of one class."""
        nodes = set(self.nodes_in(group))
        return [replica for replica in self.starts() if nodes.issuperset(self.nodes_of(replica))]

    def nodes_in(self, group: EngineClass) -> list[str]:
        """Return the nodes of a class, in the order of their first ranks."""
        return [node for node in self.speakers() if node in self.nodes and self.nodes[node].device == group.device]

    def class_of_rank(self, rank: int) -> EngineClass | None:
        """Return the class of a rank's node, or None before the node is described."""
        found = self.nodes.get(self.ranks[rank].info.node_id)
        if found is None:
            return None
        return self.classes.get(found.device)

    def bundles_of(self, replica: Iterable[int]) -> tuple[int, ...]:
        """Return the bundles of a replica's ranks."""
        return tuple(self.ranks[rank].info.bundle_index for rank in replica)
