"""What `bench_machine.py` measures: a run of the pure machine at size, a hit's traffic, a failure of every rank."""

from __future__ import annotations

import logging
import random
import resource
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ray_warmup.configs import parse_config
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure
from ray_warmup.warmup.machine.failures.failure_messages import Status, merge_equal
from ray_warmup.warmup.machine.garbage_collection import collect_rarely
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.reports.summary import summarize
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import Commands, Run
from ray_warmup.warmup.messages.answers import Answer
from ray_warmup.warmup.messages.values import PoolTask
from ray_warmup.warmup.messages.wire import to_bytes
from ray_warmup.warmup.ranks import ActorLocation, RankInfo, assign_ranks
from ray_warmup.warmup.tasks import Choice, Measurement, TaskResult
from tests.sim.model_class import ModelClass
from tests.sim.model_state import Table
from tests.sim.world import World, make_verdict

PER_NODE = 8
TICKS = 5
"""How often heartbeats of all ranks are looked at in one run, at places spread over it."""


@dataclass(frozen=True)
class Figures:
    """One run."""

    ranks: int
    nodes: int
    tasks: int
    events: int
    seconds: float
    """CPU time inside the machine, all steps together."""
    step_ms: float
    """CPU time of the longest step."""
    step_in: str
    tick_ms: float
    report_kib: float
    rss_mib: float
    """Of the process, which also holds the modelled cluster."""
    by_phase: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Clocked:
    """Steps of one machine, with the CPU time that each takes."""

    def __init__(self, machine: WarmupMachine) -> None:
        self.machine = machine
        self.seconds: dict[str, float] = defaultdict(float)
        self.longest: dict[str, float] = defaultdict(float)
        self.events = 0

    def step(self, work: Callable[[], Commands]) -> Commands:
        """One event."""
        phase, began = str(self.machine.phase), time.thread_time()
        commands = work()
        took = time.thread_time() - began
        self.events += 1
        self.seconds[phase] += took
        self.longest[phase] = max(self.longest[phase], took)
        return commands


def infos_of(ranks: int) -> tuple[RankInfo, ...]:
    """Ranks on nodes of eight."""
    places = [
        ActorLocation(rank, f"node{rank // PER_NODE:05d}", (str(rank % PER_NODE),), f"10.0.{rank // 2000}.{rank % 250}")
        for rank in range(ranks)
    ]
    return assign_ranks(places, "node00000")


