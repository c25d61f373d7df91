"""One task set up for the guard: several copies of its call, any tactic of which can be run and timed.

The copies have inputs of their own and a lap walks over them, as the layers of a model do: together they
overflow the L2 cache, and tactics are not judged by how one weight happens to lie in memory. What the times and
outputs mean is decided in `guard.py`.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ray_warmup.warmup.artifact.table import thaw
from ray_warmup.warmup.device.guard.agreement import disagreement, poison
from ray_warmup.warmup.device.guard.measure import (
    ClockTimed,
    EventTimed,
    GraphTimed,
    Timed,
    no_wait,
    synchronize,
    timed_rounds,
)
from ray_warmup.warmup.errors import DeadContextError
from ray_warmup.warmup.tasks import Choice
from ray_warmup.warmup.workloads.base import OpCall

logger = logging.getLogger(__name__)

LAP_S = 600e-6
"""Device time that one lap should fill, so that a graph's launch does not show."""
MIN_CALLS, MAX_CALLS = 4, 32
MAX_COPIES = 32
COPIES_BYTES = 4 << 30
"""Device memory for the copies, as long as two of them fit."""
SINGLES, LAYOUT_CALLS = 8, 8
"""On how many copies a tactic is also timed alone, and how many calls make a lap over some copies."""
CPU_LAP_S = 2e-3
CUDA_BUDGET_S, CPU_BUDGET_S = 2.0, 0.3
CUDA_WARM_ROUNDS, CUDA_LEAD_LAPS = 2, 2
CPU_TUNED_FACTOR = 1.3
"""On the CPU tuning and guard measure alike, so that a candidate far behind needs no second look."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a race costs on this device."""

    lap_s: float
    """Seconds of one lap of the default."""
    budget_s: float
    """Time for all laps; at least `race.MIN_ROUNDS` rounds are run whatever they take."""
    warm_rounds: int
    """Rounds that nobody looks at, while clocks and power settle."""
    tuned_factor: float
    """Candidates whose tuned time is this many times the fastest's do not take part."""
    lead_laps: int = 0
    """Laps that nobody looks at, after each wait, while the device is idle."""


class Contest(Protocol):
    """What the guard needs to judge a task's tactics."""

    def flaw(self, choice: Choice) -> tuple[str, str] | None:
        """("crashed" or "wrong", the reason) for a tactic that fails or gives another result; None for a right one."""

    def timed(self, choice: Choice, copies: range | None = None) -> Timed:
        """Its laps over all copies, or over some. Raises what the op raises while it is captured."""

    def wait(self) -> None:
        """Until the device is idle."""

    @property
    def pace(self) -> Pace:
        """How long a lap takes and how long the whole race may."""

    @property
    def layouts(self) -> tuple[tuple[range, ...], ...]:
        """Sets of copies; within a set, a tactic's ratio should depend on where they lie in memory alone."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many calls make a lap, over how many copies."""

    calls: int
    copies: int
    group: int = 1
    """How many copies overflow the cache."""


