"""Random faults against real runs on simulated nodes, for as long as asked.

    python -m tests.faults.chaos --minutes 30 [--seed 7]        draws until the time is over; prints its seed
    python -m tests.faults.chaos --seed 7 --replay 41           the 41st draw of that seed alone

Each draw picks one or two faults, the moments at which they strike, and how the ranks lie; the same seed gives
the same draws. After each run: it ended in time; ready means one table everywhere, on disk too; failed means
that the error names the rank that was struck; and nothing is left behind. Faults come from outside (signals,
limits, files), as in tests/faults/. Needs the repository, because the scripted tuner is a test double.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_warmup.warmup.report import WarmupReport
from tests.fault_injection import FaultInjector, Injection, kill, limit_files
from tests.faults.moments import MOMENTS, ON_EVERY_RANK, assert_measured_once, moment
from tests.testbed import Case, Line, Testbed, hold, release

WITHIN_S = 60.0
LIMIT_S = 4.0


@dataclass(frozen=True)
class Fault:
    """What is done to the process that reached a moment, and how the run may end."""

    strike: Callable[[Case], Injection]
    ends_ready: bool = True


def freeze(case: Case) -> Injection:
    """Stand still for a while that every deadline allows."""

    def strike(line: Line) -> None:
        os.kill(line.pid, signal.SIGSTOP)
        time.sleep(0.7)
        os.kill(line.pid, signal.SIGCONT)

    return strike


def vanish(case: Case) -> Injection:
    """Delete the node's whole cache."""
    return lambda line: shutil.rmtree(case.cache(line.node), ignore_errors=True)


FAULTS: dict[str, Fault] = {
    "kill": Fault(lambda case: kill()),
    "segv": Fault(lambda case: kill(signal.SIGSEGV)),
    # Ray's worker does not always end on SIGTERM: it may stay, silent, until a deadline names it.
    "terminate": Fault(lambda case: kill(signal.SIGTERM), ends_ready=False),
    "freeze": Fault(freeze),
    "full disk": Fault(lambda case: limit_files(2000)),
    "vanish": Fault(vanish),
    "stop": Fault(lambda case: kill(signal.SIGSTOP), ends_ready=False),
}
HARMLESS_UNTIL = ("PROBING", "LOOKUP", "COMPILING", "TUNING", "GUARDING", "PUSHING", "INSTALLING")
"""Until here a cache that is deleted is written again; afterwards its loss is a named failure."""


@dataclass(frozen=True)
class Blow:
    """One fault at one moment on one node."""

    fault: str
    phase: str
    node: int

    @property
    def may_fail(self) -> bool:
        """Whether the run may end as failed because of it."""
        late = self.phase not in HARMLESS_UNTIL
        return not FAULTS[self.fault].ends_ready or (self.fault == "vanish" and late)


@dataclass(frozen=True)
class Draw:
    """One run and what is done to it."""

    number: int
    ranks_per_node: int
    warm: tuple[int, ...]
    """Nodes that begin with a table."""
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        blows = " and ".join(f"{blow.fault} in {blow.phase} on node {blow.node}" for blow in self.blows)
        return f"#{self.number}: {self.ranks_per_node} ranks per node, warm {list(self.warm)}: {blows}"


def draw(seed: str, number: int) -> Draw:
    """The same for the same seed and number."""
    dice = random.Random(f"{seed}/{number}")
    warm = dice.choice(((), (), (), (0,), (1,), (0, 1)))
    phases = [phase for phase in MOMENTS if phase != "LOOKUP" or warm]
    if warm:
        phases = ["PROBING", "LOOKUP", "COMPILING", "LOADING", "REPLAYING"]
    blows = []
    for phase in sorted(dice.sample(phases, dice.choice((1, 1, 2))), key=list(MOMENTS).index):
        node = dice.choice((0, 1)) if phase in ON_EVERY_RANK else 0
        if phase == "LOOKUP":
            node = dice.choice(warm)
        blows.append(Blow(dice.choice(list(FAULTS)), phase, node))
        if blows[-1].may_fail:
            break
    return Draw(number, dice.choice((1, 1, 2)), warm, tuple(blows))


