"""A pick's outputs as serving makes them: in a CUDA graph, call after call, with other weights, at other sizes.

A tactic that is right when it is run once by itself may leave its workspace dirty, be right for one address only, or
forget the last rows of a size that is no bucket. So calls follow one another without a wait, as layers do, and each
output is compared with the default's for the same call. Timing is not this module's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray_warmup.warmup.device.guard.agreement import disagreement, fill_with_nan
from ray_warmup.warmup.tasks import Choice
from ray_warmup.warmup.workloads.base import OpCall

REPLAYS = 2
"""Number of checked replays of a captured sequence."""

Run = Callable[[Choice, OpCall], Any]
"""Makes one call with a tactic; does not wait for it."""


class Device(Protocol):
    """The device, as far as calls need it."""

    def captured(self, run: Callable[[], list[Any]]) -> tuple[list[Any], Callable[[], None]] | None:
        """Capture `run` in a CUDA graph and return its outputs and the graph's replay.

        None if calls are not captured.
        """

    def wait(self) -> None:
        """Wait until the device is idle."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedCall:
    """One call as serving makes it, and its expected outputs."""

    name: str
    call: OpCall
    of_default: Any
    """The default's output."""
    reference: Any = None
    """The reference's, where there is a trusted one."""

    def refusal(self, output: Any, dtype: str) -> str | None:
        """Describe the fault of an output, or return None if it is right."""
        sources = (("reference", self.reference), ("default's output", self.of_default))
        for source, expected in sources:
            reason = None
            if expected is not None:
                reason = disagreement(output, expected, dtype)
            if reason is not None:
                return f"{self.name}: {reason} (against the {source})"
        return None


def size_between(bucket_of: Callable[[int], int], tokens: int) -> int | None:
    """Return a smaller number of tokens served under the key of `tokens`, or None.

    It is the middle of the sizes that the op rounds up to one bucket, and odd, so that no tile fits.
    """
    bucket = bucket_of(tokens)
    low, high = 1, tokens
    while low < high:
        middle = (low + high) // 2
        if bucket_of(middle) < bucket:
            low = middle + 1
        else:
            high = middle
    # A bucket of one size has no other size to serve.
    if low == tokens:
        return None
    return min((low + tokens) // 2 | 1, tokens - 1)


def wrong_when_served(
    choice: Choice, run: Run, device: Device, in_graph: Sequence[ServedCall], eagerly: Sequence[ServedCall], dtype: str
) -> str | None:
    """Describe the first wrong output of a tactic, or return None if all are right.

    Args:
        choice: the tactic.
        run: makes one call with it.
        device: captures calls and waits for them.
        in_graph: calls that follow one another in one CUDA graph, or eagerly where none is captured.
        eagerly: calls that follow one another after that.
        dtype: torch name of the activations' dtype, for the tolerance.

    Raises whatever the tactic raises.
    """
    for calls, outputs in _outputs(choice, run, device, in_graph, eagerly):
        for served, output in zip(calls, outputs, strict=True):
            reason = served.refusal(output, dtype)
            if reason is not None:
                return reason
    return None


def _outputs(
    choice: Choice, run: Run, device: Device, in_graph: Sequence[ServedCall], eagerly: Sequence[ServedCall]
) -> Iterator[tuple[Sequence[ServedCall], list[Any]]]:
    """Each sequence of calls with its outputs, once the device is idle."""

    def sequence(calls: Sequence[ServedCall]) -> list[Any]:
        return [run(choice, served.call) for served in calls]

    graph = device.captured(lambda: sequence(in_graph))
    if graph is None:
        outputs = sequence(in_graph)
        device.wait()
        yield in_graph, outputs
    else:
        outputs, replay = graph
        # A second replay shows a tactic that relies on what its workspace held at capture.
        for _ in range(REPLAYS):
            # Outputs of the previous replay would hide one that writes nothing.
            fill_with_nan(outputs)
            replay()
            device.wait()
            yield in_graph, outputs
    outputs = sequence(eagerly)
    device.wait()
    yield eagerly, outputs
