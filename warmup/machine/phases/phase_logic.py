"""Base of every phase, and steps that most phases share."""

from __future__ import annotations

from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import Commands, Run
from ray_warmup.warmup.messages.answers import Answer


class PhaseLogic:
    """One phase: what it asks for on entry, and what it does with answers, deaths and replacements."""

    phase: Phase

    def enter(self, run: Run) -> Commands:
        """Return the first commands, or none if there is nothing to do."""
        raise NotImplementedError(f"{type(self).__name__} must say what it asks for")

    def more(self, run: Run) -> Commands:
        """Some time has passed: the rest of what was too much for one step."""
        return []

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        """A call was answered."""
        return []

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        """Return the commands after a call raised, or None to fail the run."""
        return None

    def adopted(self, run: Run, adopt: Adopt) -> Commands:
        """An artifact was taken over."""
        return []

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        """Return the commands that other ranks take over from a dead rank with these calls in flight."""
        return []

    def joined(self, run: Run, rank: int) -> Commands:
        """Return the commands that a fresh process still owes after its probe."""
        return []

    def refusal(self, run: Run) -> str | None:
        """Return why the run ends after this phase, or None to go on."""
        return None

    def is_complete(self, run: Run) -> bool:
        """Nothing in flight and nobody missing."""
        return not run.calls and run.all_alive
