"""A fake engine's ranks: a forward that asks FlashInfer's real AutoTuner, with a barrier between all ranks per layer.

    python -m tests.engines.fake_replica RANK WORLD_SIZE DIRECTORY FAULT

The barrier stands for a collective: it ends only when every rank has come to it, so a rank that waited for a tactic
inside the forward would stop all of them. After the forward a rank joins the tuning as the plugin does, then runs the
forward once more ("capture"), in which every request must hit. FAULT is what goes wrong, `kind:rank`:

slow      each tactic of this rank takes its time
unlike    the fast planted tactic is slow on this rank, at as many tokens as the forward has
killed    the process is killed in its first task, whatever that is, in its first start
fatal     a planted tactic kills every process that runs it
hangs     a planted tactic never returns
differs   this rank asks for one op more
absent    this rank never joins
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from flashinfer.autotuner import AutoTuner

import tests.flashinfer_quietly  # noqa: F401
from ray_warmup.warmup.device.autotuner_seams import look_up
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER, load_factory
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.engines.tuning.engine_rank import EngineRank
from ray_warmup.warmup.workloads.cpu_gemm_op import OP, DirectGemmRunner, cpu_gemm
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests import planted_tactics as planted

TOKENS = 4
LAYERS: tuple[tuple[int, int], ...] = ((64, 48), (48, 64))
KILLED_AT = 5
"""Call of a runner in which the process is killed: in the middle of a task."""
BAD = planted.SLOW
"""The planted tactic that misbehaves; without a fault it is only slow."""


class Ranks:
    """The barrier: files that every rank leaves."""

    def __init__(self, rank: int, world_size: int, directory: Path) -> None:
        self.rank, self.world_size, self._directory = rank, world_size, directory
        self._count = 0

    def meet(self) -> None:
        """Return when all ranks have come as far. Raises TimeoutError after a minute."""
        self._count += 1
        (self._directory / f"{self._count}.{self.rank}").touch()
        names = [self._directory / f"{self._count}.{rank}" for rank in range(self.world_size)]
        deadline = time.monotonic() + 60
        while not all(name.exists() for name in names):
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {self.rank} waits for the others in layer {self._count}")
            time.sleep(0.005)


class TalkingRunner(planted.PlantedRunner):
    """A collective: it ends only when every rank runs it."""

    ranks: Ranks

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
        """Only the default, and only together."""
        assert tactic == -1, "a rank ran a tactic of a collective"
        self.ranks.meet()
        return inputs[0] @ inputs[1]


TalkingRunner.__module__ = "flashinfer.comm.planted"


def talk() -> None:
    """The op that communicates."""
    given = [torch.randn(TOKENS, 24), torch.randn(24, 24)]
    runner, tactic = AutoTuner.get().choose_one("talking", [TalkingRunner()], planted.CONFIG, given)
    runner(given, tactic=tactic)


def forward(ranks: Ranks, fault: str) -> None:
    """Two GEMMs, a collective and the planted op, a barrier after each."""
    for k, n in LAYERS:
        cpu_gemm(torch.randn(TOKENS, k), torch.randn(n, k))
        ranks.meet()
    talk()
    planted.PlantedCall((torch.randn(TOKENS, 32), torch.randn(32, 32))).run()
    if fault == f"differs:{ranks.rank}":
        cpu_gemm(torch.randn(TOKENS, 16), torch.randn(8, 16))
    ranks.meet()


def plant(fault: str, rank: int, starts: int) -> None:
    """Let tactics of this process misbehave."""
    kind, _, number = fault.partition(":")
    is_here = number == str(rank)
    if kind == "killed" and is_here and starts == 1:
        # Every task has one of these runners, and the machine alone knows which one this rank is given first.
        for runner in (planted.PlantedRunner, DirectGemmRunner):
            kill_in(runner)
    original = planted.PlantedRunner.forward

    def run(self: Any, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **named: Any) -> Any:
        if kind == "slow" and is_here:
            time.sleep(0.01)
        if kind == "unlike" and is_here and tactic == planted.FAST and inputs[0].shape[0] == TOKENS:
            time.sleep(0.01)
        if kind == "fatal" and tactic == BAD:
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hangs" and tactic == BAD:
            time.sleep(600)
        return original(self, inputs, tactic, do_preparation, **named)

    planted.PlantedRunner.forward = run  # type: ignore[method-assign]


def noted_replays() -> set[tuple[int, int]]:
    """(tokens, tactic) of the planted op in every replay from now on."""
    original, forward_of, seen = FlashInferTuner.replay, planted.PlantedRunner.forward, set[tuple[int, int]]()

    def replay(self: FlashInferTuner, tasks: Any) -> Any:
        def run(runner: Any, inputs: list[Any], tactic: int = -1, *rest: Any, **named: Any) -> Any:
            seen.add((inputs[0].shape[0], tactic))
            return forward_of(runner, inputs, tactic, *rest, **named)

        planted.PlantedRunner.forward = run  # type: ignore[method-assign]
        try:
            return original(self, tasks)
        finally:
            planted.PlantedRunner.forward = forward_of  # type: ignore[method-assign]

    FlashInferTuner.replay = replay  # type: ignore[method-assign]
    return seen


def kill_in(runner: type[Any]) -> None:
    """Kill this process in a call of a runner that follows a few others."""
    original, calls = runner.forward, [0]

    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments, **named)

    runner.forward = run


def main(rank: int, world_size: int, directory: Path, fault: str) -> None:
    """One rank from its start to its second forward; writes what it served and looked up."""
    torch.set_num_threads(1)
    starts = len(list(directory.glob("start_*")))
    ranks = TalkingRunner.ranks = Ranks(rank, world_size, directory / f"start_{starts}")
    with RequestRecorder(PROCESS).recording() as recorder:
        forward(ranks, fault)
    plant(fault, rank, starts)
    if fault == f"absent:{rank}":
        time.sleep(600)
    token, _, address = os.environ["RAY_WARMUP_TUNE"].partition("@")
    replayed = noted_replays()
    engine_rank = EngineRank(rank, world_size, PROCESS.recording(), load_factory(FLASHINFER_TUNER), "cpu")
    served = engine_rank.serve(address, token, recorder.problems, directory / f"rank_{rank}.stack")
    forward(ranks, fault)
    hits = [
        look_up(lambda k=k, n=n: cpu_gemm(torch.randn(TOKENS, k), torch.randn(n, k)), OP).hit  # type: ignore[misc]
        for k, n in LAYERS
    ]
    hits.append(look_up(talk, "talking").hit)
    told = {"digest": served.digest, "hits": served.hits, "looked_up": hits, "replayed": sorted(replayed)}
    (directory / f"told_{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
