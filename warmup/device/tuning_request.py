"""One request of an op to the AutoTuner as a value, and what came of it: captured, looked up, attempted.

Made by `autotuner_seams.py`. The keys are computed by FlashInfer's own (private) functions, so that they
are exactly those under which it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.families.library import AutoTuner, installed_family, private
from ray_warmup.warmup.tasks import freeze


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One request to the AutoTuner, as the op made it: everything needed to run any of its tactics.

    Holds the op's own tensors (also its output buffer), so keep it no longer than needed.
    """

    op: str
    runners: tuple[Any, ...]
    """FlashInfer TunableRunners in FlashInfer's order; the first one's tactic -1 is the default."""
    tuning_config: Any
    """The op's TuningConfig, without the overrides of an `autotune()` context."""
    inputs: list[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)  # a border: arguments of a FlashInfer op

    @property
    def default_runner(self) -> str:
        """Class name of the first runner."""
        return type(self.runners[0]).__name__

    def runner(self, name: str) -> Any:
        """Return the first runner of this class.

        Raises TuningError if the request has none.
        """
        for runner in self.runners:
            if type(runner).__name__ == name:
                return runner
        names = ", ".join(type(runner).__name__ for runner in self.runners)
        raise TuningError(f"{self.op} has no runner {name}; it has {names}", op=self.op, runner=name)

    def run(self, runner: str, tactic: Any, inputs: list[Any] | None = None) -> Any:
        """Run one tactic on the captured inputs, or on others of the same form, and return the runner's result."""
        return self.runner(runner)(inputs=self.inputs if inputs is None else inputs, tactic=tactic, **self.kwargs)

    def file_key(self, runner: Any) -> str:
        """The key under which a table serves this request with that runner."""
        shapes = AutoTuner.get()._get_input_sizes(self.inputs)
        extras = runner.get_cache_key_extras(self.inputs)
        return str(AutoTuner._get_cache_key(self.op, runner, shapes, self.tuning_config, extras).file_key)

    def file_keys(self) -> dict[str, str]:
        """Runner class name -> file key, in FlashInfer's order."""
        return {type(runner).__name__: self.file_key(runner) for runner in self.runners}

    def key_of(self, name: str) -> str:
        """Return the file key with the first runner of this class.

        Raises TuningError if the request has none.
        """
        return self.file_key(self.runner(name))

    def shares_a_key(self) -> bool:
        """Return True if two runners share one file key, which makes a table entry ambiguous."""
        return len({self.file_key(runner) for runner in self.runners}) < len(self.runners)

    def policy(self) -> tuple[Any, ...] | None:
        """The measurement policy that `save_configs` writes as an entry's third column.

        None for a FlashInfer whose entries have two columns.
        """
        if installed_family().entry_width == 2:
            return None
        return tuple(AutoTuner._profiling_policy(self.tuning_config))

    @property
    def tokens(self) -> int:
        """Return the request's number of tokens, or 1 if the op's tuning does not depend on it."""
        specs = self.tuning_config.dynamic_tensor_specs
        if specs:
            return int(self.inputs[specs[0].input_idx[0]].shape[specs[0].dim_idx[0]])
        return 1

    def bucket(self, tokens: int) -> int:
        """The op's own bucket for a number of tokens, as serving rounds it."""
        specs = self.tuning_config.dynamic_tensor_specs
        if specs:
            return int(specs[0].map_to_tuning_buckets(tokens))
        return tokens


@dataclass(frozen=True, slots=True)
class Lookup:
    """The AutoTuner's answer outside of tuning."""

    hit: bool
    runner: str
    tactic: Any
    keys: tuple[str, ...]
    """The file keys that it looked under, in FlashInfer's order."""
    captured: Captured


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One tactic that the AutoTuner is about to time."""

    runner: Any
    tactic: Any
    is_first_runner: bool
    """True if its default tactic serves when nothing is tuned."""
    kwargs: dict[str, Any]  # a border, as above
    batches: list[list[Any]]
    """Input lists; the AutoTuner uses several in turn where the cache of the GPU must be cold."""
    profile: Callable[[Any], float]

    @property
    def runner_name(self) -> str:
        """Class name of the runner."""
        return type(self.runner).__name__

    def flashinfer_s(self) -> float:
        """FlashInfer's own measurement of the tactic, seconds per call."""
        return self.profile(self.tactic) / 1e3

    def run(self) -> Any:
        """Run the tactic once."""
        return self.runner(self.batches[0], tactic=self.tactic, **self.kwargs)

    def with_tactic(self, tactic: Any) -> Attempt:
        """Return the same attempt with another tactic of the runner."""
        return replace(self, tactic=tactic)


@dataclass(slots=True)
class Profiling:
    """State of a `profiled` block.

    `captured` is None until the op has called the AutoTuner.
    """

    captured: Captured | None = None
    out_of_memory: bool = False
    """The AutoTuner gave up for lack of device memory (it does so in silence)."""


def json_tactic(tactic: Any) -> Any:
    """A tactic as the table's JSON has it, with tuples for lists (hashable)."""
    return freeze(private._tactic_to_json(tactic))
