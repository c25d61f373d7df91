"""Questions in turn to a recorded replica's launcher and to one that measures for it.

Knows no transport:

    relay = Relay(replica=1, bundles=(2, 3))
    while not relay.is_over:
        relay.allotted(ask(recorder, relay.to_recorder()))
        if relay.has_work:
            relay.measured(ask(other, relay.to_other()))

Then the other is asked for `EndMeasuring`, however the loop has ended.
"""

from __future__ import annotations

from ray_warmup.warmup.messages.allotting import AllotTasks, MeasureTasks, TasksAllotted, TasksMeasured


class Relay:
    """The exchange of one replica with the recorded one."""

    def __init__(self, replica: int, bundles: tuple[int, ...]) -> None:
        self._replica, self._bundles = replica, bundles
        self._allotted = TasksAllotted("waiting")
        self._measured: TasksMeasured | None = None

    @property
    def is_over(self) -> bool:
        """Return True once the recorded replica has nothing left for the other one, which has been told."""
        return self._allotted.state == "over"

    @property
    def has_work(self) -> bool:
        """Return True if the other replica is to be asked."""
        return self._allotted.state == "measure"

    def to_recorder(self) -> AllotTasks:
        """Return the next question to the recorded replica's launcher."""
        return AllotTasks(self._replica, self._measured)

    def allotted(self, answer: TasksAllotted) -> None:
        """Take the recorded replica's answer."""
        self._allotted, self._measured = answer, None

    def to_other(self) -> MeasureTasks:
        """Return the next question to the launcher of the other replica."""
        return MeasureTasks(self._bundles, self._allotted.work, self._allotted.lot)

    def measured(self, answer: TasksMeasured) -> None:
        """Take the other replica's answer."""
        self._measured = answer

    def failed(self, reason: str) -> AllotTasks:
        """Return the last question to the recorded replica's launcher where the other one can no longer be asked."""
        return AllotTasks(self._replica, TasksMeasured("ended", error=reason))
