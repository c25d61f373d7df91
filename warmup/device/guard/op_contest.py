"""Set up one FlashInfer op call for the guard: several copies of it, any tactic of which can be run and timed.

The copies have weights of their own and a lap walks over them, as the layers of a model do: together they
overflow the L2 cache, and tactics are not judged by how one weight happens to lie in memory. Activations and workspaces
are the same in all copies, because in a model the operation before has just written them and they lie in the cache
(with copies of their own, one tactic read 1.04 of a default that it equals: `tests/gpu/results/guard.md`). What the
times and outputs mean is decided in `guard.py`.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ray_warmup.warmup.artifact.table import thaw
from ray_warmup.warmup.device.guard.agreement import disagreement, fill_next_allocation_with_nan
from ray_warmup.warmup.device.guard.contest import Flaw, Pace
from ray_warmup.warmup.device.guard.measure import (
    ClockTimed,
    EventTimed,
    GraphTimed,
    Timed,
    no_wait,
    synchronize,
    timed_rounds,
)
from ray_warmup.warmup.device.guard.rotation import COPIES_BYTES, MAX_CALLS, MIN_CALLS, Rotation, rotation_of
from ray_warmup.warmup.device.guard.served import ServedCall, size_between, wrong_when_served
from ray_warmup.warmup.errors import DeadContextError
from ray_warmup.warmup.tasks import Choice
from ray_warmup.warmup.workloads.base import LayeredCall, NarrowableCall, OpCall

logger = logging.getLogger(__name__)

SINGLES, LAYOUT_CALLS = 8, 8
"""On how many copies a tactic is also timed alone, and how many calls make a lap over some copies."""
CPU_LAP_S = 2e-3
SHORT_CALL_S = 50e-3
"""A call of the CPU that takes less is timed three times, because others may run in between."""
CUDA_BUDGET_S, CPU_BUDGET_S = 2.0, 0.3
CUDA_LEAD_LAPS = 2
CUDA_SETTLE_S = 0.3
"""After a rest an H200 runs for 50 to 150 ms at 1980 MHz, then at 1450 to 1650 at its power limit, as it does while it
serves. Ratios differ: one tactic gains 5 % before and 15 % after (`tests/gpu/results/guard.md`)."""
CPU_TUNED_FACTOR = 1.3
"""On the CPU tuning and guard measure alike, so that a candidate far behind needs no second look."""


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
        self._build = build
        self._copies = [build(0)]
        self._another = self._copies[0]
        self._pool = self._new_pool()
        # Taken back in `_new_rotation` if capturing the default fails.
        self._captured = self._cuda
        # The default runs before memory is spent on copies, so a call that cannot run costs nothing.
        self._first = self._with_reference(self._served("the first call", self._copies[0]))
        self._rotation = self._new_rotation()
        while len(self._copies) < self._rotation.copies:
            self._add_copy()

    @property
    def layouts(self) -> tuple[tuple[range, ...], ...]:
        """Return single copies, and groups that just overflow the cache, for CUDA graphs."""
        # Eager laps are timed with host work, which hides what a memory layout costs.
        if not self._captured:
            return ()
        count, size = self._rotation.copies, self._rotation.group
        singles = tuple(range(copy, copy + 1) for copy in range(min(SINGLES, count)))
        groups = tuple(range(begin, begin + size) for begin in range(0, count - size + 1, size))
        if size > 1:
            return (singles, groups)
        return (singles,)

    @property
    def pace(self) -> Pace:
        """Seconds on a GPU, a fraction of one on the CPU."""
        lap_s = self._call_s * self._rotation.calls
        if self._cuda:
            # No tuned factor on the GPU: tuning there measures otherwise than the guard, so its order is only a hint.
            return Pace(lap_s, CUDA_BUDGET_S, CUDA_SETTLE_S, float("inf"), CUDA_LEAD_LAPS)
        return Pace(lap_s, CPU_BUDGET_S, 0.0, CPU_TUNED_FACTOR)

    def flaw(self, choice: Choice) -> Flaw | None:
        """Run a tactic once on the first copy and compare its output with the reference and the default's."""
        # Otherwise a tactic that writes nothing would find the default's right output in reused memory.
        fill_next_allocation_with_nan(self._first.of_default)

        def wrong() -> str | None:
            # One call alone; the pick's repetitions are looked at later by `served_flaw`.
            output = self._run(choice, self._copies[0])
            self.wait()
            return self._first.refusal(output, self._dtype)

        return self._flaw(choice, wrong)

    def served_flaw(self, choice: Choice) -> Flaw | None:
        """Run a tactic as serving does (see `served.py`) and compare each output with the default's.

        Raises what making the calls raises: memory may run out for them.
        """
        first = self._first
        in_graph = (first, replace(first, name="the same call again"), self._another_weight())
        eagerly = (*self._another_size(choice.runner), replace(first, name="the first call after other sizes"))
        return self._flaw(choice, lambda: wrong_when_served(choice, self._run, self, in_graph, eagerly, self._dtype))

    def captured(self, run: Callable[[], list[Any]]) -> tuple[list[Any], Callable[[], None]] | None:
        """Capture `run` in a CUDA graph and return its outputs and the graph's replay.

        None if the op is not captured.
        """
        if not self._captured:
            return None
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = run()
        return outputs, graph.replay

    def timed(self, choice: Choice, copies: range | None = None) -> Timed:
        """Graph laps on CUDA, clock laps on the CPU or where the op cannot be captured."""
        if copies is None:
            walked, calls = range(self._rotation.copies), self._rotation.calls
        else:
            # Whole walks over the copies, so that each copy is timed equally often.
            walks = math.ceil(LAYOUT_CALLS / len(copies))
            walked, calls = copies, walks * len(copies)

        def run(call: int) -> Any:
            return self._run(choice, self._copies[walked[call % len(walked)]])

        if self._captured:
            return GraphTimed(run, calls, warm=copies is not None, pool=self._pool)
        return (EventTimed if self._cuda else ClockTimed)(run, calls)

    def wait(self) -> None:
        """Wait until the device is idle."""
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

    def _run(self, choice: Choice, call: OpCall) -> Any:
        from ray_warmup.warmup.device.autotuner_seams import forced

        with forced(self._op, choice.runner, choice.tactic):
            return call.run()

    def _flaw(self, choice: Choice, wrong: Callable[[], str | None]) -> Flaw | None:
        """The flaw that `wrong` finds by running a tactic."""
        try:
            reason = wrong()
        except Exception as error:  # a tactic may raise anything; whatever it is, the tactic is refused
            # A dead context fails every later call, so it must be told from a tactic that only raised.
            self.probe(choice)
            return "crashed", f"{type(error).__name__}: {error}"[:300]
        if reason is None:
            return None
        return ("wrong", reason)

    def _another_weight(self) -> ServedCall:
        """Return a call of which every input is another one.

        If laps have one copy, build another.
        """
        call = self._another if len(self._copies) > 1 else self._build(1)
        return self._served("another weight", call)

    def _add_copy(self) -> None:
        """Add a copy to the lap: another layer's weights with the first copy's activations and workspaces."""
        first, built = self._copies[0], self._build(len(self._copies))
        # Of the last one its own activations are kept, since outputs are compared on other addresses, too.
        self._another = built
        self._copies.append(first.with_weights_of(built) if isinstance(first, LayeredCall) else built)

    def _another_size(self, runner: str) -> tuple[ServedCall, ...]:
        """A smaller call that serves under this one's key, where the op rounds up and its calls can be narrowed."""
        from ray_warmup.warmup.device.autotuner_seams import capture_call

        first = self._copies[0]
        request = capture_call(first.run, self._op)
        tokens = size_between(request.bucket, request.tokens)
        if tokens is None or not isinstance(first, NarrowableCall):
            return ()
        narrowed = first.narrowed(tokens)
        # Only a size that shares the table entry is served with this tactic.
        if capture_call(narrowed.run, self._op).key_of(runner) != request.key_of(runner):
            return ()  # cuBLASLt's keys hold the exact size besides the bucket
        return self._served_by_default(f"{tokens} tokens", narrowed)

    def _served_by_default(self, name: str, call: OpCall) -> tuple[ServedCall, ...]:
        """Return the call with the default's output, or none if the default cannot run it."""
        import torch

        try:
            return (self._served(name, call),)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            self.probe(self._default)
            logger.info("%s: the default does not run with %s: %s", self._op, name, error)
            return ()

    def _served(self, name: str, call: OpCall) -> ServedCall:
        return ServedCall(name, call, self._run(self._default, call))

    def _with_reference(self, served: ServedCall) -> ServedCall:
        """Add the call's own reference, unless the default itself is far from it."""
        reference = served.call.reference()
        if reference is None:
            return served
        reason = disagreement(served.of_default, reference, self._dtype)
        if reason is not None:
            logger.info("%s: the default is not near its reference (%s), comparing with it alone", self._op, reason)
            return served
        return replace(served, reference=reference)

    def _new_pool(self) -> Any:
        if not self._cuda:
            return None
        import torch

        return torch.cuda.graph_pool_handle()

    def _new_rotation(self) -> Rotation:
        """Choose the rotation of copies by timing the default.

        If the op cannot be captured, laps run eagerly.
        """
        if not self._cuda:
            self._call_s = self._cpu_call_s()
            return Rotation(max(1, min(MAX_CALLS, int(CPU_LAP_S / max(self._call_s, 1e-9)))), 1)
        import torch

        self._rotation = Rotation(MIN_CALLS, 1)
        try:
            subject = self.timed(self._default)
        except RuntimeError as error:
            self.probe(self._default)
            logger.info("%s cannot be captured in a CUDA graph (%s), timing it eagerly", self._op, error)
            self._captured = False
            subject = self.timed(self._default)
        self._anchor = subject  # a memory pool lives as long as one of its graphs
        # The lesser of two, since the first also pays for clocks that still rise.
        self._call_s = min(timed_rounds([subject], 2, random.Random(0), self.wait)[0])
        self._add_copy()
        size = bytes_apart(self._copies[1].inputs, self._copies[0].inputs)
        return rotation_of(self._call_s, size, int(torch.cuda.get_device_properties(0).L2_cache_size), self._max_bytes)

    def _cpu_call_s(self) -> float:
        """Seconds of a call of the default."""
        subject = ClockTimed(lambda _: self._run(self._default, self._copies[0]))
        first = subject.start()()
        if first >= SHORT_CALL_S:
            return first
        # The least is closest to the call's own time, because disturbance only ever adds.
        return min(first, subject.start()(), subject.start()())


def bytes_apart(inputs: Sequence[Any], others: Sequence[Any]) -> int:
    """Bytes of the tensors of a call that another call of the lap does not use, and that evict its own."""
    import torch

    size = 0
    for tensor, other in zip(inputs, others, strict=True):
        if isinstance(tensor, torch.Tensor) and tensor is not other:
            size += tensor.numel() * tensor.element_size()
    return size
