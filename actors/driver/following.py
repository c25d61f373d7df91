"""A driver follows its coordinator: events until the report, and what is said where the report does not come.

Silence alone ends nothing while the coordinator's process lives. What ends it: a death, a process that is stopped, a
report that does not follow the final phase, and a silence that is longer than all deadlines of a run together.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import ray

from ray_warmup.actors.cluster.remote_errors import as_failure, first_line, lacks_package, plain, reason_of_death
from ray_warmup.actors.connection.control_service import ControlService
from ray_warmup.actors.driver.liveness import lives
from ray_warmup.actors.errors import CoordinatorLostError
from ray_warmup.actors.run.events import Event, OnEvent
from ray_warmup.configs.engine_schema import EngineTimeoutsSection
from ray_warmup.configs.schema import TimeoutsSection
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

R = TypeVar("R")
SILENT_S = 20.0
FINAL_S = 60.0
"""For the report after a final phase, besides `timeouts.installing` for the verdicts: longer than all else that a
coordinator does between the two may take."""
STOP_S = 15.0
KEPT = "Finished tasks are kept in the node stores; run again to resume"


class Following(Generic[R]):
    """One coordinator's stream of events, to a report of type `R`."""

    def __init__(
        self,
        coordinator: Any,
        on_event: OnEvent,
        timeouts: TimeoutsSection | EngineTimeoutsSection,
        read: Callable[[str], R],
        longest_s: float,
        control_service: ControlService | None = None,
    ) -> None:
        """Keep the arguments.

        Args:
            coordinator: the actor.
            on_event: told every event.
            timeouts: of the run.
            read: makes the report of its text.
            longest_s: all deadlines of a run together.
            control_service: of the cluster, whose loss ends the run.
        """
        self._read = read
        self._coordinator = coordinator
        self._control_service = control_service
        self._on_event = on_event
        # Five beats, because a busy coordinator may miss a few without being lost.
        self._silent_s = max(SILENT_S, 5 * timeouts.heartbeat)
        self._final_s = FINAL_S + timeouts.installing  # as long as leaving the verdict on slow disks may take
        self._longest_s = longest_s
        self._stream: Any = None
        self._question: Any = None
        """The one unanswered question for the status."""
        self._heard = time.monotonic()
        self._ended: tuple[str, float] | None = None
        """The final phase and when it was heard of."""
        self._is_told = False

    def until_report(self, limit_s: float = float("inf")) -> R:
        """Pass events on until the report. Raises CoordinatorLostError."""
        self._heard = time.monotonic()
        deadline = self._heard + limit_s
        with self._control_service_named(), lost_contact():
            if self._stream is None:
                self._stream = self._coordinator.run.remote()
            while time.monotonic() < deadline:
                if (report := self._step(min(self._silent_s / 2, limit_s))) is not None:
                    return report
        raise CoordinatorLostError(f"the coordinator gave no report within {limit_s:g} s. {KEPT}")

    def stopped(self, reason: str) -> R | None:
        """Stop the run and follow it to its report.

        None if the report does not come in time.
        """
        with contextlib.suppress(CoordinatorLostError), lost_contact():
            ray.get(self._coordinator.stop.remote(reason), timeout=STOP_S)
            return self.until_report(STOP_S)
        return None

    @contextlib.contextmanager
    def _control_service_named(self) -> Iterator[None]:
        """Name the cause where the whole cluster is gone, not only the coordinator."""
        try:
            yield
        except CoordinatorLostError as error:
            service = self._control_service
            # An error that names the control service already needs no second explanation.
            if service is None or service.is_reachable() or "(GCS" in error.message:
                raise
            raise CoordinatorLostError(f"{service.said_lost()}. {KEPT}", ray=error.message) from error

    def _step(self, pause_s: float) -> R | None:
        """Handle one event, or check the coordinator after a silence."""
        # Asked first: without the service Ray's own calls below would wait for its time limits.
        reason = None
        if self._control_service is not None:
            reason = self._control_service.why_lost()
        if reason is not None:
            raise CoordinatorLostError(f"{reason}. {KEPT}")
        # Waited for with a limit, because the next event of a lost coordinator never comes.
        if ray.wait([self._stream], timeout=pause_s)[0]:
            event: Event = ray.get(next(self._stream))
            self._heard, self._is_told = time.monotonic(), False
            if event["event"] == "report":
                return self._read(event["report"])
            self._note(event.get("phase", ""))
            self._on_event(event)
        else:
            self._check_coordinator(pause_s)
        if self._ended is not None and time.monotonic() - self._ended[1] > self._final_s:
            raise CoordinatorLostError(
                f"the run ended as {self._ended[0]}, but its report did not come within {self._final_s:g} s. {KEPT}"
            )
        return None

    def _check_coordinator(self, wait_s: float) -> None:
        """Check that the coordinator answers, with one pending question at a time."""
        if self._question is None:
            self._question = self._coordinator.status.remote()
        if ray.wait([self._question], timeout=wait_s)[0]:
            answered, self._question = self._question, None
            self._note(ray.get(answered)["phase"])
            self._heard, self._is_told = time.monotonic(), False
            return
        silence = time.monotonic() - self._heard
        if silence < 0.9 * self._silent_s:
            return
        if silence > self._longest_s or not lives(self._coordinator):
            raise CoordinatorLostError(
                f"the coordinator on the head node did not answer for {silence:.0f} s (timeouts.heartbeat x 5, at "
                f"least {SILENT_S:g}), and its process is stopped, gone or out of reach. {KEPT}"
            )
        if not self._is_told:
            self._is_told = True
            text = f"the coordinator has not answered for {silence:.0f} s, its process lives: it is waited for"
            logger.warning("%s -> look at the head node: it is overloaded, or stopped", text)
            self._on_event({"event": "note", "at": 0.0, "text": text})

    def _note(self, phase: str) -> None:
        if phase in (Phase.READY, Phase.FAILED):
            self._ended = self._ended or (phase, time.monotonic())


def following_of(
    coordinator: Any, on_event: OnEvent, timeouts: TimeoutsSection, control_service: ControlService | None = None
) -> Following[WarmupReport]:
    """Follow the coordinator of a tuning run."""
    longest_s = sum(getattr(timeouts, phase.value.lower()) for phase in Phase if not phase.is_final)
    longest_s += timeouts.nodes or 0.0
    return Following(coordinator, on_event, timeouts, WarmupReport.from_json, longest_s, control_service)


@contextlib.contextmanager
def lost_contact() -> Iterator[None]:
    """Whatever Ray raises between a driver and its coordinator, as CoordinatorLostError: ours first, then Ray's."""
    try:
        yield
    except (WarmupError, BrokenPipeError):  # the latter is the reader's of our output
        raise
    except StopIteration:
        raise CoordinatorLostError(f"the coordinator ended without a report. {KEPT}") from None
    except ray.exceptions.RayActorError as error:
        advice = lacks_package(error, "the head node")
        if advice is not None:
            raise CoordinatorLostError(f"the coordinator could not start: {advice}") from error
        raise CoordinatorLostError(
            f"the coordinator died. {KEPT}\nRay says: {reason_of_death(error)}", ray=plain(str(error))[:2000]
        ) from error
    except ray.exceptions.RayTaskError as error:
        failure = as_failure(error)
        logger.info("%s", failure.traceback)
        raise CoordinatorLostError(
            f"the coordinator failed (internal error, please report): {failure.kind}: {failure.message}. {KEPT}"
        ) from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise CoordinatorLostError(
            f"contact with the cluster was lost. {KEPT}\nRay says: {first_line(error)}"
        ) from error