def play(bed: Testbed, plan: Draw) -> str:
    """Run one draw and check it; returns how it ended. Raises AssertionError."""
    case = Case(bed, f"chaos-{plan.number}")
    pauses: dict[str, dict[str, float]] = {}
    for blow in plan.blows:
        method, nth = MOMENTS[blow.phase]
        pauses.setdefault(method, {})[str(nth)] = 0.6
    case.plant(*(bed.nodes[node] for node in plan.warm))
    case.script(modules=["one", "two", "three"], pause_s=pauses)
    config = case.config(cluster={"ranks_per_node": plan.ranks_per_node}, timeouts=limits(plan))
    began = time.monotonic()
    struck: list[FaultInjector] = []
    try:
        with ExitStack() as stack:
            for blow in plan.blows:
                injector = FaultInjector(
                    case, moment(blow.phase, bed.nodes[blow.node]), FAULTS[blow.fault].strike(case)
                )
                injector.must_strike = False  # an earlier blow may have moved the work elsewhere
                struck.append(stack.enter_context(injector))
            report = case.run(config)
        assert time.monotonic() - began < WITHIN_S, "it took too long"
        assert any(injector.struck is not None for injector in struck), "no fault struck"
        check(case, plan, report)
        return "ready" if report.ready else "failed, as it may"
    finally:
        case.close()


def limits(plan: Draw) -> dict[str, float]:
    """Short deadlines where a rank will be stopped for good."""
    values: dict[str, float] = {}
    for blow in plan.blows:
        if blow.fault == "stop":
            values["task" if blow.phase in ("TUNING", "GUARDING") else blow.phase.lower()] = LIMIT_S
    return values


def check(case: Case, plan: Draw, report: WarmupReport) -> None:
    """What must be true of every run."""
    assert report.ready == (report.error is None)
    if not report.ready:
        blamed = [blow for blow in plan.blows if blow.may_fail]
        assert blamed, f"failed without a reason: {report.error}"
        names = [case.bed.nodes[blow.node].node_id[:8] for blow in blamed]
        assert any(f"on node {name}" in str(report.error) for name in names), report.error
        return
    (group,) = report.classes
    assert group.digest is not None
    assert {(rank.digest, rank.entries, rank.hits, rank.misses) for rank in report.ranks} == {(group.digest, 10, 10, 0)}
    tables = {path.read_bytes() for node in case.bed.nodes for path in case.files(node, "autotune_configs.json")}
    assert len(tables) <= 1, "nodes hold different tables"
    assert_measured_once(case, at_most=len(plan.blows))


def main() -> int:
    """Draw, play, count; exit code 1 when anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", default=None)
    parser.add_argument("--replay", type=int, default=None, help="play this draw of the seed alone")
    parser.add_argument("--summary", type=Path, default=None, help="write the counts as JSON here")
    options = parser.parse_args()
    seed = options.seed or secrets.token_hex(4)
    print(f"seed {seed}", flush=True)
    bed = hold()
    try:
        summary = play_all(bed, seed, options.minutes, options.replay)
    finally:
        release()
    print(json.dumps(summary, indent=2))
    if options.summary is not None:
        options.summary.write_text(json.dumps(summary, indent=2) + "\n")
    return 1 if summary["broken"] else 0


def play_all(bed: Testbed, seed: str, minutes: float, replay: int | None) -> dict[str, Any]:
    """Every draw until the time is over, or the one that is asked for."""
    began, number = time.monotonic(), replay or 1
    endings: Counter[str] = Counter()
    blows: Counter[str] = Counter()
    broken: list[dict[str, str]] = []
    while True:
        plan = draw(seed, number)
        start = time.monotonic()
        try:
            ending = play(bed, plan)
        except Exception as error:  # every kind of breakage is a finding; the next draw goes on
            ending = "BROKEN"
            broken.append({"draw": str(plan), "error": f"{type(error).__name__}: {error}"})
            print(f"  {type(error).__name__}: {error}", flush=True)
        print(f"{plan}: {ending} in {time.monotonic() - start:.1f} s", flush=True)
        endings[ending] += 1
        blows.update(f"{blow.fault} in {blow.phase}" for blow in plan.blows)
        number += 1
        if replay is not None or time.monotonic() - began > 60 * minutes:
            break
    minutes_taken = round((time.monotonic() - began) / 60, 1)
    return {
        "seed": seed,
        "minutes": minutes_taken,
        "endings": endings,
        "faults": dict(sorted(blows.items())),
        "broken": broken,
    }


if __name__ == "__main__":
    sys.exit(main())
