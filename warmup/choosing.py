"""The choice of one tune among a task's measured candidates, and the fixed order of equally fast ones. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ray_warmup.warmup.artifact.table import thaw
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, Measurement


def choose(measurements: Sequence[Measurement], tie_band: float) -> Choice:
    """Choose among the measurements of one task.

    Candidates within `tie_band` (a share) of the fastest are equal. Among them the default tactic comes first, then the
    order of runner name and tactic, so that two tunes of one task agree. Raises ValueError without measurements.
    """
    limit = min(m.median_s for m in measurements) * (1 + tie_band)
    equal = [m for m in measurements if m.median_s <= limit]
    first = min(equal, key=lambda m: (m.tactic != DEFAULT_TACTIC, *order_of(Choice(m.runner, m.tactic))))
    return Choice(first.runner, first.tactic)


def order_of(choice: Choice) -> tuple[str, str]:
    """The fixed order among equals: runner name, then the tactic as JSON."""
    return choice.runner, json.dumps(thaw(choice.tactic))