def rotation_of(call_s: float, call_bytes: int, cache_bytes: int, max_bytes: int = COPIES_BYTES) -> Rotation:
    """Enough calls to fill a lap, over enough copies to overflow the cache twice, as far as memory allows.

    Args:
        call_s: one call's seconds.
        call_bytes: size of one copy's inputs.
        cache_bytes: size of the device's last-level cache.
        max_bytes: memory for all copies.
    """
    calls = max(MIN_CALLS, min(MAX_CALLS, int(LAP_S / max(call_s, 1e-9)) + 1))
    needed = 2 * cache_bytes // max(call_bytes, 1) + 2
    affordable = max(2, max_bytes // max(call_bytes, 1))
    copies = max(1, min(affordable, max(needed, min(calls, MAX_COPIES)), 4 * MAX_CALLS))
    return Rotation(-(-calls // copies) * copies, copies, min(needed, copies))


class OpContest:
    """A contest of one FlashInfer op call.

    Args:
        build: makes one copy of the call from a seed.
        op: the op whose tactic is forced.
        dtype: torch name of the activations' dtype, for the tolerance.
        default: what serves when nothing is tuned.
        device: `cpu` or `cuda:0`.
        max_bytes: device memory for all copies; two are made whatever they take.

    Raises what the default tactic raises: a call that cannot run at all has nothing to guard.
    """

    def __init__(
        self,
        build: Callable[[int], OpCall],
        op: str,
        dtype: str,
        default: Choice,
        device: str,
        max_bytes: int = COPIES_BYTES,
    ) -> None:
        self._op, self._dtype, self._default, self._max_bytes = op, dtype, default, max_bytes
        self._cuda = device.startswith("cuda")
        self._copies = [build(0)]
        self._pool = self._new_pool()
        self._captured = self._cuda
        self._expected = self._run(default, 0)
        self._reference = self._trusted_reference()
        self._rotation = self._new_rotation()
        self._copies += [build(seed) for seed in range(1, self._rotation.copies)]

    @property
    def layouts(self) -> tuple[tuple[range, ...], ...]:
        """On CUDA graphs: single copies, and groups that just overflow the cache."""
        if not self._captured:
            return ()
        count, size = self._rotation.copies, self._rotation.group
        singles = tuple(range(copy, copy + 1) for copy in range(min(SINGLES, count)))
        groups = tuple(range(begin, begin + size) for begin in range(0, count - size + 1, size))
        return (singles, groups) if size > 1 else (singles,)

    @property
    def pace(self) -> Pace:
        """Seconds on a GPU, a fraction of one on the CPU."""
        lap_s = self._call_s * self._rotation.calls
        if self._cuda:
            return Pace(lap_s, CUDA_BUDGET_S, CUDA_WARM_ROUNDS, float("inf"), CUDA_LEAD_LAPS)
        return Pace(lap_s, CPU_BUDGET_S, 0, CPU_TUNED_FACTOR)

    @property
    def rotation(self) -> Rotation:
        """Calls per lap and copies in memory."""
        return self._rotation

    def flaw(self, choice: Choice) -> tuple[str, str] | None:
        """Run a tactic once on the first copy and compare its output with the reference and the default's."""
        poison(self._expected)
        try:
            output = self._run(choice, 0)
            self.wait()
        except Exception as error:  # a tactic may raise anything; whatever it is, the tactic is refused
            self.probe(choice)
            return "crashed", f"{type(error).__name__}: {error}"[:300]
        for name, expected in (("reference", self._reference), ("default's output", self._expected)):
            reason = None if expected is None else disagreement(output, expected, self._dtype)
            if reason is not None:
                return "wrong", f"{reason} (against the {name})"
        return None

    def timed(self, choice: Choice, copies: range | None = None) -> Timed:
        """Graph laps on CUDA, clock laps on the CPU or where the op cannot be captured."""
        walked = range(self._rotation.copies) if copies is None else copies
        calls = self._rotation.calls if copies is None else -(-LAYOUT_CALLS // len(walked)) * len(walked)

        def run(call: int) -> Any:
            return self._run(choice, walked[call % len(walked)])

        if self._captured:
            return GraphTimed(run, calls, warm=copies is not None, pool=self._pool)
        return (EventTimed if self._cuda else ClockTimed)(run, calls)

    def wait(self) -> None:
        """Until the device is idle."""
        synchronize() if self._cuda else no_wait()

    def probe(self, choice: Choice) -> None:
        """Raise DeadContextError when a failed tactic took the CUDA context with it."""
        try:
            self.wait()
        except RuntimeError as error:
            raise DeadContextError(
                f"{self._op}: {choice.runner} tactic {choice.tactic} left a dead CUDA context: {error}",
                op=self._op,
                runner=choice.runner,
                tactic=json.dumps(thaw(choice.tactic)),
            ) from error

    def _run(self, choice: Choice, copy: int) -> Any:
        from ray_warmup.warmup.device.autotuner_seams import forced

        with forced(self._op, choice.runner, choice.tactic):
            return self._copies[copy].run()

    def _trusted_reference(self) -> Any:
        """The reference, or None when there is none or when the default itself is far from it."""
        reference = self._copies[0].reference()
        if reference is None:
            return None
        reason = disagreement(self._expected, reference, self._dtype)
        if reason is not None:
            logger.warning("%s: the default is not near its reference (%s), comparing with it alone", self._op, reason)
            return None
        return reference

    def _new_pool(self) -> Any:
        if not self._cuda:
            return None
        import torch

        return torch.cuda.graph_pool_handle()

    def _new_rotation(self) -> Rotation:
        """Timed on the default; falls back to eager laps where the op cannot be captured."""
        if not self._cuda:
            self._call_s = ClockTimed(lambda _: self._run(self._default, 0)).start()()
            return Rotation(max(1, min(MAX_CALLS, int(CPU_LAP_S / max(self._call_s, 1e-9)))), 1)
        import torch

        self._rotation = Rotation(MIN_CALLS, 1)
        try:
            subject = self.timed(self._default)
        except RuntimeError as error:
            self.probe(self._default)
            logger.warning("%s cannot be captured in a CUDA graph (%s), timing it eagerly", self._op, error)
            self._captured = False
            subject = self.timed(self._default)
        self._anchor = subject  # a memory pool lives as long as one of its graphs
        self._call_s = min(timed_rounds([subject], 2, random.Random(0), self.wait)[0])
        size = sum(t.numel() * t.element_size() for t in self._copies[0].inputs if isinstance(t, torch.Tensor))
        return rotation_of(self._call_s, size, int(torch.cuda.get_device_properties(0).L2_cache_size), self._max_bytes)
