"""What `ray-warmup status` says above a run's ranks."""

from __future__ import annotations

from dataclasses import replace

from ray_warmup.actors.run.status import RunStatus
from ray_warmup.scripts.commands.status_watch import line_of

RUN = RunStatus("warmup-1", "r1", "INSTALLING", elapsed_s=21.34, phase_s=6.04, phase_limit_s=120.0)


def test_a_title_has_the_age_of_the_phase() -> None:
    """The phase's own age and deadline, finished tasks where there are any, and the run's age apart from them."""
    assert line_of(RUN) == "run r1: INSTALLING for 6.0 s of 120 s; begun 21.3 s ago"
    tuning = replace(RUN, phase="TUNING", done=22, total=39)
    assert line_of(tuning) == "run r1: TUNING for 6.0 s of 120 s, 22 of 39 tasks; begun 21.3 s ago"


def test_a_coordinator_that_does_not_say_the_age_of_its_phase_is_not_guessed_for() -> None:
    """One of an earlier release."""
    assert line_of(replace(RUN, phase_s=None)) == "run r1: INSTALLING, begun 21.3 s ago"
