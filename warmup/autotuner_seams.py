"""The only place that touches FlashInfer's private seams: which call is tuned, with what time, hit or miss.

    capture_call(fn)    the AutoTuner request of an op call, without running any kernel
    look_up(fn)         what serving would choose for it: hit or miss, runner, tactic
    profiled(...)       every tactic that is timed while `autotune()` tunes one op

Each wraps a method of the process' AutoTuner and restores it on every way out. Written for FlashInfer
0.7.2.post1; `tests/unit/warmup/test_seams.py` pins each signature. One thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from flashinfer.autotuner import AutoTuner
from flashinfer.autotuner import autotuner as private

from warmup.errors import TuningError
from warmup.tasks import freeze

logger = logging.getLogger(__name__)

PINNED_VERSION = "0.7.2.post1"
"""The FlashInfer version whose seams were read."""


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
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def default_runner(self) -> str:
        """Class name of the first runner."""
        return type(self.runners[0]).__name__

    def runner(self, name: str) -> Any:
        """The first runner of this class; TuningError when the request has none."""
        for runner in self.runners:
            if type(runner).__name__ == name:
                return runner
        names = ", ".join(type(runner).__name__ for runner in self.runners)
        raise TuningError(f"{self.op} has no runner {name}; it has {names}", op=self.op, runner=name)

    def run(self, runner: str, tactic: Any, inputs: list[Any] | None = None) -> Any:
        """Run one tactic on the captured inputs (or on others of the same form); the runner's own return value."""
        return self.runner(runner)(inputs=self.inputs if inputs is None else inputs, tactic=tactic, **self.kwargs)

    def file_key(self, runner: Any) -> str:
        """The key under which a table serves this request with that runner."""
        shapes = AutoTuner.get()._get_input_sizes(self.inputs)
        extras = runner.get_cache_key_extras(self.inputs)
        return str(AutoTuner._get_cache_key(self.op, runner, shapes, self.tuning_config, extras).file_key)

    def file_keys(self) -> dict[str, str]:
        """Runner class name -> file key, in FlashInfer's order."""
        return {type(runner).__name__: self.file_key(runner) for runner in self.runners}

    def shares_a_key(self) -> bool:
        """Whether two runners have one file key: a table could not say which of them it means."""
        return len({self.file_key(runner) for runner in self.runners}) < len(self.runners)

    def policy(self) -> tuple[Any, ...]:
        """The measurement policy that `save_configs` writes as an entry's third column."""
        return tuple(AutoTuner._profiling_policy(self.tuning_config))

    def bucket(self, tokens: int) -> int:
        """The op's own bucket for a number of tokens, as serving rounds it."""
        specs = self.tuning_config.dynamic_tensor_specs
        return int(specs[0].map_to_tuning_buckets(tokens)) if specs else tokens


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the AutoTuner answers outside of tuning."""

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
    kwargs: dict[str, Any]
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
        """The same for another tactic of the runner."""
        return Attempt(self.runner, tactic, self.kwargs, self.batches, self.profile)


@dataclass(slots=True)
class Profiling:
    """What `profiled` saw. `captured` is None until the op has asked the AutoTuner."""

    captured: Captured | None = None
    out_of_memory: bool = False
    """The AutoTuner gave up for lack of device memory (it does so in silence)."""


class _Answered(BaseException):
    """Ends an op call once the AutoTuner has answered; not an Exception, so that no op catches it."""


def capture_call(fn: Callable[[], Any], op: str | None = None) -> Captured:
    """The first request that `fn` makes to the AutoTuner (for `op`, when given); no kernel of that op runs.

    Raises TuningError when `fn` returns without such a request.
    """
    found: list[Captured] = []

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        if op is not None and request.op != op:
            return original()
        found.append(request)
        raise _Answered

    with _choices(choose), suppress(_Answered):
        fn()
    if not found:
        raise TuningError(f"the call never asked the AutoTuner for {op or 'any op'}", op=op or "")
    return found[0]


def look_up(fn: Callable[[], Any], op: str) -> Lookup:
    """What the AutoTuner answers when `fn` asks it for `op`, outside every `autotune()` context.

    Raises TuningError when `fn` does not ask, or while tuning is on.
    """
    if AutoTuner.get().is_tuning_mode:
        raise TuningError(f"{op} cannot be looked up inside an autotune() context", op=op)
    found: list[Lookup] = []
    searches: list[tuple[bool, int, Any]] = []

    def search(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        searches.append((bool(answer[0]), int(answer[1]), answer[2]))
        return answer

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        searches.clear()
        runner, tactic = original()
        if request.op != op:
            return runner, tactic
        hit = bool(searches) and searches[-1][0]
        keys = tuple(request.file_keys().values())
        found.append(Lookup(hit, type(runner).__name__, json_tactic(tactic), keys, request))
        raise _Answered

    with _replaced("search_cache", search), _choices(choose), suppress(_Answered):
        fn()
    if not found:
        raise TuningError(f"the call never asked the AutoTuner for {op}", op=op)
    return found[0]


@contextmanager
def forced(op: str, runner: str, tactic: Any) -> Iterator[None]:
    """Let every request for `op` in the block be answered with this runner and tactic; other ops keep their own."""

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        return (request.runner(runner), tactic) if request.op == op else original()

    with _choices(choose):
        yield


@contextmanager
def profiled(op: str, time_tactic: Callable[[Attempt], float]) -> Iterator[Profiling]:
    """While the block tunes, let `time_tactic` give the seconds of every tactic of `op`.

    The block ends (as if the call had returned) once the AutoTuner has answered for `op`; other ops of the
    same call keep their default. `time_tactic` may raise: the AutoTuner then skips the tactic.
    """
    seen = Profiling()

    def profile(
        original: Callable[..., float], runner: Any, inputs: Any, tactic: Any, config: Any, **rest: Any
    ) -> float:
        batches = rest.pop("input_tensor_batches", None) or [inputs]

        def ms_of(other: Any) -> float:
            return original(runner, inputs, other, config, input_tensor_batches=batches, **rest)

        return time_tactic(Attempt(runner, tactic, rest, batches, ms_of)) * 1e3

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        if request.op != op:
            return request.runners[0], -1
        seen.captured = request
        original()
        raise _Answered

    with _replaced("_profile_single_kernel", profile), _choices(choose), _watched_memory(seen), suppress(_Answered):
        yield seen


def tuned_keys(op: str) -> set[str]:
    """File keys of the winners of `op` that the AutoTuner holds in memory."""
    return {str(key.file_key) for key in AutoTuner.get().profiling_cache if key.custom_op == op}


def metadata() -> dict[str, str]:
    """The seven fields that FlashInfer writes into a table made by this process."""
    return {name: str(value) for name, value in private._collect_metadata().items()}


def json_tactic(tactic: Any) -> Any:
    """A tactic as the table's JSON has it, with tuples for lists (hashable)."""
    return freeze(private._tactic_to_json(tactic))


