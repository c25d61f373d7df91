"""An engine run's machine with launchers that answer as real ones do, step by step and without any process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.machine.machine import EngineMachine
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.engines.reports.report import EngineReport
from ray_warmup.warmup.engines.reports.summary import summarize
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.messages import engine
from ray_warmup.warmup.messages.values import BlobRow, Header
from ray_warmup.warmup.ranks import RankInfo

OLD, NEW, OFFERED, COMPLETED = "found", "recorded", "offered", "completed"


def content(artifact: str) -> engine.EngineContent:
    """An artifact with one kind, compiled once by the recorded start."""
    row = engine.KindCount("torch_compile", 1)
    return engine.EngineContent("key", artifact, (row,), (row,), 100.0, artifact in (OFFERED, COMPLETED))


def config(num_nodes: int, per_node: int, tensor: int, **sections: Any) -> EngineRunConfig:
    """One model on so many ranks."""
    section = sections.pop("engine", {})
    cluster = {"num_nodes": num_nodes, "ranks_per_node": per_node, "backend": "cpu", "gpus_per_rank": 0}
    args = {"model": "m", "tensor_parallel_size": tensor}
    document = {
        "cluster": cluster | sections.pop("cluster", {}),
        "engine": {"kind": "vllm", "args": args, "start_deadline": 50} | section,
        "timeouts": {"silence": 1000} | sections.pop("timeouts", {}),
    }
    return EngineRunConfig.model_validate(document)


@dataclass
class Node:
    """What a simulated node is and has."""

    version: str = "0.33.0"
    device: str = "H100"
    model: str = "model"
    """Digest of its config.json."""
    holds: str = ""
    is_proven: bool = False
    cannot_sign: str = ""


@dataclass
class Driver:
    """The machine, its launchers, and everything that was asked."""

    num_nodes: int = 2
    per_node: int = 1
    tensor: int = 1
    again: bool = False
    sections: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    now: float = 0.0
    log: list[str] = field(default_factory=list)
    queue: list[Command] = field(default_factory=list)
    carried_out: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [f"{number:02x}" * 28 for number in range(self.num_nodes)]
        self.nodes = {name: Node() for name in names} | self.nodes
        self.infos = [
            RankInfo(rank, self.num_nodes * self.per_node, rank % self.per_node, self.per_node,
                     rank // self.per_node, names[rank // self.per_node], rank, (), f"10.0.0.{rank // self.per_node}")
            for rank in range(self.num_nodes * self.per_node)
        ]  # fmt: skip
        request = config(self.num_nodes, self.per_node, self.tensor, **self.sections)
        self.machine = EngineMachine(request, self.infos, "r", again=self.again)
        self.problems: dict[str, str] = {}
        """Node -> what its proof start compiles."""
        self.completes: set[str] = set()
        """Nodes whose proof start adds what it compiled to what a serving engine has left."""
        self.recordings = 0

    @property
    def phase(self) -> EnginePhase:
        """Return the run's phase."""
        return self.machine.phase

    @property
    def report(self) -> EngineReport:
        """Return the report as it would be now."""
        return summarize(self.machine.run)

    def begin(self) -> Driver:
        """Enter PROBING."""
        self.take(self.machine.begin(self.now))
        return self

    def take(self, commands: list[Command]) -> None:
        """Queue commands."""
        for command in commands:
            name = command.name if isinstance(command, Call) else type(command).__name__.lower()
            self.log.append(f"{name} {command.rank}")
        self.queue += commands

    def until(self, phase: EnginePhase) -> Driver:
        """Answer everything until a phase is entered."""
        if not self.log:
            self.begin()
        while self.phase is not phase:
            assert self.queue, f"nothing is in flight in {self.phase}, before {phase}"
            self.step()
        return self

    def to_end(self) -> EngineReport:
        """Answer everything to the end of the run."""
        if not self.log:
            self.begin()
        while not self.machine.is_over:
            assert self.queue, f"nothing is in flight in {self.phase}"
            self.step()
        return self.report

    def step(self) -> None:
        """Carry out the oldest command."""
        command = self.queue.pop(0)
        self.carried_out.append(command)
        self.now += 1.0
        if isinstance(command, Release):
            return
        if isinstance(command, Replace):
            info = self.infos[command.rank]
            if command.elsewhere:
                info = self.infos[command.rank] = replace(info, node_id="99" * 28, address="10.0.0.99")
                self.nodes.setdefault(info.node_id, Node())
            self.take(self.machine.replaced(info, self.now))
        elif isinstance(command, Adopt):
            self.take(self.machine.adopted(command.call_id, self.now))
        else:
            self.take(self.machine.returned(command.call_id, self.answer(command), 1.0, self.now))

    def reaches(self) -> list[str]:
        """Return how far each proof start was from the engine that compiled, as its launcher was told."""
        found = []
        for command in self.carried_out:
            if isinstance(command, Call) and isinstance(command.question, engine.ProveEngine):
                found.append(command.question.reach)
        return found

    def in_flight(self, name: str) -> Call:
        """Return the first call of a kind that is not answered."""
        return next(call for call in self.queue if isinstance(call, Call) and call.name == name)

    def answer(self, call: Call) -> engine.EngineAnswer:
        """What the launcher says."""
        node = self.nodes[self.infos[call.rank].node_id]
        match call.question:
            case engine.DescribeNode(again=again):
                held = None if again or not node.holds else content(node.holds)
                is_proven = held is not None and node.is_proven
                if held is not None and is_proven:
                    held = replace(held, is_offered=False)
                digests = (("config.json", node.model),)
                about = engine.NodeDescribed(node.version, node.device, "550", (), digests, held, is_proven)
                return replace(about, cannot_sign=node.cannot_sign)
            case engine.RecordEngine():
                return engine.EngineRecorded(100.0, 1.0)
            case engine.CaptureEngine():
                self.recordings += 1
                node.holds = f"{NEW} {self.recordings}"
                return self.packed(node.holds)
            case engine.PackEngine():
                return self.packed(node.holds)
            case engine.InstallEngine(header=header):
                node.holds = header.artifact
                return engine.EngineInstalled(header.artifact)
            case engine.ProveEngine(artifact=artifact):
                problem = self.problems.get(self.infos[call.rank].node_id)
                problems = () if problem is None else (problem,)
                kinds = (engine.KindProof(0, "torch_compile", 1, 1, 0),)
                proven = engine.EngineProven(artifact, kinds, 10.0, 0.1, problems)
                if artifact == OFFERED and self.infos[call.rank].node_id in self.completes:
                    node.holds = COMPLETED
                    proven = replace(proven, problems=("1 compiled",), completed=content(COMPLETED))
                return proven
        raise AssertionError(call.name)

    def packed(self, artifact: str) -> engine.EnginePacked:
        """An artifact of one blob."""
        header = Header(artifact, artifact, b"manifest", (BlobRow(f"blob of {artifact}", 1, "torch_compile"),))
        return engine.EnginePacked(content(artifact), header)

    def kill(self, rank: int) -> None:
        """End a launcher's process."""
        lost = [call for call in self.queue if isinstance(call, Call | Adopt) and call.rank == rank]
        self.queue = [call for call in self.queue if call not in lost]
        self.take(self.machine.died(rank, "killed", self.now, self.machine.run.ranks[rank].restarts))

    def lose(self, number: int) -> None:
        """Take a node away."""
        node_id = f"{number:02x}" * 28
        gone = {info.rank for info in self.infos if info.node_id == node_id}
        self.queue = [call for call in self.queue if call.rank not in gone]
        self.take(self.machine.node_lost(node_id, self.now))

    def fails(self, call: Call, message: str, kind: str = "EngineError") -> None:
        """A call raises."""
        self.queue.remove(call)
        self.take(self.machine.raised(call.call_id, Failure(kind, message), self.now))

    def tick(self, seconds: float, statuses: dict[int, Status] | None = None) -> None:
        """Let time pass."""
        self.now += seconds
        self.take(self.machine.tick(self.now, statuses or {}))