def cluster_of(ranks: int, tasks: int) -> tuple[WarmupMachine, World, ModelClass]:
    """A machine and the modelled cluster that answers it: one class, two modules to build, sharded tuning."""
    infos = infos_of(ranks)
    sections = {"cluster": {"world_size": ranks}, "autotune": {"strategy": "sharded"}}
    config = parse_config({"model": {"name": "llama-3.1-8b"}, **sections})
    shapes = max(2, tasks // 13)
    rows = tuple(
        PoolTask(f"bf16_gemm:n={n % shapes}@{n // shapes}", f"op{n % shapes}", 1.0 + n % 17) for n in range(tasks)
    )
    rank_class = ModelClass("a" * 64, {"gpu": "GPU", "torch": "2", "tasks": "same"}, rows, "tuned", ("gemm", "norm"))
    world = World(infos, [rank_class], lambda rank: 0, lambda node: int(node[4:]), random.Random(1))
    world.slow_at_tasks = {}
    world.build_at_once = 1
    return WarmupMachine(config, infos, "run-1"), world, rank_class


def drive(clocked: Clocked, world: World, on_answer: Callable[[Command, Answer | None], None]) -> None:
    """Answer every command in order until the run is over; heartbeats of all ranks are looked at now and then."""
    machine, now, flying = clocked.machine, 0.0, deque[Command]()
    flying.extend(clocked.step(lambda: machine.begin(now)))
    every = max(1, len(world.processes) // 2)
    while not machine.is_over:
        command = flying.popleft()
        now += 1e-6
        assert isinstance(command, Call | Adopt), command
        rank_class = machine.run.class_of(command.rank) if machine.run.classes else None
        value = world.answer(world.processes[command.rank], command, rank_class, now)
        on_answer(command, value)
        flying.extend(clocked.step(lambda: _told(machine, command, value, now)))  # noqa: B023
        if clocked.events % every == 0:
            beats = {rank: Status("tune", "", "R", "3", now, now) for rank in machine.run.ranks}
            clocked.step(lambda: machine.tick(now, beats))  # noqa: B023


def _told(machine: WarmupMachine, command: Command, value: Answer | None, now: float) -> Commands:
    if isinstance(command, Adopt):
        return machine.adopted(command.call_id, now)
    assert isinstance(command, Call)
    assert value is not None, "a call is answered"
    return machine.returned(command.call_id, value, 0.1, now)


def measure_run(ranks: int, tasks: int) -> Figures:
    """A cold run from PROBING to READY."""
    logging.disable(logging.CRITICAL)
    machine, world, _ = cluster_of(ranks, tasks)
    clocked = Clocked(machine)
    collect_rarely()  # as the coordinator does
    drive(clocked, world, lambda command, value: None)
    assert machine.phase is Phase.READY, machine.run.error
    beats = {rank: Status("tune", "", "R", "3", 1.0, 1.0) for rank in machine.run.ranks}
    phase, longest = max(clocked.longest.items(), key=lambda pair: pair[1])
    return Figures(
        ranks=ranks,
        nodes=max(1, -(-ranks // PER_NODE)),
        tasks=tasks,
        events=clocked.events,
        seconds=sum(clocked.seconds.values()),
        step_ms=1e3 * longest,
        step_in=phase,
        tick_ms=1e3 * _tick_seconds(ranks, beats),
        report_kib=len(summarize(machine.run).to_json()) / 1024,
        rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        by_phase={phase: round(seconds, 3) for phase, seconds in clocked.seconds.items()},
    )


def _tick_seconds(ranks: int, beats: dict[int, Status]) -> float:
    """The median tick of a machine in which every rank has a call in flight."""
    machine, _, _ = cluster_of(ranks, 2)
    machine.begin(1.0)
    times = []
    for _ in range(TICKS):
        began = time.thread_time()
        machine.tick(1.0, beats)
        times.append(time.thread_time() - began)
    return sorted(times)[TICKS // 2]


def measure_hit(nodes: int, tasks: int) -> dict[str, float]:
    """A run that finds the same table on every node: what questions and answers weigh as they travel."""
    logging.disable(logging.CRITICAL)
    machine, world, rank_class = cluster_of(nodes, tasks)
    results = [_result(task.task_id, number) for number, task in enumerate(rank_class.tasks)]
    table = Table.of(results, [make_verdict(row) for row in results], guarded=True, at=1.0)
    assert table is not None
    for rank in world.processes:
        world.directory(rank).tables[rank_class.key] = table
    moved = Counter[str]()

    def weigh(command: Command, value: Answer | None) -> None:
        if isinstance(command, Call) and value is not None:
            moved[command.name] += len(to_bytes(command.question)) + len(to_bytes(value))

    clocked = Clocked(machine)
    drive(clocked, world, weigh)
    assert machine.phase is Phase.READY, machine.run.error
    assert next(iter(machine.run.classes.values())).is_hit
    return {
        "nodes": nodes,
        "tasks": tasks,
        "mib": sum(moved.values()) / 2**20,
        "seconds": sum(clocked.seconds.values()),
    }


def _result(task_id: str, number: int) -> TaskResult:
    """A result as large as a GPU's: eighteen candidates of three runners."""
    key = f"('bf16_gemm', 'Runner', ((8192, 4096), (4096, {number})), ('torch.bfloat16', 'torch.bfloat16', False))"
    runners = ("CutlassBf16GemmRunner", "CublasltBf16GemmRunner", "CudnnBf16GemmRunner")
    return TaskResult(
        task_id=task_id,
        op="bf16_gemm",
        bucket=8192,
        outcome="tuned",
        choice=Choice(runners[1], number),
        default_runner=runners[0],
        keys=dict.fromkeys(runners, key),
        policy=("l2_cache_policy", "cold", 10),
        measurements=tuple(Measurement(runners[1], n, 1.234567e-4 + n * 1e-6, 0.0, 1) for n in range(18)),
        elapsed_s=1.2345,
        peak_bytes=123456789,
        gpu="NVIDIA H200",
    )


def measure_fold(ranks: int) -> dict[str, float]:
    """One cause on every rank, as `load` words it."""
    infos = infos_of(ranks)
    config = parse_config({"model": {"name": "llama-3.1-8b"}, "cluster": {"world_size": ranks}})
    run = Run(config, "run-1", {info.rank: RankState(info) for info in infos})
    trace = "\n".join(f'  File "/app/warmup/rank/delivery.py", line {n}, in load' for n in range(12))
    said = "/cache/autotune_configs.json is not the table of this run (another job replaced it?)"
    failures = {info: Failure("LoadError", f"{info}: {said}", trace) for info in infos}
    began = time.thread_time()
    text = merge_equal(failures, run, 1.0)
    took = time.thread_time() - began
    return {"ranks": ranks, "paragraphs": text.count("LoadError"), "kib": len(text) / 1024, "seconds": took}


def measure_warnings(count: int) -> dict[str, float]:
    """As many warnings, one at a time, all different."""
    config = parse_config({"model": {"name": "llama-3.1-8b"}, "cluster": {"world_size": 8}})
    run = Run(config, "run-1", {})
    began = time.thread_time()
    for number in range(count):
        run.warn(
            f"task bf16_gemm:cublaslt:bfloat16:k=4096,n={number}@8192 keeps the default tactic: no tactic fits",
            "nothing to do",
        )
    return {"count": count, "seconds": time.thread_time() - began}