@contextmanager
def _choices(choose: Callable[[Callable[..., Any], Captured], Any]) -> Iterator[None]:
    """Let `choose(original, request)` answer every `choose_one`."""

    def wrapper(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        op, runners, config, inputs, rest = _request(*args, **kwargs)
        request = Captured(op, tuple(runners), config, list(inputs), rest)
        return choose(lambda: original(*args, **kwargs), request)

    with _replaced("choose_one", wrapper):
        yield


def _request(
    custom_op: str, runners: Any, tuning_config: Any, inputs: Any, **kwargs: Any
) -> tuple[str, Any, Any, Any, dict[str, Any]]:
    return custom_op, runners, tuning_config, inputs, kwargs


@contextmanager
def _replaced(name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Replace one method of the process' AutoTuner by `wrapper(original, ...)`; restored on every way out."""
    tuner = AutoTuner.get()
    original = getattr(tuner, name)
    before = tuner.__dict__.get(name)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(tuner, name, replacement)
    try:
        yield
    finally:
        if before is None:
            delattr(tuner, name)
        else:
            setattr(tuner, name, before)


@contextmanager
def _watched_memory(seen: Profiling) -> Iterator[None]:
    """Notice that the AutoTuner ran out of memory: only then does it empty torch's cache."""
    original = torch.cuda.empty_cache

    def replacement() -> None:
        seen.out_of_memory = True
        original()

    torch.cuda.empty_cache = replacement
    try:
        yield
    finally:
        torch.cuda.empty_cache = original
